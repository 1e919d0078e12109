"""Figures of a launch: from its records, the routing arrays of its runs, and rows of `analyze`.

What is missing is not drawn: a figure without data does not come to be. matplotlib is loaded when
something is drawn, so that who only reads tables goes without.

M MoE blocks, N experts, L labels.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.base.home import Home
from orchestrator.report.figure_data import (
    MOST_SAMPLED,
    CellTrials,
    Rows,
    balance_pairs,
    complete_cells,
    counted,
    curve_of,
    differences_of,
    interval_of,
    load_of,
    specializations,
    tokens_per_step,
)
from orchestrator.report.figure_labels import curve_label, label_of, probe_name, word_form_note
from orchestrator.report.judge import NO_EVIDENCE, main_digest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from orchestrator.report.matplotlib_plots import Heading
    from orchestrator.report.records import LaunchRecords

FORMATS = ("png", "pdf")
DOTS_PER_INCH = 200
_NOTE_WIDTH = 150


def draw_launch(launch: LaunchRecords, home: Home, folder: Path, *, rows: Rows = ()) -> list[Path]:
    """Writes every figure that the launch has data for, each as PNG and PDF.

    `home` holds the routing arrays of the runs, `rows` are those of `analyze` for this launch.
    """
    return [
        path
        for name, figure in launch_figures(launch, home, rows=rows)
        for path in save(figure, folder, name)
    ]


def launch_figures(
    launch: LaunchRecords, home: Home, *, rows: Rows = ()
) -> Iterator[tuple[str, Figure]]:
    """Name and figure, one at a time: curves, loss, load by cell, balance, specialisation."""
    cells = complete_cells(launch)
    if cells:
        batch_tokens = {cell.name: tokens_per_step(cell.trials, home) for cell in cells}
        by_tokens = all(batch_tokens.values())
        x = _Axis(
            label="training tokens" if by_tokens else "optimiser step",
            per_step=batch_tokens if by_tokens else dict.fromkeys(batch_tokens, 1.0),
        )
        yield from _quality_figures(launch, cells, x)
        yield from _load_figures(launch, cells, home, x)
        yield from _specialization_figures(launch, cells, rows)


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """Over training: what is counted, and how much of it a step of each cell is."""

    label: str
    per_step: Mapping[str, float]


def _quality_figures(
    launch: LaunchRecords, cells: Sequence[CellTrials], x: _Axis
) -> Iterator[tuple[str, Figure]]:
    from orchestrator.report import matplotlib_plots

    metric = launch.info.attributes["metric"]
    reference = launch.info.attributes.get("baseline")
    label, is_loss = label_of(metric), launch.measure.is_loss
    y_label = curve_label(launch.measure)
    curves = {c.name: curve for c in cells if (curve := curve_of(c, x.per_step[c.name], is_loss))}
    if curves:
        baseline = curves.pop(reference, None) if len(curves) > 1 else None
        how = "line: mean over seeds; band: from the lowest to the highest seed"
        yield (
            "curves",
            matplotlib_plots.curves_figure(
                list(curves.values()),
                baseline,
                _heading(launch, f"{y_label} over training".capitalize(), how),
                x_label=x.label,
                y_label=y_label,
                log_scale=is_loss,
            ),
        )
    differences = differences_of(cells, reference)
    how = "right: the differences at the seeds that both have, with their paired interval"
    yield (
        "loss",
        matplotlib_plots.forest_figure(
            [interval_of(cell) for cell in cells],
            differences,
            _heading(launch, "Cells at the end of training", how if differences else ""),
            value_label=label,
            difference_label=(
                f"difference in {label}\nfrom {matplotlib_plots.shorten(str(reference))}"
            ),
            as_perplexity=is_loss,
        ),
    )


def _load_figures(
    launch: LaunchRecords, cells: Sequence[CellTrials], home: Home, x: _Axis
) -> Iterator[tuple[str, Figure]]:
    """Figure 1 of arXiv 2402.13089: a cell by itself, and with and without the balance loss."""
    from orchestrator.report import matplotlib_plots

    how = (
        "experts are ranked by their load over the whole training, in each seed and layer; "
        "thick: mean over seeds; thin: one seed"
    )
    loads = {c.name: load for c in cells if (load := load_of(c, home, x.per_step[c.name]))}
    for name, load in loads.items():
        heading = _heading(launch, "Expert load over training", how)
        yield f"load-{_slug(name)}", matplotlib_plots.load_figure([load], heading, x_label=x.label)
    for without, with_loss in balance_pairs(cells):
        if without in loads and with_loss in loads:
            heading = _heading(launch, "Expert load without and with the balance loss", how)
            pair = [loads[without], loads[with_loss]]
            yield (
                f"balance-{_slug(with_loss)}",
                matplotlib_plots.load_figure(pair, heading, x_label=x.label),
            )


def _specialization_figures(
    launch: LaunchRecords, cells: Sequence[CellTrials], rows: Rows
) -> Iterator[tuple[str, Figure]]:
    from orchestrator.report import matplotlib_plots

    for probe in dict.fromkeys(row["probe"] for row in rows):
        of_probe = [row for row in rows if row["probe"] == probe]
        panels = specializations(cells, of_probe)
        if panels:
            title = f"What experts specialise in, against chance: {probe_name(probe)}"
            heading = _heading(launch, title, word_form_note(of_probe))
            figure = matplotlib_plots.specialization_figure(panels, heading)
            yield f"specialization-{_probe_slug(probe)}", figure


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

    count_MNL = count_MNL[:, :, seen]
    figure = matplotlib_plots.assignment_figure(
        count_MNL / count_MNL.sum(axis=1, keepdims=True),
        layers=layers,
        labels=[labels[i] for i in seen],
        heading=matplotlib_plots.Heading(
            title=(
                "Share of a label's assignments by expert: "
                f"{matplotlib_plots.shorten(cell)}, seed {seed}"
            ),
            note=_wrapped(
                f"probe {probe_name(probe)}; dashed: an even split, which the cuts would meet",
                launch_name,
            ),
        ),
    )
    return save(figure, folder, f"assignment-{_probe_slug(probe)}-{_slug(cell)}-seed{seed}")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Each file is whole when it appears, and the same bytes for the same figure."""
    from orchestrator.report.matplotlib_plots import paper_style

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for form in FORMATS:
        path = folder / f"{name}.{form}"
        partial = path.with_name(f"{path.name}.partial")
        metadata = {"CreationDate": None} if form == "pdf" else {}
        with paper_style():
            figure.savefig(partial, format=form, dpi=DOTS_PER_INCH, metadata=metadata)
        figure.set_layout_engine("none")  # found once: it takes longer than the drawing
        partial.replace(path)
        paths.append(path)
    return paths


def _heading(launch: LaunchRecords, title: str, how: str) -> Heading:
    """In small print how to read it, then the launch, its code, and what is left out."""
    from orchestrator.report.matplotlib_plots import Heading

    info = launch.info
    digest = main_digest(launch.trials)
    parts = [f"{info.name}, code {digest[:8]}" if digest else info.name]
    other = len([r for r in launch.trials if r.state == "complete"]) - len(counted(launch.trials))
    if other:
        parts.append(f"{other} complete trials of other code are left out")
    if info.attributes.get("sampled"):
        parts.append(f"at most the {MOST_SAMPLED} best cells are shown")
    if reason := NO_EVIDENCE.get(info.attributes.get("scale", "")):
        parts.append(f"no evidence: {reason}")
    return Heading(title=title, note=_wrapped(how, "; ".join(parts)))


def _wrapped(*paragraphs: str) -> str:
    return "\n".join(line for text in paragraphs for line in textwrap.wrap(text, _NOTE_WIDTH))


def _probe_slug(probe: str) -> str:
    """Readable, and different for two probes that end alike."""
    return f"{_slug(probe_name(probe))}-{hashlib.sha256(probe.encode()).hexdigest()[:6]}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)
