"""What a launch has to draw, found once: figures for print and the report's charts both take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.base.home import Home
from orchestrator.report.figure_data import (
    MOST_SAMPLED,
    CellTrials,
    Curve,
    Interval,
    Load,
    Rows,
    Specialization,
    balance_pairs,
    complete_cells,
    curve_of,
    differences_of,
    interval_of,
    load_of,
    specializations,
    tokens_per_step,
)
from orchestrator.report.figure_labels import curve_label, label_of
from orchestrator.report.interactions import Interaction, interactions
from orchestrator.report.judge import counted
from orchestrator.report.pareto import Cost, ParetoPoint, pareto_points
from orchestrator.report.records import LaunchRecords
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.design import Design

if TYPE_CHECKING:
    from orchestrator.report.front import Front


@dataclass(frozen=True, kw_only=True)
class LaunchData:
    """`home` holds the routing arrays of the runs; `rows` are those of `analyze` for this launch.
    `design` is the study's, where its file is at hand.

    Nothing is found before it is asked for. What is missing is left out, by cell.
    """

    launch: LaunchRecords
    home: Home
    rows: Rows = field(default=(), repr=False)
    design: Design | None = None

    @cached_property
    def cells(self) -> list[CellTrials]:
        return complete_cells(self.launch)

    @property
    def reference(self) -> str | None:
        """The study's baseline."""
        return self.launch.info.attributes.get("baseline")

    @property
    def is_cut(self) -> bool:
        """Whether a sampled study may have more cells than are shown."""
        return self.launch.info.attributes["sampled"] and len(self.cells) == MOST_SAMPLED

    # Over training: tokens where the batch of every cell is known, else steps.

    @cached_property
    def _tokens_per_step(self) -> Mapping[str, float | None]:
        return {cell.name: tokens_per_step(cell.trials, self.home) for cell in self.cells}

    @property
    def _by_tokens(self) -> bool:
        return bool(self.cells) and all(self._tokens_per_step.values())

    @property
    def x_label(self) -> str:
        return "training tokens" if self._by_tokens else "optimiser step"

    def tokens_of_step(self, cell: CellTrials) -> float | None:
        return self._tokens_per_step[cell.name]

    def _x_per_step(self, cell: CellTrials) -> float:
        tokens = self._tokens_per_step[cell.name]
        return tokens if self._by_tokens and tokens else 1.0

    # The metric: curves show a loss as its perplexity.

    @property
    def is_loss(self) -> bool:
        return self.launch.measure.is_loss

    @property
    def value_label(self) -> str:
        return label_of(self.launch.judged_metric)

    @property
    def metric_label(self) -> str:
        """Of the metric that curves are of, with its unit."""
        return label_of(self.launch.metric)

    @property
    def curve_label(self) -> str:
        return curve_label(self.launch.measure)

    @cached_property
    def curves(self) -> list[Curve]:
        found = (curve_of(cell, self._x_per_step(cell), self.is_loss) for cell in self.cells)
        return [curve for curve in found if curve]

    @cached_property
    def intervals(self) -> list[Interval]:
        return [interval_of(cell) for cell in self.cells]

    @cached_property
    def differences(self) -> list[Interval]:
        """From the baseline, paired by seed; none where there is no baseline among the cells."""
        return differences_of(self.cells, self.reference)

    @cached_property
    def pareto(self) -> list[ParetoPoint]:
        return self._points("flops")

    @cached_property
    def pareto_active(self) -> list[ParetoPoint]:
        return self._points("active")

    def _points(self, against: Cost) -> list[ParetoPoint]:
        metric = self.launch.judged_metric
        return pareto_points(self.launch.trials, self.home, metric=metric, against=against)

    @property
    def fronts(self) -> list[tuple[str, Cost, list[ParetoPoint]]]:
        """Name of the chart, what is spent, and a point a cell."""
        return [("pareto", "flops", self.pareto), ("pareto-active", "active", self.pareto_active)]

    @cached_property
    def objective_fronts(self) -> tuple[Front, ...]:
        """Of a search with several objectives, one a corpus."""
        return self.launch.fronts()

    # Axes.

    @property
    def is_search(self) -> bool:
        return bool(self.launch.info.attributes.get("sampled"))

    @cached_property
    def interactions(self) -> list[Interaction]:
        """Two axes at a time; none of a search, which `recommend` tells from a model of it."""
        if self.is_search or self.design is None:
            return []
        return interactions(self.cells, self.design, tuned=self.launch.tuned_paths)

    @cached_property
    def points_by_corpus(self) -> dict[str | None, list[TrialRecord]]:
        """Complete trials of a search."""
        found: dict[str | None, list[TrialRecord]] = {}
        for record in counted(self.launch.trials) if self.is_search else ():
            found.setdefault(record.corpus, []).append(record)
        return found

    # Routers.

    @cached_property
    def loads(self) -> list[Load]:
        found = (load_of(cell, self.home, self._x_per_step(cell)) for cell in self.cells)
        return [load for load in found if load]

    @property
    def balanced_pairs(self) -> list[tuple[Load, Load]]:
        """Loads of cells that differ in their balance loss alone; the one without comes first."""
        loads = {load.cell: load for load in self.loads}
        pairs = balance_pairs(self.cells, tuned=self.launch.tuned_paths)
        return [(loads[a], loads[b]) for a, b in pairs if a in loads and b in loads]

    @property
    def probes(self) -> list[tuple[str, Sequence[Mapping[str, Any]], list[Specialization]]]:
        """Each probe that was analysed, with its rows and a panel a cell."""
        found = []
        for probe in dict.fromkeys(row["probe"] for row in self.rows):
            of_probe = [row for row in self.rows if row["probe"] == probe]
            found.append((probe, of_probe, specializations(self.cells, of_probe)))
        return found
