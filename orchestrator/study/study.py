"""What a study file states: a question, a baseline, what moves, what is held fixed, claims."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moe.config import ConfigError, TrainConfig, TrialConfig
from moe.metrics import VAL_LOSS, Metric, describe, metric_named
from orchestrator.study.claims import Claim
from orchestrator.study.comparability import Evaluated, comparisons, unlike
from orchestrator.study.constraints import Constraint, as_constraints
from orchestrator.study.design import Design, Fixed, Sequential
from orchestrator.study.early_stopping import StoppingRule
from orchestrator.study.ladder_rules import checked_ladder
from orchestrator.study.objectives import require_objectives
from orchestrator.study.samplers import as_sampler
from orchestrator.study.study_fields import (
    LADDER_POINTS,
    require_ladder_points_of_one,
    require_searched,
    require_types,
)
from orchestrator.study.tuning_rules import Tune, checked_axes, checked_tuning
from search_spaces.cells import Cell
from search_spaces.domains import Domain
from search_spaces.space import Space

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Study:
    """One question, as a short file of `studies/` states it.

    A grid study has `cells`, a sampled study a `space` and a number of `trials` (points, each with
    all its seeds). Both may be functions of the scale's base config, so that sizes are derived.
    `nuisance` are axes that are tuned within each design and never themselves the answer, such as
    the learning rate: drawn like those of the space, while `recommend` sets designs against each
    other at each one's own best.
    `tune` (path of `optim` -> values, or a function of the scale's config that returns that) gives
    each cell of a grid its own: it is tried with every combination on `tune_seeds`, which are never
    judged, and its seeds are trained with the best by `metric` on validation. A cell that sets such
    a path itself says what it is to have, and keeps it.
    `warm_start`: the sampler is told of earlier launches of the home that searched the same axes,
    at any scale; none of their trials counts as one of this study.
    `ladder` are scales, the small one first: the lowest is searched, and each other trains the best
    `ladder_points` points of the one below it, to their end and with its own seeds.
    `first` are points (path -> value) known to be good, tried before any is drawn.
    `prior` has values, by axis, that are believed to be good: a belief that data overcome.
    `scale_seeds` are the seeds of scales that need others than `seeds`. `metric` is one of
    moe.metrics that has a direction: what tables show, searches improve and stopping goes by, as it
    is after the last step. `published` holds the numbers of a paper: cell -> corpus -> perplexity.
    `constraints` bound other metrics: a point that violates one is never the best, and samplers
    learn to leave such points.
    `objectives` are what a sampled study improves at once: metrics, of which the first is `metric`,
    and figures of the config such as "flops_per_token".
    `design` says on how many seeds the claims are judged, and how often: Fixed, or Sequential.
    `sampler` draws the points of a sampled study: a name of `study.samplers`, of which "auto"
    chooses one by the size of the launch, or a sampler of Optuna's.
    """

    name: str
    question: str
    baseline: str
    held_fixed: str
    scales: Mapping[str, TrialConfig]
    cells: Sequence[Cell] | Callable[[TrialConfig], Sequence[Cell]] | None = None
    space: Space | Callable[[TrialConfig], Space] | None = None
    nuisance: Mapping[str, Domain] = field(default_factory=dict)
    tune: Tune = field(default_factory=dict)
    tune_seeds: tuple[int, ...] = ()  # tuning_rules.TUNE_SEEDS where it tunes
    trials: int = 0
    warm_start: bool = False
    ladder: tuple[str, ...] = ()
    ladder_points: int = LADDER_POINTS
    first: Sequence[Mapping[str, Any]] = ()
    prior: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1)
    scale_seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    default_scale: str = "smoke"
    metric: str = VAL_LOSS
    constraints: Sequence[Constraint] = ()
    objectives: tuple[str, ...] = ()
    sampler: Any = "auto"
    early_stopping: StoppingRule | None = None
    claims: tuple[Claim, ...] = ()
    design: Design = field(default_factory=Fixed)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if type(self.name) is not str or not NAME.fullmatch(self.name):
            raise ValueError(
                "a study's name is letters, digits, '-' and '_', at most 64 of them; received "
                f"{self.name!r}. Rename it."
            )
        require_types(self)
        if (self.cells is None) == (self.space is None):
            raise ValueError(
                f"study {self.name} must have either cells (a grid) or a space (sampled); received "
                f"{'neither' if self.cells is None else 'both'}. Give one of the two."
            )
        if self.space is not None and self.trials < 1:
            raise ValueError(
                f"sampled study {self.name} must state how many trials, 1 at least; received "
                f"{self.trials}. Set trials=20."
            )
        if not isinstance(self.nuisance, Mapping):
            raise ValueError(
                "nuisance maps paths to domains, as a space does; received "
                f'{self.nuisance!r} of study {self.name}. Write nuisance={{"optim.learning_rate": '
                "Float(low=1e-3, high=1e-2, log=True)}."
            )
        if not isinstance(self.prior, Mapping) or (self.prior and self.space is None):
            raise ValueError(
                "prior maps axes of a sampled study to values that are believed to be good; "
                f'received {self.prior!r} of study {self.name}. Write prior={{"moe.top_k": 2}}, or '
                "leave it out."
            )
        if self.ladder != ():
            rungs = checked_ladder(
                self.ladder,
                self.ladder_points,
                study=self.name,
                scales=self.scales,
                is_sampled=self.space is not None,
            )
            object.__setattr__(self, "ladder", rungs)
        require_ladder_points_of_one(self)
        if not isinstance(self.design, Fixed | Sequential):
            raise ValueError(
                f"a design is Fixed(...) or Sequential(max_seeds=...); received {self.design!r} of "
                f"study {self.name}. Write one of these, or leave it out."
            )
        for point in self.first:
            if not isinstance(point, Mapping) or not all(type(path) is str for path in point):
                raise ValueError(
                    f"first holds points, each a dict of values by axis; received {point!r}. Write "
                    'for example first=[{"moe.top_k": 2}].'
                )
        if self.objectives != ():
            self._take_objectives()
        what = f"study {self.name} is judged by a metric of moe.metrics"
        measure = metric_named(self.metric, what)
        measure.require_direction(what)
        if measure.is_of_test:
            raise ValueError(
                "searches, early stopping and curves go by a study's metric, and nothing goes by "
                f"the test split; received {self.metric!r} of study {self.name}. Set "
                f"metric={self.metric.replace('test/', 'val/', 1)!r}: where data.test_fraction "
                "holds out a test, tables and claims are on it."
            )
        try:
            object.__setattr__(self, "constraints", as_constraints(self.constraints))
        except ValueError as error:
            raise ValueError(f"study {self.name}: {error}") from None
        if self.objectives and self.constraints:
            raise ValueError(
                "constraints bound a search of one objective; received "
                f"{', '.join(map(str, self.constraints))} beside the objectives "
                f"{', '.join(self.objectives)} of study {self.name}. Make what is bounded an "
                "objective, or leave the bounds out."
            )
        for scale in self.scales:
            if type(scale) is not str or not NAME.fullmatch(scale):
                raise ValueError(
                    "a scale's name is letters, digits, '-' and '_', at most 64 of them; received "
                    f"{scale!r}. Rename it."
                )
        try:
            object.__setattr__(self, "sampler", as_sampler(self.sampler))
        except ValueError as error:
            raise ValueError(f"study {self.name}: {error}") from None
        require_searched(self)
        if self.objectives and not self.sampler.takes_objectives:
            raise ValueError(
                f"study {self.name} has the objectives {', '.join(self.objectives)}, and the "
                f'sampler {self.sampler} takes one. Choose "gp", "tpe", "nsga2" or "random".'
            )
        for scale, base in self.scales.items():
            if base.train.seed != TrainConfig.seed:
                raise ValueError(
                    "a scale's config leaves train.seed alone, since a trial's seed is one of the "
                    f"study's; received {base.train.seed} at scale {scale}. Set "
                    f"seeds=({base.train.seed},) in the study."
                )
        if self.default_scale not in self.scales:
            raise ValueError(
                f"default_scale must be one of {', '.join(self.scales)}; received "
                f"{self.default_scale!r}. Choose one of these."
            )
        for seeds in (self.seeds, *self.scale_seeds.values()):
            if not seeds or len(set(seeds)) != len(seeds):
                raise ValueError(
                    f"seeds must be distinct, at least one; received {seeds} of study "
                    f"{self.name}. Write for example (0, 1)."
                )
            if not all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds):
                raise ValueError(
                    f"a seed is a whole number from 0 to 2147483647; received {seeds}. Correct it."
                )
        if unknown := set(self.scale_seeds) - set(self.scales):
            raise ValueError(
                f"scale_seeds names scales of the study, {', '.join(self.scales)}; received "
                f"{', '.join(sorted(unknown))}. Correct it."
            )
        if self.tune or self.tune_seeds != ():
            seeds = checked_tuning(
                self.tune,
                self.tune_seeds,
                study=self.name,
                is_sampled=self.space is not None,
                judged=(self.seeds, *self.scale_seeds.values()),
                design=self.design,
            )
            object.__setattr__(self, "tune_seeds", seeds)

    def _take_objectives(self) -> None:
        """The first becomes `metric`. Raises ValueError where a study cannot have them."""
        try:
            require_objectives(self.objectives)
        except ValueError as error:
            raise ValueError(f"study {self.name}: {error}") from None
        first = self.objectives[0]
        if self.space is None:
            raise ValueError(
                f"objectives are for sampled studies; received them for the grid {self.name}, "
                "whose cells are all run: its table and report have the front of loss and FLOPs. "
                "Leave them out, or give it a space."
            )
        if self.metric not in (VAL_LOSS, first):
            raise ValueError(
                f"the first objective is the metric; study {self.name} has the metric "
                f"{self.metric} and the objectives {', '.join(self.objectives)}. Leave the metric "
                "out, or put it first."
            )
        if self.early_stopping is not None:
            raise ValueError(
                "early stopping ends what is worse at its rungs, by one value: of several "
                "objectives a trial that is behind in one may be on the front, and cost and "
                f"parameters do not change with the steps. Study {self.name} has "
                f"{', '.join(self.objectives)}. Leave early_stopping out, or have one metric."
            )
        if self.warm_start or self.ladder:
            raise ValueError(
                "a warm start and a ladder go by one value; received "
                f"{'a ladder' if self.ladder else 'a warm start'} beside the objectives "
                f"{', '.join(self.objectives)} of study {self.name}. Leave one of them out."
            )
        if self.nuisance:
            raise ValueError(
                "nuisance is for recommend, which sets designs against each other at each one's "
                "own best: of several objectives no point is the best; received "
                f"{', '.join(self.nuisance)} beside the objectives {', '.join(self.objectives)} of "
                f"study {self.name}. Move it into the space, or have one metric."
            )
        object.__setattr__(self, "metric", first)

    def rung_below(self, scale: str) -> str | None:
        """The rung whose best points are run at a scale; None at the lowest, and off the ladder."""
        at = self.ladder.index(scale) if scale in self.ladder else 0
        return self.ladder[at - 1] if at else None

    def rung_above(self, scale: str) -> str | None:
        """Where the best points of a scale go next."""
        at = self.ladder.index(scale) + 1 if scale in self.ladder else len(self.ladder)
        return self.ladder[at] if at < len(self.ladder) else None

    @property
    def measure(self) -> Metric:
        """What `metric` names, with its direction."""
        return describe(self.metric)

    @property
    def is_grid(self) -> bool:
        return self.cells is not None

    def cells_over(self, base: TrialConfig) -> tuple[Cell, ...]:
        """The cells of a grid over one base config; none of a sampled study.

        Raises ConfigError where the study's own function fails, or makes no list of cells.
        """
        if self.cells is None:
            return ()
        cells = tuple(_called(self.cells, base, self.name) if callable(self.cells) else self.cells)
        if not cells or not all(isinstance(cell, Cell) for cell in cells):
            raise ConfigError(
                f"a grid is a list of at least one Cell; received {cells!r} of {self.name}. Write "
                "each as Cell(name=..., overrides={...})."
            )
        names = Counter(cell.name for cell in cells)
        if doubled := {name for name, count in names.items() if count > 1}:
            raise ConfigError(
                f"a cell's name stands once in a study; received {', '.join(sorted(doubled))} "
                f"more than once in {self.name}. Rename one."
            )
        return cells

    def space_over(self, base: TrialConfig) -> Space | None:
        """The space of a sampled study over one base config. Raises ConfigError as `cells_over`."""
        space = _called(self.space, base, self.name) if callable(self.space) else self.space
        if space is not None and not isinstance(space, Space):
            raise ConfigError(
                f"a sampled study's space is a Space; received {space!r} of {self.name}. Write it "
                "as Space(axes={...})."
            )
        if space is None or not self.nuisance:
            return space
        if both := sorted(set(space.axes) & set(self.nuisance)):
            raise ConfigError(
                "an axis is part of the design or tuned within it; received "
                f"{', '.join(both)} of {self.name} as both. Leave it out of the space, or out of "
                "nuisance."
            )
        return dataclasses.replace(space, axes={**space.axes, **self.nuisance})

    def tuned_over(self, base: TrialConfig) -> dict[str, tuple[Any, ...]]:
        """The values that each cell of a grid is tried with, by path; none of a study that tunes
        nothing. Raises ConfigError as `cells_over`, and as `tuning_rules.checked_axes`."""
        if not self.tune:
            return {}
        axes = _called(self.tune, base, self.name) if callable(self.tune) else self.tune
        return checked_axes(axes, self.name)

    def seeds_at(self, scale: str) -> tuple[int, ...]:
        """The replicates of a cell, unless --seeds names others."""
        return self.scale_seeds.get(scale, self.seeds)

    def require_cells_of_claims(self, scale: str) -> None:
        """Raises ConfigError where a claim speaks of a cell that this study does not have."""
        cells = {cell.name for cell in self.cells_over(self.scales[scale])}
        for claim in self.claims:
            if unknown := [name for name in claim.cells if name not in cells]:
                near = difflib.get_close_matches(unknown[0], cells, n=2)
                hint = (
                    f"Did you mean {' or '.join(near)}?" if near else "Add it, or drop the claim."
                )
                raise ConfigError(
                    f"a claim compares cells of its study; claim {claim.id} of {self.name} names "
                    f"{unknown[0]!r}, which is none at scale {scale}. {hint}"
                )

    def require_comparable_claims(self, cells: Sequence[Cell], base: TrialConfig) -> None:
        """Raises ConfigError where a claim sets cells against each other that are evaluated on
        different things."""
        how = {cell.name: Evaluated.of(cell.config(base)) for cell in cells}
        for claim in self.claims:
            for a, b, metric in comparisons(claim):
                if a not in how or b not in how:
                    continue
                if how[a].text != how[b].text:
                    raise ConfigError(
                        "a claim compares cells within a corpus, since a loss on one text says "
                        f"nothing about another; claim {claim.id} of {self.name} compares "
                        f"{a} on {how[a].text}, {b} on {how[b].text}. Compare cells of one corpus, "
                        "or drop the claim."
                    )
                why = unlike(how[a], how[b], metric)
                if why is not None:
                    raise ConfigError(
                        "a claim compares cells that are evaluated alike; claim "
                        f"{claim.id} of {self.name} compares {metric} of {a} and {b}, evaluated on "
                        f"{why}. Set it alike, or drop the claim."
                    )


def _called(make: Callable[[TrialConfig], Any], base: TrialConfig, study: str) -> Any:
    """What a study file derives from its scale; its own failures are the file's, not ours."""
    try:
        return make(base)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"a study derives its points from the scale's config; {study} raised "
            f"{type(error).__name__}: {error}. Mend its {getattr(make, '__name__', 'function')}."
        ) from None
