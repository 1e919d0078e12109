"""What all printed figures share: letters, colours, width, title, small print, legend, labels.

Every figure is as wide as the text of a paper, or a column of one, so that its letters are read at
the size they have here (`Style`). It is built on matplotlib's objects alone (no pyplot, no display)
and from its own defaults, so that the same numbers give the same file wherever it is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

WIDTH_INCHES = 6.5
_TITLE_INCHES = 0.28
NOTE_LETTERS = 150  # of a line of small print at that width
_LEGEND_LETTERS = 130  # of a line of a legend at that width
_LEGEND_SAMPLE = 9  # letters that an entry's sample of its line takes, with the space around it
# Okabe and Ito's colours, told apart by all common kinds of colour vision; their yellow is too
# pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DARK, GREY, PALE = "#222222", "#777777", "#D5D5D5"
# Beside its colour a cell has its line, for print without colour.
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (8, 2)), (0, (2, 2)))
EVEN = (0, (2, 2))
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


def current_style() -> Style:
    return _style.get()


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
        matplotlib.rcParams["font.family"] = FAMILIES[current_style().family]
        yield


@dataclass(frozen=True, kw_only=True)
class Heading:
    """`title` says what is shown, `note` (small print) how to read it and where it is from."""

    title: str
    note: str


def new_figure(heading: Heading, *, height: float) -> tuple[Figure, SubFigure]:
    """The figure, and its body: a title apart leaves the body's upper edge to the legend."""
    style = current_style()
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


def add_legend(body: SubFigure, handles: list, title: str = "") -> None:
    """Above the panels, in as few rows as hold it; a title is its first entry."""
    if title:
        handles = [Line2D([], [], linestyle="", label=title), *handles]
    columns = legend_columns([handle.get_label() for handle in handles])
    body.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=1.5)


def legend_columns(labels: Sequence[str]) -> int:
    """How many entries stand beside each other in this style."""
    letters = _LEGEND_LETTERS * current_style().width_inches / WIDTH_INCHES
    return max(1, min(len(labels), int(letters / (max(map(len, labels)) + _LEGEND_SAMPLE))))


def label_outer(grid: np.ndarray, used: int, x_label: str, y_label: str) -> None:
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


def plain_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a scale that is not linear, over many decades or a part of one."""
    wide = high > 10 * low
    axis.set_major_locator(
        LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(nbins=9, steps=[1, 2, 5, 10])
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
