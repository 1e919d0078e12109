"""An MLflow run that came to its end in another store, as it travels between homes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """Times in milliseconds since 1970; `datasets` by the fields of MLflow's `Dataset`.

    `points` are (metric, value, timestamp, step), as a store took them.
    """

    name: str
    status: str
    start_ms: int
    end_ms: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    datasets: list[dict[str, Any]]
    points: list[tuple[str, float, int, int]] = field(default_factory=list)
