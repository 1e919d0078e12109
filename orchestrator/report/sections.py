"""The sections of a report that show charts: what is drawn, how to read it, why it is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.report import plotly_charts
from orchestrator.report.figure_data import (
    MOST_SAMPLED,
    CellTrials,
    complete_cells,
    curve_of,
    differences_of,
    interval_of,
    load_of,
    specializations,
    tokens_per_step,
)
from orchestrator.report.figure_labels import curve_label, label_of, probe_name, word_form_note
from orchestrator.report.judge import read_analysis
from orchestrator.report.pareto import pareto_points
from orchestrator.report.records import LaunchRecords


@dataclass(frozen=True, kw_only=True)
class Section:
    """`figures` by name; without any, `missing` says why. `how` tells how to read them.

    `captions` stand above the figures that have one. `steps` holds, by name, what a map shows at
    each evaluation: its label and its values.
    """

    title: str
    how: str = ""
    figures: Mapping[str, plotly_charts.Figure] = field(default_factory=dict)
    missing: str = ""
    captions: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, Any] = field(default_factory=dict)


def chart_sections(launch: LaunchRecords) -> list[Section]:
    """In the order of the page."""
    cells = complete_cells(launch)
    per_step = {cell.name: tokens_per_step(cell.trials, launch.home) for cell in cells}
    by_tokens = bool(cells) and all(per_step.values())
    x_label = "training tokens" if by_tokens else "optimiser step"
    x_of = {name: tokens if by_tokens else 1.0 for name, tokens in per_step.items()}
    return [
        _curves(launch, cells, x_of, x_label),
        _ends(launch, cells),
        _loads(launch, cells, x_of, x_label),
        *_specialization(launch, cells),
        _pareto(launch),
        _importance(launch),
    ]


def _curves(
    launch: LaunchRecords, cells: Sequence[CellTrials], x_of: Mapping[str, Any], x_label: str
) -> Section:
    is_loss = launch.measure.is_loss
    curves = [c for cell in cells if (c := curve_of(cell, x_of[cell.name], is_loss))]
    cut = launch.info.attributes["sampled"] and len(cells) == MOST_SAMPLED
    chart = plotly_charts.curves_chart(
        curves,
        launch.info.attributes.get("baseline"),
        x_label=x_label,
        y_label=curve_label(launch.measure),
        log_scale=is_loss,
    )
    return Section(
        title="Curves",
        how="A line a cell: the mean over its seeds; the band goes from the lowest to the highest "
        "seed. Tap a name to hide it, twice to see it alone."
        + (f" At most the {MOST_SAMPLED} best cells are shown, here and below." if cut else ""),
        figures={"curves": chart} if curves else {},
        missing="No complete trial has a curve yet.",
    )


def _ends(launch: LaunchRecords, cells: Sequence[CellTrials]) -> Section:
    label, reference = label_of(launch.metric), launch.info.attributes.get("baseline")
    differences = differences_of(cells, reference)
    figures = {}
    if cells:
        rows = [interval_of(cell) for cell in cells]
        figures["means"] = plotly_charts.forest_chart(rows, label=label, zero=False)
    if differences:
        figures["differences"] = plotly_charts.forest_chart(
            differences, label=f"difference in {label}", zero=True
        )
    return Section(
        title="Cells at the end of training",
        how="Means with their intervals"
        + (f", and differences from {reference}, paired by seed." if differences else "."),
        figures=figures,
        missing="No trial is complete yet.",
    )


def _loads(
    launch: LaunchRecords, cells: Sequence[CellTrials], x_of: Mapping[str, Any], x_label: str
) -> Section:
    found = [load for cell in cells if (load := load_of(cell, launch.home, x_of[cell.name]))]
    loads = {f"load-{i}": load for i, load in enumerate(found)}
    most = max((float(plotly_charts.load_ratio(load).max()) for load in found), default=0.0)
    ceiling = max(2.0, round(most + 0.05, 1))
    return Section(
        title="Expert load",
        how="How many times an even share each expert gets, by layer. Experts are ranked by their "
        "load over the whole training, in each seed and layer, and averaged by rank: expert 0 of "
        "one seed has nothing to do with expert 0 of another.",
        figures={name: plotly_charts.load_chart(load, ceiling) for name, load in loads.items()},
        missing="No routing arrays of complete mixtures are in this home.",
        captions={name: f"{x.cell} (n = {len(x.load_SEMN)})" for name, x in loads.items()},
        steps={
            name: {
                "at": [f"{x:,.0f} {x_label}" for x in load.x_E],
                "z": plotly_charts.load_ratio(load).round(4).tolist(),
            }
            for name, load in loads.items()
        },
    )


def _specialization(launch: LaunchRecords, cells: Sequence[CellTrials]) -> Iterator[Section]:
    title = "What experts specialise in"
    rows = read_analysis(launch.home, launch.info.name)
    if not rows:
        command = f"moe-study analyze {launch.info.study} --probe corpus:syntax"
        yield Section(title=title, missing=f"Nothing was analysed. To do so: {command}")
    for number, probe in enumerate(dict.fromkeys(row["probe"] for row in rows)):
        of_probe = [row for row in rows if row["probe"] == probe]
        panels = {
            f"specialization-{number}-{i}": panel
            for i, panel in enumerate(specializations(cells, of_probe))
        }
        top = max((plotly_charts.highest(panel) for panel in panels.values()), default=0.0)
        yield Section(
            title=f"{title}: {probe_name(probe)}",
            how="Information that the chosen experts carry about the label, by layer. Blue: "
            "trained, a line through the mean over seeds; orange crosses: a random linear router; "
            f"{word_form_note(of_probe)}.",
            figures={
                name: plotly_charts.specialization_chart(p, top) for name, p in panels.items()
            },
            missing="None of the analysed cells is among the complete ones.",
            captions={name: f"{p.cell} (n = {len(p.nmi_SM)})" for name, p in panels.items()},
        )


def _pareto(launch: LaunchRecords) -> Section:
    points = pareto_points(launch.trials, launch.home, metric=launch.metric)
    front = ", ".join(point.cell for point in points if point.on_front)
    chart = (
        {"pareto": plotly_charts.pareto_chart(points, metric=label_of(launch.metric))}
        if points
        else {}
    )
    return Section(
        title="Quality against compute",
        how="The Pareto front: no other cell reaches as "
        f"{'high' if launch.measure.better == 'higher' else 'low'} a value for as few training "
        "FLOPs. "
        f"On it: {front}. Means over seeds; differences within their intervals decide nothing.",
        figures=chart,
        missing="No complete trial says how many tokens it was trained on.",
    )


def _importance(launch: LaunchRecords) -> Section:
    shares = launch.importances()
    sampled = launch.info.attributes["sampled"]
    return Section(
        title="Importance",
        how="How much of reaching the best trials each parameter explains (PED-ANOVA, as Optuna "
        "Dashboard shows it), over complete trials; a parameter counts where a trial has it.",
        figures={"importance": plotly_charts.importance_chart(shares)} if shares else {},
        missing="Too few complete trials to tell parameters apart."
        if sampled
        else "A grid asks about cells, and its claims and differences answer; shares of "
        "importance are for sampled studies.",
    )
