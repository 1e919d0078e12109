"""The figures themselves: arrays in, a matplotlib Figure out. Nothing here knows of stores.

S seeds, E evaluations, M MoE blocks, N experts, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from orchestrator.report.figure_data import Curve, Interval, Load, Specialization
from orchestrator.report.figure_frame import (
    COLOURS,
    DARK,
    DASHES,
    EVEN,
    GREY,
    PALE,
    Heading,
    add_legend,
    current_style,
    label_outer,
    new_figure,
    paper_style,
    plain_ticks,
)
from orchestrator.report.figure_labels import shorten


@paper_style()
def curves_figure(
    curves: Sequence[Curve],
    reference: Curve | None,
    heading: Heading,
    *,
    x_label: str,
    y_label: str,
    log_scale: bool,
) -> Figure:
    """Curves in panels of few, in the order given, with `reference` in each of them."""
    panels = np.array_split(np.arange(len(curves)), max(1, math.ceil(len(curves) / len(COLOURS))))
    columns = 1 if current_style().is_narrow else min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, body = new_figure(heading, height=2.5 * rows)
    grid = body.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax, members in zip(grid.flat, panels, strict=False):
        if reference is not None:
            _draw_curve(ax, reference, DARK, "--")
        for colour, dash, i in zip(COLOURS, DASHES, members, strict=False):
            _draw_curve(ax, curves[i], colour, dash)
        ax.grid(axis="y", color=PALE, linewidth=0.4)
        ax.legend(loc="upper right")
    if log_scale:
        ax = grid[0, 0]
        ax.set_yscale("log")
        plain_ticks(ax.yaxis, *ax.get_ylim())
    label_outer(grid, len(panels), x_label, y_label)
    return figure


@paper_style()
def forest_figure(
    rows: Sequence[Interval],
    differences: Sequence[Interval],
    heading: Heading,
    *,
    value_label: str,
    difference_label: str,
    as_perplexity: bool,
    kinds: Mapping[str, str] | None = None,
) -> Figure:
    """Each cell's mean with its interval; beside it the difference from the baseline, if any.
    `kinds`: of which kind a row is, each of its own colour and in the legend."""
    panels, narrow = (2 if differences else 1), current_style().is_narrow
    height = 1.35 + 0.2 * len(rows)
    figure, body = new_figure(heading, height=height * (panels if narrow else 1))
    shape = (panels, 1) if narrow else (1, panels)
    axes = body.subplots(*shape, squeeze=False, sharey=True).ravel()
    place = {row.cell: i for i, row in enumerate(rows)}
    named = dict.fromkeys((kinds or {}).values())
    colours = dict(zip(named, (c for c in COLOURS if c != COLOURS[1]), strict=False))
    for ax, shown, label in zip(
        axes, (rows, differences), (value_label, difference_label), strict=False
    ):
        for row in shown:
            _draw_interval(ax, place[row.cell], row, colours.get((kinds or {}).get(row.cell)))
        ax.set_xlabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        ax.grid(axis="y", color=PALE, linewidth=0.4)
    most = 22 if narrow else 40
    names = [f"{shorten(row.cell, most)}  (n = {len(row.values)})" for row in rows]
    axes[0].set_yticks(range(len(rows)), names)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    if differences:
        axes[1].axvline(0, color=GREY, linewidth=0.8, linestyle="--", label="_zero")
        axes[1].tick_params(axis="y", length=0)
        if narrow:
            axes[1].tick_params(axis="y", labelleft=True)
    if as_perplexity:
        above = axes[0].secondary_xaxis("top", functions=(np.exp, lambda x: np.log(abs(x) + 1e-9)))
        above.set_xlabel("perplexity")
        plain_ticks(above.xaxis, *np.exp(axes[0].get_xlim()))
    seeds = Line2D([], [], color=COLOURS[1], marker="o", linestyle="", label="one seed")
    mean = Line2D([], [], color=COLOURS[0], marker="D", label="mean with its 95% t interval")
    kind_marks = [
        Line2D([], [], color=colour, marker="D", label=name) for name, colour in colours.items()
    ]
    means = kind_marks or [mean]
    add_legend(body, [seeds, *means] if any(row.low is not None for row in rows) else [seeds])
    return figure


@paper_style()
def load_figure(loads: Sequence[Load], heading: Heading, *, x_label: str) -> Figure:
    """A panel a block, a line a rank of experts; two cells stand side by side."""
    top = 1.06 * max(float(load.load_SEMN.max()) for load in loads)
    num_layers = max(len(load.layers) for load in loads)
    columns = min(4 if len(loads) == 1 else 2 if num_layers <= 8 else 3, num_layers)
    columns = min(columns, 3 - len(loads)) if current_style().is_narrow else columns
    rows = math.ceil(num_layers / columns)
    figure, body = new_figure(heading, height=0.85 + 1.25 * rows)
    _rank_legend(body, max(load.load_SEMN.shape[3] for load in loads))
    for block, load in zip(body.subfigures(1, len(loads), squeeze=False)[0], loads, strict=True):
        block.suptitle(f"{shorten(load.cell)}  (n = {len(load.load_SEMN)})", fontsize=7.5)
        grid = block.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for m, (ax, layer) in enumerate(zip(grid.flat, load.layers, strict=False)):
            _draw_load(ax, load.x_E, load.load_SEMN[:, :, m])
            ax.set_title(f"layer {layer}", pad=2)
            ax.set_ylim(0, top)
        label_outer(grid, len(load.layers), x_label, "share of assignments")
    return figure


@paper_style()
def specialization_figure(panels: Sequence[Specialization], heading: Heading) -> Figure:
    """A panel a cell: NMI of expert and label in each layer, over its permutation null."""
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    columns = min(columns, 2) if current_style().is_narrow else columns
    rows = math.ceil(len(panels) / columns)
    figure, body = new_figure(heading, height=0.6 + 1.3 * rows)
    grid = body.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax, panel in zip(grid.flat, panels, strict=False):
        draw_specialization(ax, panel)
    grid[0, 0].set_ylim(bottom=0)
    label_outer(grid, len(panels), "layer", "NMI(expert; label)")
    mean = Line2D([], [], color=COLOURS[0], marker="o", linewidth=0.9, label="trained, mean")
    seed = Line2D(
        [], [], color=COLOURS[0], marker="o", linestyle="", alpha=0.4, label="trained, one seed"
    )
    within = Line2D(
        [],
        [],
        color=COLOURS[0],
        marker="o",
        linestyle="",
        markerfacecolor="none",
        label="within its own null",
    )
    several = any(len(panel.nmi_SM) > 1 for panel in panels)
    seeds = [seed, *([within] if any(not p.above_SM.all() for p in panels) else [])]
    handles = [mean, *(seeds if several else []), Patch(color=PALE, label="permutation null, 95%")]
    if any(panel.random_M is not None for panel in panels):
        handles.append(
            Line2D(
                [], [], color=COLOURS[1], marker="x", linestyle=":", label="random linear router"
            )
        )
    add_legend(body, handles)
    return figure


@paper_style()
def assignment_figure(
    share_MNL: np.ndarray, *, layers: Sequence[int], labels: Sequence[str], heading: Heading
) -> Figure:
    """A panel a block, a bar a label, cut at each expert's share P(e | l)."""
    num_blocks, num_experts, num_labels = share_MNL.shape
    columns = min(4, num_blocks)
    rows = math.ceil(num_blocks / columns)
    figure, body = new_figure(heading, height=0.75 + rows * (0.35 + 0.13 * num_labels))
    grid = body.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    colours = expert_colours(num_experts)
    for ax, share_NL, layer in zip(grid.flat, share_MNL, layers, strict=False):
        left_NL = np.cumsum(share_NL, axis=0) - share_NL
        for e in range(num_experts):
            ax.barh(
                np.arange(num_labels),
                share_NL[e],
                left=left_NL[e],
                height=0.8,
                color=colours[e],
                edgecolor="white",
                linewidth=0.4,
                label=str(e),
            )
        for e in range(1, num_experts):
            ax.axvline(e / num_experts, color=DARK, linewidth=0.6, linestyle=EVEN)
        ax.set_yticks(range(num_labels), [shorten(label, 24) for label in labels])
        ax.set_ylim(num_labels - 0.4, -0.6)
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.tick_params(axis="y", length=0)
        ax.set_title(f"layer {layer}", pad=2)
    label_outer(grid, num_blocks, "share of assignments", "")
    handles = [Patch(color=colours[e], label=str(e)) for e in _named(num_experts)]
    handles.append(Line2D([], [], color=DARK, linewidth=0.6, linestyle=EVEN, label="even split"))
    add_legend(body, handles, "expert:")
    return figure


def expert_colours(num_experts: int) -> list:
    """Distinct colours for few experts, else steps of one scale."""
    if num_experts <= len(COLOURS):
        return list(COLOURS[:num_experts])
    return rank_colours(num_experts)


def rank_colours(num_experts: int) -> list:
    """Dark for the most chosen; the pale end of the scale would vanish on white."""
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, num_experts)))


def _named(num_experts: int) -> Sequence[int]:
    """The experts that a legend has room for: of many, points along the scale of colours."""
    few = num_experts <= 8
    return range(num_experts) if few else (0, num_experts // 2, num_experts - 1)


def _draw_curve(ax: Axes, curve: Curve, colour: str, dash: object) -> None:
    name = f"{shorten(curve.cell)} (n = {curve.n})"
    ax.plot(curve.x_E, curve.mean_E, color=colour, linestyle=dash, label=name)
    if curve.low_E is not None:
        ax.fill_between(curve.x_E, curve.low_E, curve.high_E, color=colour, alpha=0.2, linewidth=0)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def _draw_interval(ax: Axes, y: int, row: Interval, colour: str | None) -> None:
    colour = colour or COLOURS[0]
    beside = y + 0.27 if len(row.values) > 1 else y  # what is under the mean is not seen
    ax.plot(
        row.values, [beside] * len(row.values), "o", color=COLOURS[1], markersize=2, label="_seeds"
    )
    if row.low is not None:
        ax.plot([row.low, row.high], [y, y], color=colour, label="_interval")
        ax.plot([row.mean], [y], "D", color=colour, markersize=3.5, label="_mean")


def _draw_load(ax: Axes, x_E: np.ndarray, load_SEN: np.ndarray) -> None:
    num_experts = load_SEN.shape[2]
    thick = 1.4 if num_experts <= 8 else 0.9
    for rank, colour in enumerate(rank_colours(num_experts)):
        if len(load_SEN) > 1:
            for load_EN in load_SEN:
                ax.plot(x_E, load_EN[:, rank], color=colour, linewidth=0.4, alpha=0.45)
        ax.plot(
            x_E, load_SEN[:, :, rank].mean(0), color=colour, linewidth=thick, label=str(rank + 1)
        )
    ax.axhline(1 / num_experts, color=GREY, linewidth=0.7, linestyle=EVEN, label="_even")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))


def _rank_legend(body: SubFigure, num_experts: int) -> None:
    colours = rank_colours(num_experts)
    handles = [
        Line2D([], [], color=colours[rank], label=str(rank + 1)) for rank in _named(num_experts)
    ]
    handles.append(Line2D([], [], color=GREY, linewidth=0.7, linestyle=EVEN, label="even"))
    add_legend(body, handles, "expert by its load, from the most chosen:")


def draw_specialization(ax: Axes, panel: Specialization) -> None:
    x_M = np.asarray(panel.layers)
    ax.bar(
        x_M,
        panel.null_high_M - panel.null_low_M,
        bottom=panel.null_low_M,
        width=0.7,
        color=PALE,
        label="_null",
    )
    if len(panel.nmi_SM) > 1:
        for nmi_M, above_M in zip(panel.nmi_SM, panel.above_SM, strict=True):
            for above, filled in ((True, COLOURS[0]), (False, "none")):
                chosen = above_M == above
                ax.plot(
                    x_M[chosen],
                    nmi_M[chosen],
                    "o",
                    color=COLOURS[0],
                    markerfacecolor=filled,
                    markersize=2.5,
                    alpha=0.5,
                    label="_seed" if above else "_seed within",
                )
    if panel.random_M is not None:
        ax.plot(x_M, panel.random_M, ":x", color=COLOURS[1], linewidth=0.9, label="random router")
    ax.plot(x_M, panel.nmi_SM.mean(0), "-o", color=COLOURS[0], linewidth=0.9, label="mean")
    ax.set_title(f"{shorten(panel.cell, 32)} (n = {len(panel.nmi_SM)})", pad=3, fontsize=6.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.set_xlim(x_M.min() - 0.6, x_M.max() + 0.6)
