"""The nodes of a cluster that is not this machine alone: the code that they run, and what they see.

The driver's code travels, so that a node runs this version and no other: neither what is installed
there, nor what lies in the driver's working directory.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import socket
from pathlib import Path
from typing import Any

from moe.train.run_folder import Storage
from orchestrator.base.checkpoint_place import CheckpointPlace
from orchestrator.base.errors import BadInput
from orchestrator.base.provenance import CODE

_MARKERS = "launches"
_ANSWER_S = 120.0


def stage_code(folder: Path) -> None:
    """The project's packages, as Ray's `working_dir`: where a worker imports from first."""
    for package in CODE:
        root = Path(importlib.util.find_spec(package).origin).parent
        shutil.copytree(
            root, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )


def mark(place: CheckpointPlace, identity: str) -> str:
    """Name of a file that only those who see this very place can read. Kept with the launch."""
    name = f"{_MARKERS}/{hashlib.sha256(f'{socket.gethostname()}/{identity}'.encode()).hexdigest()}"
    Storage.at(place.root).write(name, b"moe-study")
    return name


def require_shared(place: CheckpointPlace, marker: str | None, *, driver_node: str | None) -> None:
    """Raises ValueError where this node's `place` is not the driver's."""
    import ray

    if marker is None or ray.get_runtime_context().get_node_id() == driver_node:
        return
    try:
        Storage.at(place.root).read(marker)
    except (OSError, ValueError) as error:
        raise ValueError(
            "trials keep their checkpoints where every node sees them; node "
            f"{socket.gethostname()} does not see what the driver wrote to {place.name} "
            f"({place.without_secrets(error)}). "
            "Name a place that all nodes share with --checkpoint-uri, or mount it there."
        ) from None


def other_nodes() -> list[dict[str, Any]]:
    """Live nodes beside the driver's that could run a trial."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return [
        node
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and node["Resources"].get("CPU")
    ]


def require_place_on_nodes(place: CheckpointPlace, marker: str) -> None:
    """Asks every node whether it can use the place. Raises BadInput with the first no."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def check() -> None:
        require_shared(place, marker, driver_node=None)
        place.write_probe()

    remote = ray.remote(num_cpus=0, max_retries=0)(check)
    asked = [
        remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in other_nodes()
    ]
    for answer in asked:
        try:
            ray.get(answer, timeout=_ANSWER_S)
        except ray.exceptions.RayTaskError as error:
            raise BadInput(place.without_secrets(error.cause)) from None
        except ray.exceptions.RayError:
            continue  # a node that was lost meanwhile, or is slow: its trials ask again
