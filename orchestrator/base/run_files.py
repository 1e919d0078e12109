"""Which files of a finished run's folder are kept beside its numbers, and where MLflow has them."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.json"
ROUTING = "routing.parquet"
LOSSES = "losses.parquet"

# File -> folder among the run's artifacts.
KEPT = {ROUTING: "routing", LOSSES: "evaluation"}


def artifacts_in(folder: Path) -> list[tuple[str, str]]:
    """Path and artifact folder of those that a run left: a dense model has no routing."""
    return [(str(folder / name), to) for name, to in KEPT.items() if (folder / name).is_file()]
