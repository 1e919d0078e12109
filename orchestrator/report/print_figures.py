"""Figures of a launch as files for print: from its records, routing arrays and rows of `analyze`.

A figure without data is not written. matplotlib is imported where something is drawn, since the
import takes a second that commands which only read tables need not wait for.

M MoE blocks, N experts, L labels.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import numpy as np

from moe.metrics import describe
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.base.whole_files import whole
from orchestrator.report.axis_charts import parallel_dimensions
from orchestrator.report.figure_data import MOST_SAMPLED, Interval, Rows
from orchestrator.report.figure_labels import (
    label_of,
    last_part,
    probe_name,
    shorten,
    word_form_note,
)
from orchestrator.report.judge import NO_EVIDENCE, counted, main_digest
from orchestrator.report.launch_data import LaunchData
from orchestrator.report.pareto import NAMES as COST_NAMES
from orchestrator.report.text_alternatives import interaction_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from orchestrator.report.comparison import Comparison
    from orchestrator.report.figure_frame import Heading
    from orchestrator.report.records import LaunchRecords
    from orchestrator.study.design import Design

FORMATS = ("png", "pdf")
DOTS_PER_INCH = 200


def draw_launch(
    launch: LaunchRecords,
    home: Home,
    folder: Path,
    *,
    rows: Rows = (),
    design: Design | None = None,
) -> list[Path]:
    """Writes every figure that the launch has data for, each as PNG and PDF.

    `home` holds the routing arrays of the runs, `rows` are those of `analyze` for this launch.
    """
    return [
        path
        for name, figure in launch_figures(launch, home, rows=rows, design=design)
        for path in save(figure, folder, name)
    ]


def launch_figures(
    launch: LaunchRecords, home: Home, *, rows: Rows = (), design: Design | None = None
) -> Iterator[tuple[str, Figure]]:
    """Name and figure, one at a time: curves, loss, axes, load by cell, balance, specialisation."""
    data = LaunchData(launch=launch, home=home, rows=rows, design=design)
    if data.cells:
        yield from quality_figures(data)
        yield from axis_figures(data)
        yield from _load_figures(data)
        yield from _specialization_figures(data)


def quality_figures(data: LaunchData) -> Iterator[tuple[str, Figure]]:
    """Curves and final values, of a launch that has a complete trial."""
    from orchestrator.report import matplotlib_plots

    if curves := list(data.curves):
        baseline = None
        if len(curves) > 1:
            baseline = next((curve for curve in curves if curve.cell == data.reference), None)
        how = "line: mean over seeds; band: from the lowest to the highest seed"
        yield (
            "curves",
            matplotlib_plots.curves_figure(
                [curve for curve in curves if curve is not baseline],
                baseline,
                _heading(data.launch, f"{data.curve_label} over training".capitalize(), how),
                x_label=data.x_label,
                y_label=data.curve_label,
                log_scale=data.is_loss,
            ),
        )
    how = "differences are at the seeds that both have, with their paired interval"
    yield (
        "loss",
        matplotlib_plots.forest_figure(
            data.intervals,
            data.differences,
            _heading(data.launch, "Cells at the end of training", how if data.differences else ""),
            value_label=data.value_label,
            difference_label=(
                f"difference in {data.value_label}\nfrom {shorten(str(data.reference))}"
            ),
            as_perplexity=data.is_loss,
        ),
    )


def axis_figures(data: LaunchData) -> Iterator[tuple[str, Figure]]:
    """Two axes at a time, quality against cost, and the points of a search."""
    from orchestrator.report import axis_plots

    label, launch = data.value_label, data.launch
    for i, found in enumerate(data.interactions):
        axes = f"{last_part(found.row_axis)} and {last_part(found.column_axis)}"
        heading = _heading(launch, f"Cells by {axes}", interaction_text(found))
        yield f"interaction-{i}", axis_plots.interaction_figure(found, heading, label=label)
    for name, against, points in data.fronts:
        if points:
            heading = _heading(
                launch,
                f"Quality against {COST_NAMES[against]}",
                "blue: no other cell has as good a value for as little; means over seeds",
            )
            yield (
                name,
                axis_plots.pareto_figure(
                    points, heading, label=label, against=against, cost_name=COST_NAMES[against]
                ),
            )
    for i, (corpus, records) in enumerate(data.points_by_corpus.items()):
        dimensions = parallel_dimensions(records, label)
        if dimensions is not None:
            on = f" on {corpus}" if corpus else ""
            heading = _heading(launch, f"{len(records)} points of the search{on}", "dark: better")
            yield (
                f"parallel-{i}",
                axis_plots.parallel_figure(
                    dimensions,
                    [record.final for record in records],
                    heading,
                    lower_is_better=launch.measure.better != "higher",
                ),
            )


def _load_figures(data: LaunchData) -> Iterator[tuple[str, Figure]]:
    """Figure 1 of arXiv 2402.13089: a cell by itself, and with and without the balance loss."""
    from orchestrator.report import matplotlib_plots

    how = (
        "experts are ranked by their load over the whole training, in each seed and layer; "
        "thick: mean over seeds; thin: one seed"
    )
    for load in data.loads:
        heading = _heading(data.launch, "Expert load over training", how)
        figure = matplotlib_plots.load_figure([load], heading, x_label=data.x_label)
        yield f"load-{_slug(load.cell)}", figure
    for without, with_loss in data.balanced_pairs:
        heading = _heading(data.launch, "Expert load without and with the balance loss", how)
        figure = matplotlib_plots.load_figure([without, with_loss], heading, x_label=data.x_label)
        yield f"balance-{_slug(with_loss.cell)}", figure


def _specialization_figures(data: LaunchData) -> Iterator[tuple[str, Figure]]:
    from orchestrator.report import matplotlib_plots

    for probe, rows, panels in data.probes:
        if panels:
            title = f"What experts specialise in, against chance: {probe_name(probe)}"
            heading = _heading(data.launch, title, word_form_note(rows))
            figure = matplotlib_plots.specialization_figure(panels, heading)
            yield f"specialization-{_probe_slug(probe)}", figure


def overlaid_curves(launches: Sequence[LaunchRecords]) -> Figure:
    """The curves of all cells that at least two of the launches have, each under its launch's
    letter and its cell's name; of all cells where no name is shared. Raises BadInput without a
    curve, and where the curves share no axis."""
    from orchestrator.report import matplotlib_plots
    from orchestrator.report.figure_frame import Heading

    drawn = [LaunchData(launch=launch, home=launch.home) for launch in launches]
    names = [curve.cell for data in drawn for curve in data.curves]
    shared = {name for name in names if names.count(name) > 1} or set(names)
    curves = [
        replace(curve, cell=f"{letter}: {curve.cell}")
        for letter, data in zip(ascii_uppercase, drawn, strict=False)
        for curve in data.curves
        if curve.cell in shared
    ]
    if not curves:
        raise BadInput("no complete trial of these launches has a curve. Run them first.")
    if len({(data.x_label, data.curve_label) for data in drawn}) > 1:
        raise BadInput("curves over steps and over tokens, or of two metrics, share no axis.")
    curves.sort(key=lambda curve: curve.cell.partition(": ")[2])
    how = "line: mean over seeds; band: from the lowest to the highest seed"
    title = f"{drawn[0].curve_label} over training".capitalize()
    return matplotlib_plots.curves_figure(
        curves,
        None,
        Heading(title=title, note=_wrapped(how, _lettered(launches))),
        x_label=drawn[0].x_label,
        y_label=drawn[0].curve_label,
        log_scale=drawn[0].is_loss,
    )


def compared_cells(comparison: Comparison, launches: Sequence[LaunchRecords]) -> Figure:
    """The cells that two launches have: means in each, and the differences from the first. Raises
    BadInput where no cell has a difference with an interval."""
    from orchestrator.report import matplotlib_plots
    from orchestrator.report.figure_frame import Heading

    rows, differences, kinds = [], [], {}
    for cell in comparison.cells:
        if not any(d and d.ci_low is not None for d in cell.differences):
            continue
        for i, mean in enumerate(cell.means):
            name = f"{ascii_uppercase[i]}: {cell.cell}"
            kinds[name] = f"{ascii_uppercase[i]}: {shorten(comparison.launches[i]['place'], 30)}"
            if mean is not None:
                rows.append(_interval_row(name, mean["values"], mean["mean"], mean))
            found = cell.differences[i - 1] if i else None
            if found and found.ci_low is not None:
                differences.append(_interval_row(name, found.values, found.estimate, asdict(found)))
    if not differences:
        raise BadInput("no cell of these launches has a difference with an interval to draw.")
    label = label_of(comparison.metric)
    how = (
        "diamonds: means with their 95% t interval; differences are from A, paired by seed where "
        "two seeds are shared (dots below: each seed's), else Welch's"
    )
    note = _wrapped(how, _lettered(launches))
    title = f"{len(launches)} launches, and what differs from {comparison.launches[0]['place']}"
    return matplotlib_plots.forest_figure(
        rows,
        differences,
        Heading(title=shorten(title, 90), note=note),
        value_label=label,
        difference_label=f"difference in {label}\nfrom A",
        as_perplexity=describe(comparison.metric).is_loss,
        kinds=kinds,
    )


def _interval_row(
    name: str, values: Sequence[float], mean: float | None, bounds: Mapping[str, Any]
) -> Interval:
    low, high = bounds["ci_low"], bounds["ci_high"]
    return Interval(cell=name, values=values, mean=mean or 0.0, low=low, high=high)


def _lettered(launches: Sequence[LaunchRecords]) -> str:
    names = zip(ascii_uppercase, (launch.info.name for launch in launches), strict=False)
    # A launch's name is one word for who breaks lines: it may break after its parts.
    return "; ".join(f"{letter}: {name.replace(',', ', ')}" for letter, name in names)


def draw_assignment(
    count_MNL: np.ndarray,
    *,
    layers: Sequence[int],
    labels: Sequence[str],
    cell: str,
    seed: int,
    probe: str,
    launch_name: str,
    folder: Path,
) -> list[Path]:
    """P(e | l) of one trained model on one probe: the bars of figures 2, 4, 5 of arXiv 2402.13089.

    `count_MNL` holds n_el of each block (`moe.analysis.specialization.contingency`). Labels that no
    token has are left out; without any nothing is written. One model only: experts of different
    seeds share no numbers. Raises ValueError where shapes and names do not fit together.
    """
    count_MNL = np.asarray(count_MNL)
    if count_MNL.ndim != 3 or (len(layers), len(labels)) != count_MNL.shape[::2]:
        raise ValueError(
            "assignments are counts [layers, experts, labels], each layer and label with a name; "
            f"received the shape {count_MNL.shape}, {len(layers)} layers and {len(labels)} labels. "
            "Pass what belongs together."
        )
    seen = np.flatnonzero(count_MNL.sum(axis=1).all(axis=0))
    if count_MNL.size == 0 or len(seen) == 0:
        return []
    from orchestrator.report import matplotlib_plots
    from orchestrator.report.figure_frame import Heading

    count_MNL = count_MNL[:, :, seen]
    figure = matplotlib_plots.assignment_figure(
        count_MNL / count_MNL.sum(axis=1, keepdims=True),
        layers=layers,
        labels=[labels[i] for i in seen],
        heading=Heading(
            title=(f"Share of a label's assignments by expert: {shorten(cell)}, seed {seed}"),
            note=_wrapped(
                f"probe {probe_name(probe)}; dashed: an even split, which the cuts would meet",
                launch_name,
            ),
        ),
    )
    return save(figure, folder, f"assignment-{_probe_slug(probe)}-{_slug(cell)}-seed{seed}")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Each file is whole when it appears, and the same bytes for the same figure."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for form in FORMATS:
        paths.append(folder / f"{name}.{form}")
        save_as(figure, paths[-1], form)
        figure.set_layout_engine("none")  # found once: it takes longer than the drawing
    return paths


def save_as(figure: Figure, path: Path, form: str) -> None:
    """One file, of png, pdf or svg, in the style of the moment."""
    from orchestrator.report.figure_frame import paper_style

    dated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with paper_style(), whole(path) as partial:
        figure.savefig(partial, format=form, dpi=DOTS_PER_INCH, metadata=dated.get(form, {}))


def one_figure(launch: LaunchRecords, name: str, design: Design | None = None) -> Figure:
    """The figure called `name`, in the style of the moment. Raises BadInput where the launch has no
    such figure, naming those that it has."""
    known = []
    rows = launch.analysis()
    for found, figure in launch_figures(launch, launch.home, rows=rows, design=design):
        if found == name:
            return figure
        known.append(found)
    raise BadInput(
        f"`figure` draws a figure that the launch has data for; received {name!r}. Choose from "
        f"{', '.join(known) or 'none: no trial is complete yet'}."
    )


def _heading(launch: LaunchRecords, title: str, how: str) -> Heading:
    """In small print how to read it, then the launch, its code, and what is left out."""
    from orchestrator.report.figure_frame import Heading

    info = launch.info
    digest = main_digest(launch.trials)
    parts = [f"{info.name}, code {digest[:8]}" if digest else info.name]
    complete = [r for r in launch.trials if r.state == "complete"]
    older = sum(r.is_older for r in complete)
    if other := len(complete) - older - len(counted(launch.trials)):
        parts.append(f"{other} complete trials of other code are left out")
    if older:
        parts.append(f"{older} of configurations that the study had before are left out")
    if info.attributes.get("sampled"):
        parts.append(f"at most the {MOST_SAMPLED} best cells are shown")
    if reason := NO_EVIDENCE.get(info.attributes.get("scale", "")):
        parts.append(f"no evidence: {reason}")
    return Heading(title=title, note=_wrapped(how, "; ".join(parts)))


def _wrapped(*paragraphs: str) -> str:
    from orchestrator.report.figure_frame import NOTE_LETTERS

    return "\n".join(line for text in paragraphs for line in textwrap.wrap(text, NOTE_LETTERS))


def _probe_slug(probe: str) -> str:
    """Readable, and different for two probes that end alike."""
    return f"{_slug(probe_name(probe))}-{hashlib.sha256(probe.encode()).hexdigest()[:6]}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)
