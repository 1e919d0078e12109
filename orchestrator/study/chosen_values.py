"""What was chosen for each cell of a tuned grid, among what, and how that is told.

It is recorded once with the launch whose cells have it: every driver and reader goes by the record,
whatever becomes of the trials that it was chosen by.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moe.identity import cell_hash
from orchestrator.study.launch import Launch
from search_spaces.cells import Cell

TUNED = "tuned"  # the attribute of a launch, as an Optuna study has it
_NAMED = 8  # cells that a sentence names

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """`mean` of the metric on validation over all tuning seeds; None where one of them came to no
    end, and `why` says so. `violates`: which constraints of the study, and by what mean."""

    values: Values
    mean: float | None
    why: str = ""
    violates: str = ""

    def __str__(self) -> str:
        said = self.why if self.mean is None else f"{self.mean:.4f}"
        return f"{values_text(self.values)}: {said}" + (" (violates)" if self.violates else "")


def best_of(tried: Sequence[Tried], cost: Callable[[float], float]) -> Tried | None:
    """The least `cost` of the mean, of equal ones the first that the study lists. What violates a
    constraint is chosen only where all do. None where no value was trained to its end."""
    ended = [each for each in tried if each.mean is not None]
    allowed = [each for each in ended if not each.violates] or ended
    return min(allowed, key=lambda each: cost(each.mean), default=None)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Of one cell; `of` tells the question, so that an edited cell or list is asked anew."""

    of: str
    values: Values
    tried: tuple[Tried, ...]

    @property
    def mean(self) -> float | None:
        return next((each.mean for each in self.tried if each.values == self.values), None)

    def ends(self) -> Iterator[tuple[str, str, Any]]:
        """Of each number the path, "largest" or "smallest", and the value, where the best is at an
        end of what was tried: one further out may be better. None lies below 0."""
        for path, value in self.values.items():
            listed = [each.values[path] for each in self.tried]
            if all(type(one) in (int, float) for one in listed):
                for which, end in (("largest", max(listed)), ("smallest", min(listed))):
                    if value == end and (which, value) != ("smallest", 0):
                        yield path, which, value


@dataclass(frozen=True, kw_only=True)
class Choices:
    """`launch` is the one that they were made by, on `seeds`; `tokens` and `device_s` what it
    spent. `untuned` are cells that set all of `axes` themselves."""

    launch: str
    metric: str
    axes: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    cells: Mapping[str, Chosen] = field(default_factory=dict)
    untuned: Sequence[str] = ()
    tokens: int = 0
    device_s: float = 0.0

    @property
    def values(self) -> dict[str, Values]:
        """What each cell was given, by its name."""
        return {name: chosen.values for name, chosen in self.cells.items()}

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Choices | None:
        """Of a launch as its record has it; None of one whose cells were not tuned."""
        kept = attributes.get(TUNED)
        if not kept:
            return None
        cells = {
            name: Chosen(
                of=one["of"],
                values=one["values"],
                tried=tuple(Tried(**each) for each in one["tried"]),
            )
            for name, one in kept["cells"].items()
        }
        return cls(**{**kept, "cells": cells})

    def as_json(self) -> dict[str, Any]:
        cells = {
            name: {
                "of": one.of,
                "values": dict(one.values),
                "tried": [{**vars(each), "values": dict(each.values)} for each in one.tried],
            }
            for name, one in self.cells.items()
        }
        return {
            "launch": self.launch,
            "metric": self.metric,
            "axes": {path: list(values) for path, values in self.axes.items()},
            "seeds": list(self.seeds),
            "cells": cells,
            "untuned": list(self.untuned),
            "tokens": self.tokens,
            "device_s": self.device_s,
        }

    def lines(self) -> Iterator[str]:
        """A line a cell, then what was not tuned, then the cautions: at `plan` and `run`."""
        for name, one in self.cells.items():
            rest = "; ".join(str(each) for each in one.tried if each.values != one.values)
            yield (
                f"tuned: {name} has {values_text(one.values)} ({self.metric} {one.mean:.4f} on "
                f"seeds {_listed(self.seeds)}, which are not judged; {rest})"
            )
        if self.untuned:
            yield f"not tuned, since they set it themselves: {_named(self.untuned)}"
        yield from self.cautions()

    def cautions(self) -> Iterator[str]:
        """One line for each end of a list that was the best of cells."""
        found: dict[tuple[str, str, Any], list[str]] = {}
        for name, one in self.cells.items():
            for end in one.ends():
                found.setdefault(end, []).append(name)
        for (path, which, value), names in found.items():
            further = "larger" if which == "largest" else "smaller"
            yield (
                f"the best {path} of {_named(names)} is the {which} that was tried: {value}. A "
                f"{further} one may be better: add it to the study's tune"
            )

    def sentences(self) -> list[str]:
        """Under the table: what every cell was given, among what, by which seeds."""
        among = " and ".join(f"{path} among {_listed(v)}" for path, v in self.axes.items())
        given = [f"{name} {values_text(one.values)}" for name, one in self.cells.items()]
        own = f" Set by the cell itself: {_named(self.untuned)}." if self.untuned else ""
        said = (
            f"Tuned: each cell has the best of {among} by the mean {self.metric} on validation "
            f"over seeds {_listed(self.seeds)}, which are not judged ({self.launch}): "
            f"{_named(given, '; ')}.{own}"
        )
        return [said, *(f"Caution: {line}." for line in self.cautions())]


def question_of(launch: Launch, cell: Cell) -> str:
    """What a choice answers: the cell's configuration as it was before, on its text, and what it is
    tried with on which seeds."""
    config = cell.config(launch.base)
    corpus = launch.corpora.get(config.data.corpus)
    tuned = launch.study.tuned_over(launch.base)
    axes = {path: sorted(values, key=str) for path, values in tuned.items()}
    asked = [
        cell_hash(config),
        corpus.digest if corpus else None,
        axes,
        sorted(launch.study.tune_seeds),
    ]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def values_text(values: Values) -> str:
    return ", ".join(f"{path}={value}" for path, value in values.items())


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _named(names: Sequence[str], separator: str = ", ") -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return separator.join(names[:_NAMED]) + more
