"""Searches that were made, a line each in a file, so that a benchmark of hours can be cut off, goes
on where it was, and compares samplers that were run on different days.

A line is worth what the code was when it was made: another file where a sampler has changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Key:
    problem: str
    sampler: str
    trials: int
    at_once: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`fallbacks` of its points were drawn at random; `suggestion_s` is the CPU time of a draw."""

    regret: float
    fallbacks: int
    suggestion_s: float


class Runs:
    """Of a file, or of this process alone where there is none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[Key, Outcome] = {}
        for line in path.read_text().splitlines() if path and path.exists() else ():
            told = json.loads(line)
            self._known[Key(**told["search"])] = Outcome(**told["outcome"])

    def outcome(self, key: Key, run: Callable[[], Outcome]) -> Outcome:
        if key not in self._known:
            self._known[key] = run()
            if self._path:
                with self._path.open("a") as file:
                    line = {"search": asdict(key), "outcome": asdict(self._known[key])}
                    file.write(json.dumps(line) + "\n")
        return self._known[key]
