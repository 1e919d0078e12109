"""Trials whose workers cannot fit the memory that they are given are refused before any starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from moe.memory_fit import gpu_bytes, host_bytes, misfit
from orchestrator.base.errors import BadInput
from orchestrator.cluster.connection import Resources
from orchestrator.study.launch import Launch, Point
from orchestrator.study.plan import typical_points

_ANSWER_S = 60.0


def require_memory(launch: Launch, resources: Resources, most: float | None) -> str | None:
    """Raises BadInput where `most` bytes are too few for a worker of a grid's cell, or of all
    points that were drawn of a search. Returns what is worth saying of a search some points of
    which cannot fit; nothing where it is not known how much there is."""
    if most is None:
        return None
    points = typical_points(launch)
    found = list(_misfits(points, resources, most))
    if not found:
        return None
    cell, reason = found[0]
    if launch.study.is_grid:
        others = f" (so it is with {len(found) - 1} more cells)" if len(found) > 1 else ""
        raise BadInput(f"cell {cell}{others}: {reason}")
    if len(found) == len(points):
        raise BadInput(f"none of {len(points)} points that were drawn fits: {reason}")
    return (
        f"{len(found)} of {len(points)} points that were drawn cannot fit the memory that a worker "
        f"has, and such trials fail: {reason}"
    )


def has_memory(launch: Launch, resources: Resources, most: float | None) -> bool:
    """Whether workers of no trial are known to need more."""
    return most is None or not list(_misfits(typical_points(launch), resources, most))


def _misfits(
    points: Iterable[Point], resources: Resources, most: float
) -> Iterable[tuple[str, str]]:
    where = "the most that a worker has"
    for point in points:
        reason = misfit(
            point.config,
            most,
            device=resources.device,
            workers=resources.workers,
            shard=resources.shard,
            where=where,
        )
        if reason is not None:
            yield point.cell, reason


def memory_here(resources: Resources) -> float | None:
    """What a worker has at the most on this machine, where all workers of a trial run."""
    if resources.device == "cpu":
        return host_bytes() / resources.workers
    found = gpu_bytes()
    return None if found is None else found * min(1.0, resources.gpus_per_worker)


def memory_of_nodes(resources: Resources) -> float | None:
    """The same of the connected cluster's largest node; None where a node with more may yet come,
    or none answers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from orchestrator.cluster.capacity import may_grow, workers_on

    if may_grow():
        return None
    kind = "GPU" if resources.device == "cuda" else "CPU"
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get(kind)]
    ask = gpu_bytes if kind == "GPU" else host_bytes
    # Its process ends with the answer: a look at a GPU takes memory of it.
    remote = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(ask)
    asked = [
        remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in nodes
    ]
    answers = []
    for answer in asked:
        with contextlib.suppress(ray.exceptions.RayError):
            answers.append(ray.get(answer, timeout=_ANSWER_S))
    if len(answers) < len(nodes) or not answers or None in answers:
        return None
    if kind == "GPU":
        return max(answers) * min(1.0, resources.gpus_per_worker)
    # A host is shared by as many workers as it holds.
    return max(
        answer / max(1, min(resources.workers, workers_on(resources.bundle, node["Resources"])))
        for answer, node in zip(answers, nodes, strict=True)
    )
