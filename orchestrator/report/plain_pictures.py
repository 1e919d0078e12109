"""What stands for the page's charts without JavaScript: pictures within the file.

Charts that exist for print are taken as they are; a map of loads, a panel of a probe and the bars
of importance are drawn small, since a page may have tens of them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from itertools import chain

import numpy as np
from matplotlib.figure import Figure

from orchestrator.report.figure_data import Load
from orchestrator.report.figure_frame import COLOURS, paper_style
from orchestrator.report.launch_data import LaunchData
from orchestrator.report.matplotlib_plots import draw_specialization
from orchestrator.report.plotly_charts import load_ratio
from orchestrator.report.print_figures import axis_figures, quality_figures
from orchestrator.stores.importances import Importance

_SMALL = (3.4, 1.7)  # inches


def pictures(data: LaunchData, shares: Mapping[str, Importance]) -> dict[str, str]:
    """Addresses that hold the picture itself, by the chart's name on the page."""
    found = {}
    figures = chain(quality_figures(data), axis_figures(data), _small_figures(data, shares))
    with paper_style():
        for name, figure in figures:
            out = io.BytesIO()
            figure.savefig(out, format="svg", metadata={"Date": None})
            text = base64.b64encode(out.getvalue()).decode()
            found[{"loss": "means"}.get(name, name)] = f"data:image/svg+xml;base64,{text}"
    return found


def _small_figures(
    data: LaunchData, shares: Mapping[str, Importance]
) -> Iterator[tuple[str, Figure]]:
    loads = data.loads
    most = max((float(load_ratio(load).max()) for load in loads), default=2.0)
    for i, load in enumerate(loads):
        yield f"load-{i}", _load_map(load, max(2.0, most))
    for number, (_, _, panels) in enumerate(data.probes):
        for i, panel in enumerate(panels):
            figure = Figure(figsize=_SMALL, layout="constrained")
            ax = figure.subplots()
            draw_specialization(ax, panel)
            ax.set_ylim(bottom=0)
            ax.set_xlabel("layer")
            ax.set_ylabel("NMI")
            yield f"specialization-{number}-{i}", figure
    if shares:
        yield "importance", _bars(shares)


def _load_map(load: Load, most: float) -> Figure:
    """How many times an even share each rank has at the last evaluation, a row a block."""
    figure = Figure(figsize=_SMALL, layout="constrained")
    ax = figure.subplots()
    drawn = ax.imshow(load_ratio(load)[-1], aspect="auto", cmap="PuOr_r", vmin=2 - most, vmax=most)
    ax.set_yticks(range(len(load.layers)), load.layers)
    ax.set_xlabel("expert, by rank")
    ax.set_ylabel("layer")
    figure.colorbar(drawn, label="x even", boundaries=np.linspace(0, most, 64))
    return figure


def _bars(shares: Mapping[str, Importance]) -> Figure:
    figure = Figure(figsize=(5.0, 0.7 + 0.2 * len(shares)), layout="constrained")
    ax = figure.subplots()
    for place, of in enumerate(shares.values()):
        ax.barh(place, of.share, color=COLOURS[0], height=0.7)
        if of.low is not None:
            ax.plot([of.low, of.high], [place, place], color="black", linewidth=0.8)
    ax.set_yticks(range(len(shares)), list(shares))
    ax.invert_yaxis()
    ax.set_xlabel("importance (shares of 1)")
    return figure
