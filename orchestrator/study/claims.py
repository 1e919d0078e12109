"""What a study claims, as pure data; `orchestrator.report.verdicts` judges it.

A claim speaks of cells by name. Differences are a minus b, paired by seed, in the metric's unit;
for the loss that is nats a token, so a margin of log(1.01) is 1% of perplexity.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moe.config.checks import require
from moe.metrics import VAL_LOSS, describe, metric_named

# The measures that `moe-study analyze` gives with a null, and the column of the null's mean.
NULL_MEAN = {"nmi": "nmi_null_mean", "conditional_information": "conditional_null_mean"}


def _require_cells(claim_id: str, *cells: str) -> None:
    require(
        all(isinstance(cell, str) and cell for cell in cells) and len(set(cells)) == len(cells),
        f"claim {claim_id} compares different cells, each by its name",
        cells,
        "Name two or more cells of the study.",
    )


def _require_metric(claim_id: str, metric: str, directed: bool) -> None:
    found = metric_named(metric, f"claim {claim_id} needs a metric of moe.metrics")
    if directed:
        found.require_direction(
            f"claim {claim_id} says which cell is better, so its metric needs a direction (or make "
            "it Equivalent)"
        )


def _require_positive(claim_id: str, name: str, value: float) -> None:
    require(
        isinstance(value, float | int) and math.isfinite(value) and value > 0,
        f"claim {claim_id}: {name} must be a positive number in the metric's unit",
        value,
        "log(1.01) is 1% of perplexity.",
    )


def lower_is_better(metric: str) -> bool:
    """Which way a directed metric improves, as `moe.metrics` has it."""
    return describe(metric).better == "lower"


@dataclass(frozen=True, kw_only=True)
class Claim(ABC):
    """One sentence that gets a verdict. All checks of its fields raise ValueError."""

    id: str
    statement: str

    def __post_init__(self) -> None:
        require(bool(self.id), "a claim needs an id", self.id, "C1, C2, ... is usual.")
        require(bool(self.statement), f"claim {self.id} needs a statement", self.statement, "Add.")

    @property
    @abstractmethod
    def cells(self) -> tuple[str, ...]:
        """Every cell that the claim needs, so that a study can check that it has them."""

    @property
    def compared(self) -> tuple[tuple[str, ...], ...]:
        """Groups of cells whose values are set against each other: each needs one corpus."""
        return (self.cells,)


def measured_by(claim: Claim, metric: Callable[[str], str]) -> Claim:
    """The claim with every metric that it or a part of it names replaced."""
    changed: dict[str, Any] = {}
    if isinstance(claim, All):
        changed["parts"] = tuple(measured_by(part, metric) for part in claim.parts)
    elif (name := getattr(claim, "metric", None)) is not None:
        changed["metric"] = metric(name)
    return dataclasses.replace(claim, **changed)


@dataclass(frozen=True, kw_only=True)
class Better(Claim):
    """Cell a is better than cell b, by more than `by` (in the metric's own better direction).

    `of_interest` is the gain beyond `by` that is worth finding: what `plan` tells the power at (1%
    of perplexity where a loss names none). No verdict reads it.
    """

    a: str
    b: str
    metric: str = VAL_LOSS
    by: float = 0.0
    of_interest: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_cells(self.id, self.a, self.b)
        _require_metric(self.id, self.metric, directed=True)
        if self.by != 0:
            _require_positive(self.id, "by", self.by)
        if self.of_interest is not None:
            _require_positive(self.id, "of_interest", self.of_interest)

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.a, self.b)


@dataclass(frozen=True, kw_only=True)
class NotBetter(Claim):
    """Cell a is not better than cell b by `margin` or more (it may be worse): non-superiority."""

    a: str
    b: str
    margin: float
    metric: str = VAL_LOSS

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_cells(self.id, self.a, self.b)
        _require_metric(self.id, self.metric, directed=True)
        _require_positive(self.id, "margin", self.margin)

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.a, self.b)


@dataclass(frozen=True, kw_only=True)
class Equivalent(Claim):
    """Cells a and b differ by less than `margin`, either way."""

    a: str
    b: str
    margin: float
    metric: str = VAL_LOSS

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_cells(self.id, self.a, self.b)
        _require_metric(self.id, self.metric, directed=False)
        _require_positive(self.id, "margin", self.margin)

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.a, self.b)


@dataclass(frozen=True, kw_only=True)
class Ordered(Claim):
    """A trend: each cell is better than the next, so that every neighbouring step must hold."""

    best_to_worst: tuple[str, ...]
    metric: str = VAL_LOSS
    of_interest: float | None = None  # of every step, as Better has it

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.best_to_worst) >= 2,
            f"claim {self.id} orders at least two cells",
            self.best_to_worst,
            "Name them from best to worst.",
        )
        _require_cells(self.id, *self.best_to_worst)
        _require_metric(self.id, self.metric, directed=True)
        if self.of_interest is not None:
            _require_positive(self.id, "of_interest", self.of_interest)

    @property
    def cells(self) -> tuple[str, ...]:
        return self.best_to_worst

    @property
    def steps(self) -> tuple[Better, ...]:
        pairs = zip(self.best_to_worst, self.best_to_worst[1:], strict=False)
        return tuple(
            Better(
                id=f"{self.id}.{i}",
                statement=f"{a} beats {b}",
                a=a,
                b=b,
                metric=self.metric,
                of_interest=self.of_interest,
            )
            for i, (a, b) in enumerate(pairs, start=1)
        )


@dataclass(frozen=True, kw_only=True)
class All(Claim):
    """A compound: it holds where every part holds, and falls with any one."""

    parts: tuple[Claim, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        ids = [part.id for part in self.parts]
        require(
            len(ids) >= 2 and len(set(ids)) == len(ids),
            f"claim {self.id} joins at least two parts with different ids",
            ids,
            f"Call them {self.id}.token and {self.id}.sequence, for instance.",
        )

    @property
    def cells(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell for part in self.parts for cell in part.cells))

    @property
    def compared(self) -> tuple[tuple[str, ...], ...]:
        return tuple(group for part in self.parts for group in part.compared)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one design choice does: the mean over `pairs` of (a minus b).

    The mean is signed, so orient all pairs alike (for instance sequence minus token). A mean of
    absolute values would credit a choice without effect with the size of its noise.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        require(bool(self.name), "an effect needs a name", self.name, "Name the choice.")
        require(
            len(self.pairs) >= 1,
            f"effect {self.name} needs at least one pair of cells",
            self.pairs,
            "Add (a, b).",
        )
        for pair in self.pairs:
            _require_cells(self.name, *pair)

    @property
    def cells(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell for pair in self.pairs for cell in pair))


@dataclass(frozen=True, kw_only=True)
class LargerEffect(Claim):
    """One choice moves the metric more, in absolute size, than each of some others does."""

    effect: Effect
    than: tuple[Effect, ...]
    metric: str = VAL_LOSS

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [self.effect.name, *(other.name for other in self.than)]
        require(
            len(names) >= 2 and len(set(names)) == len(names),
            f"claim {self.id} compares one effect with others of different names",
            names,
            "Add effects to `than`.",
        )
        _require_metric(self.id, self.metric, directed=False)

    @property
    def cells(self) -> tuple[str, ...]:
        effects = (self.effect, *self.than)
        return tuple(dict.fromkeys(cell for effect in effects for cell in effect.cells))

    @property
    def compared(self) -> tuple[tuple[str, ...], ...]:
        return tuple(pair for effect in (self.effect, *self.than) for pair in effect.pairs)


@dataclass(frozen=True, kw_only=True)
class Specialises(Claim):
    """Experts of a cell go with labels: the measure minus its null lies between two thresholds.

    The sample of a seed is the mean over layers of (`measure` - its null's mean) in the rows of
    `moe-study analyze`, minus the same of the `control` cell (a random router) where one is named.
    `measure` is nmi, or conditional_information (nats) for what goes beyond the word.
    `labels` are the names that these labels go by: the kind of a `corpus:` probe, the label column
    of a `table:` probe, "syntax" for `conllu:`. `at_most` makes a claim of weak specialisation.
    """

    cell: str
    labels: tuple[str, ...]
    at_least: float
    at_most: float | None = None
    control: str | None = None
    measure: str = "nmi"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_cells(self.id, *self.cells)
        require(
            self.measure in NULL_MEAN,
            f"claim {self.id} needs a measure that has a null",
            self.measure,
            f"Choose one of {', '.join(NULL_MEAN)}.",
        )
        require(
            isinstance(self.labels, tuple) and len(self.labels) >= 1,
            f"claim {self.id} names its labels in a tuple",
            self.labels,
            'Write ("topic",), for instance.',
        )
        bounds = (self.at_least,) if self.at_most is None else (self.at_least, self.at_most)
        require(
            all(math.isfinite(bound) for bound in bounds) and list(bounds) == sorted(set(bounds)),
            f"claim {self.id} needs finite thresholds, at_least below at_most",
            bounds,
            "0 is the null itself.",
        )

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.cell,) if self.control is None else (self.cell, self.control)

    @property
    def compared(self) -> tuple[tuple[str, ...], ...]:
        """None: a measure of specialisation is of the probe's text, the same for all cells."""
        return ()
