"""The front of a search with several objectives as charts of the report: each further objective
against the first, and the hypervolume over device time."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.figure_labels import shorten
from orchestrator.report.front import Front, FrontPoint, measure_of
from orchestrator.report.plotly_charts import Figure
from orchestrator.study.objectives import FIGURES


def charts_of(front: Front) -> dict[str, tuple[Figure, str]]:
    """By name: the chart and its caption."""
    first, *others = front.objectives
    found = {
        f"front-{place}": (front_chart(front, first, other), f"{first} and {other}")
        for place, other in enumerate(others)
    }
    if front.by_time:
        found["hypervolume"] = hypervolume_chart(front), "Hypervolume over device time"
    return found


def front_chart(front: Front, y: str, x: str) -> Figure:
    """Two objectives of every point, with intervals; of three and more the front does not lie on a
    line here."""
    rest = [point for point in front.points if not point.on_front]
    kinds = (
        ("on the front", front.on_front, "--c1", "diamond"),
        ("dominated, or over fewer seeds", rest, "--c0", "circle-open"),
    )
    return {
        "data": [
            {
                "name": name,
                "x": [point.estimates[x].mean for point in shown],
                "y": [point.estimates[y].mean for point in shown],
                "error_x": _bars(shown, x, colour),
                "error_y": _bars(shown, y, colour),
                "text": [shorten(point.cell, 60) for point in shown],
                "customdata": [point.n for point in shown],
                "mode": "markers",
                "marker": {"color": colour, "size": 8, "symbol": symbol},
                "hovertemplate": "%{text} (n = %{customdata})<br>%{y:.4f}, %{x:.4s}<extra></extra>",
            }
            for name, shown, colour, symbol in kinds
            if shown
        ],
        "layout": {
            "xaxis": {"title": {"text": _label(x)}},
            "yaxis": {"title": {"text": _label(y)}},
            "height": 380,
            "showlegend": True,
        },
    }


def hypervolume_chart(front: Front) -> Figure:
    return {
        "data": [
            {
                "x": [seconds for seconds, _ in front.by_time],
                "y": [share for _, share in front.by_time],
                "mode": "lines+markers",
                "line": {"color": "--c0", "shape": "hv", "width": 2},
                "marker": {"color": "--c0", "size": 4},
                "hovertemplate": "%{y:.3f} after %{x:,.0f} s<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": "device time (s)"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "hypervolume (share of the box)"}, "range": [0, 1.02]},
            "height": 320,
            "showlegend": False,
        },
    }


def _bars(points: Sequence[FrontPoint], name: str, colour: str) -> Figure:
    """No bar where a point has one seed, nor of a figure of the config."""
    halves = [
        0.0 if of.low is None or name in FIGURES else of.high - of.mean
        for of in (point.estimates[name] for point in points)
    ]
    return {
        "type": "data",
        "array": halves,
        "color": colour,
        "thickness": 1.2,
        "visible": any(halves),
    }


def _label(name: str) -> str:
    unit = measure_of(name).unit
    return name if unit in ("1", "parameters") else f"{name} ({unit})"
