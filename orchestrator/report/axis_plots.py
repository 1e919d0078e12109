"""Print forms of the charts over axes and costs: data in, a matplotlib Figure out.

They show what `axis_charts` and the Pareto chart show on the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from orchestrator.report.figure_frame import (
    COLOURS,
    DASHES,
    GREY,
    Heading,
    add_legend,
    current_style,
    legend_columns,
    new_figure,
    paper_style,
)
from orchestrator.report.figure_labels import last_part, shorten
from orchestrator.report.interactions import Interaction
from orchestrator.report.pareto import Cost, ParetoPoint

_HEIGHT = 2.4
_LEGEND_ROW = 0.14
_BESIDE = 0.06  # between lines at one value of an axis, so that their intervals are told apart


@paper_style()
def interaction_figure(found: Interaction, heading: Heading, *, label: str) -> Figure:
    """A line a value of the one axis, over the values of the other, with intervals."""
    labels = [f"{last_part(found.row_axis)} {shorten(row, 24)}" for row in found.rows]
    legend_rows = math.ceil(len(labels) / legend_columns(labels))
    figure, body = new_figure(heading, height=_HEIGHT + _LEGEND_ROW * (legend_rows - 1))
    ax = body.subplots()
    handles = []
    for i, row in enumerate(found.rows):
        of = [found.intervals[row, column] for column in found.columns]
        x = np.arange(len(of)) + _BESIDE * (i - (len(found.rows) - 1) / 2)
        means = np.array([each.mean for each in of])
        below = [0 if each.low is None else each.mean - each.low for each in of]
        above = [0 if each.high is None else each.high - each.mean for each in of]
        handles.append(
            ax.errorbar(
                x,
                means,
                [below, above],
                color=COLOURS[i % len(COLOURS)],
                linestyle=DASHES[i % len(DASHES)],
                marker="o",
                capsize=2,
                elinewidth=0.8,
                label=labels[i],
            )
        )
    ax.set_xticks(range(len(found.columns)), found.columns)
    ax.set_xlabel(found.column_axis)
    ax.set_ylabel(label)
    add_legend(body, handles)
    return figure


@paper_style()
def pareto_figure(
    points: Sequence[ParetoPoint], heading: Heading, *, label: str, against: Cost, cost_name: str
) -> Figure:
    """A dot a cell, those of the front joined and named."""
    figure, body = new_figure(heading, height=_HEIGHT)
    ax = body.subplots()
    ax.plot([p.spends(against) for p in points], [p.value for p in points], "o", color=GREY)
    for corpus in dict.fromkeys(point.corpus for point in points):
        front = [p for p in points if p.on_front and p.corpus == corpus]
        ax.plot(
            [p.spends(against) for p in front], [p.value for p in front], "-o", color=COLOURS[0]
        )
        for point in front:
            ax.annotate(
                shorten(point.cell, 30),
                (point.spends(against), point.value),
                xytext=(3, 3),
                textcoords="offset points",
                fontsize=5.5,
            )
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.margins(x=0.12 if not current_style().is_narrow else 0.25, y=0.15)
    ax.set_xlabel(cost_name)
    ax.set_ylabel(label)
    return figure


@paper_style()
def parallel_figure(
    dimensions: Sequence[Any], values: Sequence[float], heading: Heading, *, lower_is_better: bool
) -> Figure:
    """A line a trial through its place on every axis; the better the darker. `dimensions` are those
    of `axis_charts.parallel_chart`, the last one the value."""
    import matplotlib

    figure, body = new_figure(heading, height=_HEIGHT)
    ax = body.subplots()
    places = np.stack([_unit(each["values"]) for each in dimensions])
    rank = np.argsort(np.argsort(values if lower_is_better else -np.asarray(values)))
    shade = matplotlib.colormaps["viridis"]
    for trial in np.argsort(-rank):  # the best on top
        share = rank[trial] / max(1, len(values) - 1)
        ax.plot(places[:, trial], color=shade(0.9 * share), linewidth=0.9, alpha=0.8)
    for x, each in enumerate(dimensions):
        ax.axvline(x, color=GREY, linewidth=0.6)
        low, high = min(each["values"]), max(each["values"])
        ticks = each.get("tickvals") or [low, high]
        texts = each.get("ticktext") or [f"{low:.4g}", f"{high:.4g}"]
        for place, text in zip(_unit([low, high, *ticks])[2:], texts, strict=True):
            ax.annotate(
                shorten(text, 16),
                (x, place),
                xytext=(2, 1),
                textcoords="offset points",
                fontsize=5,
            )
    ax.set_xticks(range(len(dimensions)), [shorten(each["label"], 18) for each in dimensions])
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    return figure


def _unit(values: Sequence[float]) -> np.ndarray:
    """From 0 to 1; in the middle where all are equal."""
    x = np.asarray(values, dtype=float)
    span = x.max() - x.min()
    return (x - x.min()) / span if span else np.full(x.shape, 0.5)
