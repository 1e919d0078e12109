"""The figures themselves: arrays in, a matplotlib Figure out. Nothing here knows of stores.

S seeds, E evaluations, M MoE blocks, N experts, L labels.

Every figure is as wide as the text of a paper, or a column of one, so that its letters are read at
the size they have here (`Style`). It is built on matplotlib's objects alone (no pyplot, no display)
and from its own defaults, so that the same numbers give the same file wherever it is drawn.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from orchestrator.report.figure_data import Curve, Interval, Load, Specialization

WIDTH_INCHES = 6.5
_TITLE_INCHES = 0.28
NOTE_LETTERS = 150  # of a line of small print at that width
# Okabe and Ito's colours, told apart by all common kinds of colour vision; their yellow is too
# pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DARK, GREY, PALE = "#222222", "#777777", "#D5D5D5"
# Beside its colour a cell has its line, for print without colour.
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (8, 2)), (0, (2, 2)))
_EVEN = (0, (2, 2))
_STYLE = {
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.title_fontsize": 6.5,
    "figure.titlesize": 8.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 3,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "text.parse_math": False,  # a label may hold a dollar sign
    "pdf.fonttype": 42,  # letters stay letters in a paper's PDF
    "svg.hashsalt": "moe-study",  # the same names of parts each time
}


# They come with matplotlib: a figure is the same wherever it is drawn. STIX looks like Times.
FAMILIES = {"sans": "DejaVu Sans", "serif": "STIXGeneral"}
_NARROW_INCHES = 4.5  # below this panels stand below each other


@dataclass(frozen=True, kw_only=True)
class Style:
    """`is_bare`: without title and small print, for a paper whose caption says both."""

    family: str = "sans"
    width_inches: float = WIDTH_INCHES
    is_bare: bool = False

    @property
    def is_narrow(self) -> bool:
        return self.width_inches < _NARROW_INCHES


_PAGE = Style()
_style: ContextVar[Style] = ContextVar("_style", default=_PAGE)


@contextmanager
def styled(style: Style) -> Iterator[None]:
    """What is built and saved within has this style."""
    token = _style.set(style)
    try:
        yield
    finally:
        _style.reset(token)


@contextmanager
def paper_style() -> Iterator[None]:
    """What is built and saved within looks alike, whatever the user's own settings."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        matplotlib.rcParams["font.family"] = FAMILIES[_style.get().family]
        yield


@dataclass(frozen=True, kw_only=True)
class Heading:
    """`title` says what is shown, `note` (small print) how to read it and where it is from."""

    title: str
    note: str


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
    columns = 1 if _style.get().is_narrow else min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, body = _figure(heading, height=2.5 * rows)
    grid = body.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax, members in zip(grid.flat, panels, strict=False):
        if reference is not None:
            _draw_curve(ax, reference, DARK, "--")
        for colour, dash, i in zip(COLOURS, _DASHES, members, strict=False):
            _draw_curve(ax, curves[i], colour, dash)
        ax.grid(axis="y", color=PALE, linewidth=0.4)
        ax.legend(loc="upper right")
    if log_scale:
        ax = grid[0, 0]
        ax.set_yscale("log")
        _plain_ticks(ax.yaxis, *ax.get_ylim())
    _finish(grid, len(panels), x_label, y_label)
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
) -> Figure:
    """Each cell's mean with its interval; beside it the difference from the baseline, if any."""
    panels, narrow = (2 if differences else 1), _style.get().is_narrow
    height = 1.35 + 0.2 * len(rows)
    figure, body = _figure(heading, height=height * (panels if narrow else 1))
    shape = (panels, 1) if narrow else (1, panels)
    axes = body.subplots(*shape, squeeze=False, sharey=True).ravel()
    place = {row.cell: i for i, row in enumerate(rows)}
    for ax, shown, label in zip(
        axes, (rows, differences), (value_label, difference_label), strict=False
    ):
        for row in shown:
            _draw_interval(ax, place[row.cell], row)
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
        _plain_ticks(above.xaxis, *np.exp(axes[0].get_xlim()))
    seeds = Line2D([], [], color=COLOURS[1], marker="o", linestyle="", label="one seed")
    mean = Line2D([], [], color=COLOURS[0], marker="D", label="mean with its 95% t interval")
    _legend(body, [seeds, mean] if any(row.low is not None for row in rows) else [seeds])
    return figure


@paper_style()
def load_figure(loads: Sequence[Load], heading: Heading, *, x_label: str) -> Figure:
    """A panel a block, a line a rank of experts; two cells stand side by side."""
    top = 1.06 * max(float(load.load_SEMN.max()) for load in loads)
    num_layers = max(len(load.layers) for load in loads)
    columns = min(4 if len(loads) == 1 else 2 if num_layers <= 8 else 3, num_layers)
    columns = min(columns, 3 - len(loads)) if _style.get().is_narrow else columns
    rows = math.ceil(num_layers / columns)
    figure, body = _figure(heading, height=0.85 + 1.25 * rows)
    _rank_legend(body, max(load.load_SEMN.shape[3] for load in loads))
    for block, load in zip(body.subfigures(1, len(loads), squeeze=False)[0], loads, strict=True):
        block.suptitle(f"{shorten(load.cell)}  (n = {len(load.load_SEMN)})", fontsize=7.5)
        grid = block.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for m, (ax, layer) in enumerate(zip(grid.flat, load.layers, strict=False)):
            _draw_load(ax, load.x_E, load.load_SEMN[:, :, m])
            ax.set_title(f"layer {layer}", pad=2)
            ax.set_ylim(0, top)
        _finish(grid, len(load.layers), x_label, "share of assignments")
    return figure


@paper_style()
def specialization_figure(panels: Sequence[Specialization], heading: Heading) -> Figure:
    """A panel a cell: NMI of expert and label in each layer, over its permutation null."""
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    columns = min(columns, 2) if _style.get().is_narrow else columns
    rows = math.ceil(len(panels) / columns)
    figure, body = _figure(heading, height=0.6 + 1.3 * rows)
    grid = body.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax, panel in zip(grid.flat, panels, strict=False):
        _draw_specialization(ax, panel)
    grid[0, 0].set_ylim(bottom=0)
    _finish(grid, len(panels), "layer", "NMI(expert; label)")
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
    _legend(body, handles)
    return figure


@paper_style()
def assignment_figure(
    share_MNL: np.ndarray, *, layers: Sequence[int], labels: Sequence[str], heading: Heading
) -> Figure:
    """A panel a block, a bar a label, cut at each expert's share P(e | l)."""
    num_blocks, num_experts, num_labels = share_MNL.shape
    columns = min(4, num_blocks)
    rows = math.ceil(num_blocks / columns)
    figure, body = _figure(heading, height=0.75 + rows * (0.35 + 0.13 * num_labels))
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
            ax.axvline(e / num_experts, color=DARK, linewidth=0.6, linestyle=_EVEN)
        ax.set_yticks(range(num_labels), [shorten(label, 24) for label in labels])
        ax.set_ylim(num_labels - 0.4, -0.6)
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.tick_params(axis="y", length=0)
        ax.set_title(f"layer {layer}", pad=2)
    _finish(grid, num_blocks, "share of assignments", "")
    handles = [Patch(color=colours[e], label=str(e)) for e in _named(num_experts)]
    handles.append(Line2D([], [], color=DARK, linewidth=0.6, linestyle=_EVEN, label="even split"))
    _legend(body, handles, "expert:")
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


def shorten(name: str, most: int = 40) -> str:
    """The name with its middle left out, since what tells long names apart is often at the end."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def _figure(heading: Heading, *, height: float) -> tuple[Figure, SubFigure]:
    """The figure, and its body: a title apart leaves the body's upper edge to the legend."""
    style = _style.get()
    width = style.width_inches
    if style.is_bare:
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.set_gid(f"{heading.title}\n{heading.note}")  # for who prints it as a caption
        return figure, figure.subfigures(1, 1)
    note, title = heading.note, heading.title
    if style.is_narrow:
        letters = int(NOTE_LETTERS * width / WIDTH_INCHES)
        note = "\n".join(part for x in note.splitlines() for part in textwrap.wrap(x, letters))
        title = "\n".join(textwrap.wrap(title, int(12 * width)))
    height += 0.1 * (note.count("\n") + 1)
    top = _TITLE_INCHES + 0.14 * title.count("\n")
    figure = Figure(figsize=(width, top + height), layout="constrained")
    head, body = figure.subfigures(2, 1, height_ratios=(top, height))
    head.text(0.008, 0.5, title, va="center", fontsize=8.5)
    body.supxlabel(note, x=0.008, ha="left", fontsize=5.5, color=GREY, linespacing=1.3)
    return figure, body


def _legend(body: SubFigure, handles: list, title: str = "") -> None:
    """One row above the panels; a title is its first entry."""
    if title:
        handles = [Line2D([], [], linestyle="", label=title), *handles]
    columns = min(len(handles), 2) if _style.get().is_narrow else len(handles)
    body.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=1.5)


def _finish(grid: np.ndarray, used: int, x_label: str, y_label: str) -> None:
    """Labels on the outer panels only; places that were not needed are taken out."""
    columns = grid.shape[1]
    for i, ax in enumerate(grid.flat):
        if i >= used:
            ax.remove()
            continue
        if i % columns == 0:
            ax.set_ylabel(y_label)
        if i + columns >= used:  # the lowest of its column
            ax.set_xlabel(x_label)
            ax.tick_params(labelbottom=True)


def _draw_curve(ax: Axes, curve: Curve, colour: str, dash: object) -> None:
    name = f"{shorten(curve.cell)} (n = {curve.n})"
    ax.plot(curve.x_E, curve.mean_E, color=colour, linestyle=dash, label=name)
    if curve.low_E is not None:
        ax.fill_between(curve.x_E, curve.low_E, curve.high_E, color=colour, alpha=0.2, linewidth=0)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def _plain_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a scale that is not linear, over many decades or a part of one."""
    wide = high > 10 * low
    axis.set_major_locator(
        LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(nbins=9, steps=[1, 2, 5, 10])
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _draw_interval(ax: Axes, y: int, row: Interval) -> None:
    beside = y + 0.27 if len(row.values) > 1 else y  # what is under the mean is not seen
    ax.plot(
        row.values, [beside] * len(row.values), "o", color=COLOURS[1], markersize=2, label="_seeds"
    )
    if row.low is not None:
        ax.plot([row.low, row.high], [y, y], color=COLOURS[0], label="_interval")
        ax.plot([row.mean], [y], "D", color=COLOURS[0], markersize=3.5, label="_mean")


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
    ax.axhline(1 / num_experts, color=GREY, linewidth=0.7, linestyle=_EVEN, label="_even")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))


def _rank_legend(body: SubFigure, num_experts: int) -> None:
    colours = rank_colours(num_experts)
    handles = [
        Line2D([], [], color=colours[rank], label=str(rank + 1)) for rank in _named(num_experts)
    ]
    handles.append(Line2D([], [], color=GREY, linewidth=0.7, linestyle=_EVEN, label="even"))
    _legend(body, handles, "expert by its load, from the most chosen:")


def _draw_specialization(ax: Axes, panel: Specialization) -> None:
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
