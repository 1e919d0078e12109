"""The sections of a report that show charts: what is drawn, how to read it, why it is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.report import plotly_charts
from orchestrator.report.axis_charts import interaction_chart, parallel_chart
from orchestrator.report.curve_choices import curve_choices
from orchestrator.report.figure_data import MOST_SAMPLED
from orchestrator.report.figure_labels import probe_name, word_form_note
from orchestrator.report.launch_data import LaunchData
from orchestrator.report.pareto import NAMES
from orchestrator.report.records import LaunchRecords
from orchestrator.report.rungs import rung_line, rungs_of_launch
from orchestrator.report.text_alternatives import (
    curves_text,
    importance_text,
    interaction_text,
    intervals_text,
    load_text,
    means_text,
    pareto_text,
    specialization_text,
)
from orchestrator.stores.importances import Importance, complete_needed
from orchestrator.study.design import Design


@dataclass(frozen=True, kw_only=True)
class Section:
    """`figures` by name; without any, `missing` says why. `how` tells how to read them.

    `captions` stand above the figures that have one. `steps` holds, by name, what a map shows at
    each evaluation: its label and its values. `curves`: what a reader may choose of them.
    `texts` say what each figure shows; `pictures` stand for it without JavaScript.
    """

    title: str
    how: str = ""
    figures: Mapping[str, plotly_charts.Figure] = field(default_factory=dict)
    missing: str = ""
    captions: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)


def chart_sections(launch: LaunchRecords, design: Design) -> list[Section]:
    """In the order of the page."""
    rows = launch.analysis()
    data = LaunchData(launch=launch, home=launch.home, rows=rows, design=design)
    shares = launch.importances()
    drawn = _pictures(data, shares) if data.cells else {}
    return [
        _curves(data, drawn),
        _ends(data, drawn),
        *_interactions(data, drawn),
        _loads(data, drawn),
        *_specialization(data, drawn),
        *_objectives(data),
        _pareto(data, drawn),
        *_search(data, drawn),
        _importance(launch, shares, drawn),
    ]


def _pictures(data: LaunchData, shares: Mapping[str, Importance]) -> dict[str, str]:
    from orchestrator.report.plain_pictures import pictures  # matplotlib: a second to import

    return pictures(data, shares)


def _curves(data: LaunchData, drawn: Mapping[str, str]) -> Section:
    chart = plotly_charts.curves_chart(
        data.curves,
        data.reference,
        x_label=data.x_label,
        y_label=data.curve_label,
        log_scale=data.is_loss,
    )
    cut = f" At most the {MOST_SAMPLED} best cells are shown, here and below."
    return Section(
        title="Curves",
        how="A line a cell: the mean over its seeds; the band goes from the lowest to the highest "
        "seed; grey: pruned trials. The range is that of the end of training, without cells far "
        "from the others, until another is chosen. Tap a name to hide it, twice to see it alone."
        f"{cut if data.is_cut else ''}",
        figures={"curves": chart} if data.curves else {},
        curves=curve_choices(data) if data.curves else {},
        texts={"curves": curves_text(data.curves, data.curve_label)},
        pictures=drawn,
        missing="No complete trial has a curve yet.",
    )


def _ends(data: LaunchData, drawn: Mapping[str, str]) -> Section:
    label, figures = data.value_label, {}
    if data.cells:
        figures["means"] = plotly_charts.forest_chart(data.intervals, label=label, zero=False)
    if data.differences:
        figures["differences"] = plotly_charts.forest_chart(
            data.differences, label=f"difference in {label}", zero=True
        )
    compared = f", and differences from {data.reference}, paired by seed."
    return Section(
        title="Cells at the end of training",
        how=f"Means with their intervals{compared if data.differences else '.'}",
        figures=figures,
        texts={
            "means": intervals_text(data.intervals, label),
            "differences": intervals_text(data.differences, f"difference in {label}"),
        },
        pictures=drawn,
        missing="No trial is complete yet.",
    )


def _interactions(data: LaunchData, drawn: Mapping[str, str]) -> Iterator[Section]:
    if data.is_search:
        return
    found = {f"interaction-{i}": x for i, x in enumerate(data.interactions)}
    yield Section(
        title="Two axes at a time",
        how="Means of cells that differ in two axes alone, with the intervals of the study's own "
        "test. Lines that are not parallel: what one axis does depends on the other. By how much "
        "stands above each, paired by seed, each interval by itself.",
        figures={name: interaction_chart(each, data.value_label) for name, each in found.items()},
        captions={name: interaction_text(each) for name, each in found.items()},
        texts={name: means_text(each, data.value_label) for name, each in found.items()},
        pictures=drawn,
        missing="No two axes have a complete cell for each pair of their values.",
    )


def _loads(data: LaunchData, drawn: Mapping[str, str]) -> Section:
    loads = {f"load-{i}": load for i, load in enumerate(data.loads)}
    most = max((float(plotly_charts.load_ratio(x).max()) for x in data.loads), default=0.0)
    ceiling = max(2.0, round(most + 0.05, 1))
    return Section(
        title="Expert load",
        how="How many times an even share each expert gets, by layer. Experts are ranked by their "
        "load over the whole training, in each seed and layer, and averaged by rank: expert 0 of "
        "one seed has nothing to do with expert 0 of another.",
        figures={name: plotly_charts.load_chart(load, ceiling) for name, load in loads.items()},
        missing="No routing arrays of complete mixtures are in this home.",
        captions={name: f"{x.cell} (n = {len(x.load_SEMN)})" for name, x in loads.items()},
        texts={name: load_text(x) for name, x in loads.items()},
        pictures=drawn,
        steps={
            name: {
                "at": [f"{x:,.0f} {data.x_label}" for x in load.x_E],
                "z": plotly_charts.load_ratio(load).round(4).tolist(),
            }
            for name, load in loads.items()
        },
    )


def _specialization(data: LaunchData, drawn: Mapping[str, str]) -> Iterator[Section]:
    title = "What experts specialise in"
    if not data.rows:
        command = f"moe-study analyze {data.launch.info.study} --probe corpus:syntax"
        yield Section(title=title, missing=f"Nothing was analysed. To do so: {command}")
    for number, (probe, rows, found) in enumerate(data.probes):
        panels = {f"specialization-{number}-{i}": panel for i, panel in enumerate(found)}
        top = max((plotly_charts.highest(panel) for panel in found), default=0.0)
        yield Section(
            title=f"{title}: {probe_name(probe)}",
            how="Information that the chosen experts carry about the label, by layer. Blue: "
            "trained, a line through the mean over seeds; filled where a seed is above its own "
            "null, open where it is not; orange crosses: a random linear router; "
            f"{word_form_note(rows)}.",
            figures={
                name: plotly_charts.specialization_chart(p, top) for name, p in panels.items()
            },
            missing="None of the analysed cells is among the complete ones.",
            captions={name: f"{p.cell} (n = {len(p.nmi_SM)})" for name, p in panels.items()},
            texts={name: specialization_text(p) for name, p in panels.items()},
            pictures=drawn,
        )


def _objectives(data: LaunchData) -> Iterator[Section]:
    names = data.launch.info.objectives
    if not names:
        return
    from orchestrator.report.front import front_lines
    from orchestrator.report.front_charts import charts_of

    figures, captions, texts = {}, {}, {}
    for i, front in enumerate(data.objective_fronts):
        told = " ".join(front_lines(front))
        for name, (chart, caption) in charts_of(front).items():
            figures[f"{name}-{i}"] = chart
            captions[f"{name}-{i}"] = f"{caption}{f' on {front.corpus}' if front.corpus else ''}"
            texts[f"{name}-{i}"] = told
    yield Section(
        title="The front of the objectives",
        how=f"Points that no other beats in all of {', '.join(names)}: means over seeds, with 95% "
        "intervals where there are several. The hypervolume is the share of the box from the best "
        "value of each to the reference point that the points dominate, over device seconds of all "
        "trials that had ended; the box is that of the end.",
        figures=figures,
        captions=captions,
        texts=texts,
        missing="No trial is complete yet.",
    )


def _pareto(data: LaunchData, drawn: Mapping[str, str]) -> Section:
    label = data.value_label
    return Section(
        title="Quality against compute and size",
        how="The Pareto fronts: no other cell reaches as "
        f"{'high' if data.launch.measure.better == 'higher' else 'low'} a value for as few "
        "training FLOPs, or with as few active parameters. Means over seeds; differences within "
        "their intervals decide nothing.",
        figures={
            name: plotly_charts.pareto_chart(points, metric=label, against=against)
            for name, against, points in data.fronts
            if points
        },
        captions={
            name: f"On the front of {NAMES[against]}: "
            f"{', '.join(point.cell for point in points if point.on_front)}"
            for name, against, points in data.fronts
        },
        texts={name: pareto_text(points, label, cost) for name, cost, points in data.fronts},
        pictures=drawn,
        missing="No complete trial says how many tokens it was trained on.",
    )


def _search(data: LaunchData, drawn: Mapping[str, str]) -> Iterator[Section]:
    if not data.is_search:
        return
    label, measure = data.value_label, data.launch.measure
    figures, captions, texts = {}, {}, {}
    for i, (corpus, records) in enumerate(data.points_by_corpus.items()):
        chart = parallel_chart(records, label=label, lower_is_better=measure.better == "lower")
        if chart is not None:
            name = f"parallel-{i}"
            figures[name] = chart
            captions[name] = f"{len(records)} trials{f' on {corpus}' if corpus else ''}"
            best = min(records, key=lambda r: (bool(r.violates), measure.cost(r.final)))
            texts[name] = (
                f"{len(records)} points of the search; the best, {best.cell}, has "
                f"{best.final:.4f} {label}."
            )
    yield Section(
        title="Points of the search",
        how="A line a complete trial, through its choice on every axis to what it came to; the "
        "better the darker. Drag along an axis to see the trials of that range alone, or the name "
        f"of an axis to move it.{_stopped_early(data.launch)}",
        figures=figures,
        captions=captions,
        texts=texts,
        pictures=drawn,
        missing="Fewer than three complete trials, or than two axes that moved.",
    )


def _stopped_early(launch: LaunchRecords) -> str:
    found, lengths = rungs_of_launch(launch.info.attributes, launch.trials, launch=launch.info.name)
    if not found:
        return ""
    line = rung_line(found, lengths)
    return f" {line[0].upper()}{line[1:]}."


def _importance(
    launch: LaunchRecords, shares: Mapping[str, Importance], drawn: Mapping[str, str]
) -> Section:
    sampled = launch.info.attributes["sampled"]
    missing = "Too few complete trials to tell parameters apart."
    if len(set(launch.info.corpora.values())) > 1:
        missing = "Values on different corpora do not compare, so no share of them is told."
    return Section(
        title="Importance",
        how="How much of reaching the best trials each parameter explains (PED-ANOVA, as Optuna "
        "Dashboard shows it), over complete trials; a parameter counts where a trial has it. "
        f"{_at_best(launch)}{_how_sure(shares)}",
        figures={"importance": plotly_charts.importance_chart(shares)} if shares else {},
        texts={"importance": importance_text(shares)},
        pictures=drawn,
        missing=missing
        if sampled
        else "A grid asks about cells, and its claims and differences answer; shares of "
        "importance are for sampled studies.",
    )


def _at_best(launch: LaunchRecords) -> str:
    if not launch.info.nuisance:
        return ""
    tuned = ", ".join(launch.info.nuisance)
    return f"Of each design only the trials at its best {tuned} count, which has no share itself. "


def _how_sure(shares: Mapping[str, Importance]) -> str:
    if any(of.low is not None for of in shares.values()):
        return "Lines are 95% intervals (a jackknife over eighths of the trials)."
    return (
        f"Too few complete trials for intervals: {complete_needed(len(shares))} carry them."
        if shares
        else ""
    )
