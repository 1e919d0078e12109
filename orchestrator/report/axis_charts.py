"""Charts over the axes of a study: two of a grid at a time, all of a search at once.

Plain dicts with the page's colours, as in `plotly_charts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.report.figure_labels import last_part, short_names
from orchestrator.report.interactions import Interaction
from orchestrator.report.plotly_charts import COLOURS, DASHES, Figure
from orchestrator.stores.trial_record import TrialRecord

_ABSENT = "\N{EN DASH}"
_LEAST_TRIALS = 3


def interaction_chart(found: Interaction, label: str) -> Figure:
    """A line a value of the one axis, over the values of the other."""
    data = []
    for i, row in enumerate(found.rows):
        of = [found.intervals[row, column] for column in found.columns]
        colour = COLOURS[i % len(COLOURS)]
        data.append(
            {
                "name": f"{last_part(found.row_axis)} {row}",
                "x": list(found.columns),
                "y": [each.mean for each in of],
                "mode": "lines+markers",
                "line": {"color": colour, "dash": DASHES[i % len(DASHES)], "width": 2},
                "marker": {"size": 8},
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [0 if x.high is None else x.high - x.mean for x in of],
                    "arrayminus": [0 if x.low is None else x.mean - x.low for x in of],
                    "color": colour,
                    "thickness": 1.5,
                },
            }
        )
    layout = {
        "xaxis": {"type": "category", "title": {"text": found.column_axis}},
        "yaxis": {"title": {"text": label}},
        "height": 360,
        "showlegend": True,
    }
    return {"data": data, "layout": layout}


def parallel_chart(
    trials: Sequence[TrialRecord], *, label: str, lower_is_better: bool
) -> Figure | None:
    """A line a trial through its value of every axis, to what it came to; the better the darker.
    None where there are no dimensions."""
    dimensions = parallel_dimensions(trials, label)
    if dimensions is None:
        return None
    values = [record.final for record in trials]
    line = {
        "color": values,
        "colorscale": [[0, "--c0"], [1, "--c4"]],
        "reversescale": not lower_is_better,
        "showscale": True,
        "colorbar": {"title": {"text": label}},
    }
    return {
        "data": [{"type": "parcoords", "line": line, "dimensions": dimensions}],
        "layout": {"height": 420, "margin": {"t": 70, "b": 40, "l": 70}},
    }


def parallel_dimensions(trials: Sequence[TrialRecord], label: str) -> list[dict[str, Any]] | None:
    """Of every axis that moved the place of each trial on it, and last what the trials came to.

    Numbers stand on a scale, other choices and axes that not every trial has one beside the other.
    None with fewer than three trials, or where fewer than two axes moved.
    """
    paths = dict.fromkeys(path for record in trials for path in record.params)
    moved = [p for p in paths if len({str(record.params.get(p)) for record in trials}) > 1]
    if len(trials) < _LEAST_TRIALS or len(moved) < 2:
        return None
    dimensions = [
        _dimension(name, [record.params.get(path) for record in trials])
        for path, name in zip(moved, short_names(moved), strict=True)
    ]
    return [*dimensions, {"label": label, "values": [record.final for record in trials]}]


def _dimension(name: str, values: Sequence[Any]) -> dict[str, Any]:
    if all(type(value) in (int, float) for value in values):
        return {"label": name, "values": list(values)}
    texts = [_ABSENT if value is None else str(value) for value in values]
    places = {text: i for i, text in enumerate(sorted(set(texts)))}
    return {
        "label": name,
        "values": [places[text] for text in texts],
        "tickvals": list(places.values()),
        "ticktext": list(places),
    }
