"""Which files of a finished run's folder are kept beside its numbers, and where MLflow has them."""

from __future__ import annotations

from pathlib import Path

from moe.train.run_folder import LOSSES_FILE, ROUTING_FILE

# File -> folder among the run's artifacts.
KEPT = {ROUTING_FILE: "routing", LOSSES_FILE: "evaluation"}


def artifacts_in(folder: Path) -> list[tuple[str, str]]:
    """Path and artifact folder of those that a run left: a dense model has no routing."""
    return [(str(folder / name), to) for name, to in KEPT.items() if (folder / name).is_file()]
