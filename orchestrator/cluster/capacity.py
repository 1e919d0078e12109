"""Whether a cluster can ever hold one trial, what its autoscaler may add counted.

A trial's workers are admitted together or not at all (a placement group), so one that can never fit
would wait for ever: it is refused, with what was asked for and what the cluster can have.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.base.errors import BadInput
from orchestrator.cluster.connection import Resources
from orchestrator.cluster.ray_private import (
    HEAD_RESOURCE,
    autoscaler_reports,
    cluster_config,
    monitor_config,
)

_ANSWER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """Nodes that an autoscaler may start. `resources` is empty where the cloud decides."""

    name: str
    resources: Mapping[str, float]
    most: int


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What an autoscaler may add beside the head; `most` nodes in all."""

    types: tuple[NodeType, ...] = ()
    most: int = 0
    known: bool = True

    def __str__(self) -> str:
        listed = ", ".join(
            f"up to {t.most} of {t.name} with {t.resources.get('CPU', 0):g} CPUs and "
            f"{t.resources.get('GPU', 0):g} GPUs"
            for t in self.types
        )
        return f"its autoscaler can start {self.most} nodes ({listed})" if self.types else ""

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Growth:
        """Of a cluster YAML, as the running autoscaler reads it."""
        head, default = config.get("head_node_type"), config.get("max_workers", 2)
        types = tuple(
            NodeType(
                name=name,
                resources=kind.get("resources") or {},
                most=min(kind.get("max_workers", default), default),
            )
            for name, kind in (config.get("available_node_types") or {}).items()
            if name != head
        )
        return cls(types=tuple(t for t in types if t.most > 0), most=default)


def require_fits(resources: Resources) -> str | None:
    """Raises BadInput where the connected cluster can never hold one trial.

    Returns what is worth saying of a trial that has to wait for nodes.
    """
    import ray

    live = live_nodes()
    if fits(resources, [(node, 1) for node in live]):
        return None
    growth = _growth()
    if not growth.known:
        return (
            f"no node holds {resources} yet, and the autoscaler does not say what it can start: "
            "the trials wait for it"
        )
    heads = [(node, 1) for node in live if HEAD_RESOURCE in node]
    may_come = [(t.resources, t.most) for t in growth.types]
    if fits(resources, heads + may_come, most=len(heads) + growth.most):
        return f"no node holds {resources} yet: the trials wait for the autoscaler"
    total = ray.cluster_resources()
    raise BadInput(
        f"a trial starts only when all its workers fit; asked for {resources}, and the cluster "
        f"has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs on {len(live)} nodes"
        f"{f'; {growth}' if growth.types else ''}. That holds {_held(resources, live, growth)} "
        "such workers. Lower --workers or what each is given, or choose another --placement."
    )


def lacking_line(resources: Resources) -> str | None:
    """What is told of a trial that waits for nodes; None where the cluster's own would hold it."""
    nodes = [(node, 1) for node in live_nodes()]
    if fits(resources, nodes):
        return None
    return (
        f"waiting for nodes: those of the cluster hold {capacity(resources, nodes):g} of the "
        f"{resources.workers} workers of a trial. One was lost, or has yet to join"
    )


def live_nodes() -> list[Mapping[str, float]]:
    """What each node of the connected cluster has, free or not."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def fits(
    resources: Resources,
    nodes: Iterable[tuple[Mapping[str, float], int]],
    *,
    most: float = math.inf,
) -> bool:
    """Whether nodes (each kind with its number), `most` of them together, hold one trial."""
    return capacity(resources, nodes, most=most) >= resources.workers


def capacity(
    resources: Resources,
    nodes: Iterable[tuple[Mapping[str, float], int]],
    *,
    most: float = math.inf,
) -> float:
    """Workers that can be placed at once under the trial's placement."""
    held = sorted(((workers_on(resources.bundle, node), n) for node, n in nodes), reverse=True)
    if resources.placement == "strict_pack":
        return held[0][0] if held else 0
    total, left = 0.0, most
    for workers, count in held:
        used = min(count, left)
        left -= used
        if used:
            each = min(workers, 1) if resources.placement == "strict_spread" else workers
            total += each * used
    return total


def workers_on(bundle: Mapping[str, float], node: Mapping[str, float]) -> float:
    """Bundles on one node; a fraction of a GPU never spans two of them."""
    if not node:
        return math.inf  # the cloud decides what such a node has
    counts = []
    for kind, amount in bundle.items():
        has = node.get(kind, 0)
        if kind == "GPU" and amount < 1:
            counts.append(math.floor(has) * math.floor(1 / amount + 1e-9))
        else:
            counts.append(math.floor(has / amount + 1e-9))
    return min(counts)


def _held(resources: Resources, live: list[Mapping[str, float]], growth: Growth) -> int:
    heads = [(node, 1) for node in live if HEAD_RESOURCE in node]
    grown = heads + [(t.resources, t.most) for t in growth.types]
    return int(
        max(
            capacity(resources, [(node, 1) for node in live]),
            capacity(resources, grown, most=len(heads) + growth.most),
        )
    )


def may_grow() -> bool:
    """Whether the connected cluster may start nodes, or does not say that it cannot."""
    growth = _growth()
    return not growth.known or bool(growth.types)


def _growth() -> Growth:
    """From where a maximum is known: what a platform reported, or the autoscaler's own file.

    An autoscaler that reports, though none runs on the head, is a sidecar of Kubernetes.
    """
    reported = cluster_config()
    if reported is not None and reported.node_group_configs:
        types = tuple(
            NodeType(
                name=group.name,
                resources=dict(group.resources),
                most=group.max_count if group.max_count >= 0 else 1 << 20,
            )
            for group in reported.node_group_configs
        )
        return Growth(types=types, most=sum(t.most for t in types))
    found, config = _read_on_head()
    if config is not None:
        return Growth.of_config(config)
    return Growth(known=found or not autoscaler_reports())


def _read_on_head() -> tuple[bool, dict[str, Any] | None]:
    """Whether Ray's monitor runs on the head node, and the cluster YAML that it scales by."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    head = next((n for n in ray.nodes() if n["Alive"] and HEAD_RESOURCE in n["Resources"]), None)
    if head is None:
        return False, None
    here = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    task = ray.remote(num_cpus=0, scheduling_strategy=here)(monitor_config)
    address = ray.get_runtime_context().gcs_address
    with contextlib.suppress(ray.exceptions.RayError):
        return ray.get(task.remote(address), timeout=_ANSWER_S)
    return False, None
