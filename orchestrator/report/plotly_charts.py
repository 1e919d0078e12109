"""The charts of a report as plotly figures: plain dicts, from the arrays of `figure_data`.

A colour is the name of a variable of the page's style sheet ("--c0", or "--c0/0.2" for a
transparent one), so that one figure reads in light, in dark and in print; `with_colours` puts in
the light ones for pages that have no such sheet.

S seeds, E evaluations, M MoE blocks, N experts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.report.figure_data import Curve, Interval, Load, Specialization
from orchestrator.report.pareto import NAMES, Cost, ParetoPoint
from orchestrator.stores.importances import Importance

Figure = dict[str, Any]

# Okabe and Ito's, as in the figures for print (orchestrator/report/figure_frame.py).
LIGHT = {
    "--c0": "#0072B2",
    "--c1": "#D55E00",
    "--c2": "#009E73",
    "--c3": "#CC79A7",
    "--c4": "#E69F00",
    "--c5": "#56B4E9",
    "--ink": "#1f2328",
    "--grey": "#6e7781",
}
COLOURS = tuple(name for name in LIGHT if name.startswith("--c"))
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_ROW_PX = 26


def curves_chart(
    curves: Sequence[Curve], reference: str | None, *, x_label: str, y_label: str, log_scale: bool
) -> Figure:
    """A line a cell, and a band from its lowest to its highest seed."""
    data: list[Figure] = []
    for i, curve in enumerate(curves):
        is_reference = curve.cell == reference
        colour = "--ink" if is_reference else COLOURS[i % len(COLOURS)]
        dash = "dash" if is_reference else DASHES[i // len(COLOURS) % len(DASHES)]
        common = {"legendgroup": curve.cell, "x": _list(curve.x_E)}
        if curve.low_E is not None:
            edge = {**common, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
            edge["showlegend"] = False
            data.append({**edge, "y": _list(curve.low_E)})
            fill = {"fill": "tonexty", "fillcolor": f"{colour}/0.13"}
            data.append({**edge, **fill, "y": _list(curve.high_E)})
        data.append(
            {
                **common,
                "name": f"{curve.cell} (n = {curve.n})",
                "y": _list(curve.mean_E),
                "mode": "lines",
                "line": {"color": colour, "dash": dash, "width": 2},
            }
        )
    layout = {
        "xaxis": {"title": {"text": x_label}},
        "yaxis": {"title": {"text": y_label}, **({"type": "log"} if log_scale else {})},
        "height": 380 + 22 * len(curves),
        "showlegend": True,
    }
    return {"data": data, "layout": layout}


def forest_chart(rows: Sequence[Interval], *, label: str, zero: bool) -> Figure:
    """Seeds as dots, the mean with its interval if it has one; `zero`: rows are differences."""
    names = [
        f"{row.cell} (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{len(row.values)})" for row in rows
    ]
    seeds = {
        "name": "one seed",
        "x": [value for row in rows for value in row.values],
        "y": [name for name, row in zip(names, rows, strict=True) for _ in row.values],
        "mode": "markers",
        "marker": {"color": "--c1", "size": 6, "symbol": "circle-open"},
    }
    known = [(name, row) for name, row in zip(names, rows, strict=True) if row.low is not None]
    mean = {
        "name": "mean with its 95% t interval",
        "x": [row.mean for _, row in known],
        "y": [name for name, _ in known],
        "mode": "markers",
        "marker": {"color": "--c0", "size": 8, "symbol": "diamond"},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [row.high - row.mean for _, row in known],
            "arrayminus": [row.mean - row.low for _, row in known],
            "color": "--c0",
            "thickness": 1.5,
        },
    }
    layout: Figure = {
        "xaxis": {"title": {"text": label}},
        "yaxis": {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": names[::-1],
            "automargin": True,
        },
        "height": 150 + _ROW_PX * len(rows),
        "meta": {"rows": names},
    }
    if zero:
        layout["shapes"] = [_line("--grey", x=0)]
    return {"data": [mean, seeds] if known else [seeds], "layout": layout}


def load_chart(load: Load, ceiling: float) -> Figure:
    """A map at the last evaluation: a row a block, a column a rank; shares over an even one.

    `ceiling` is the end of the scale of colours, the same for maps that are compared.
    """
    ratio_MN = load_ratio(load)[-1]
    layout = {
        "xaxis": {"title": {"text": "expert, by rank"}, "type": "category"},
        "yaxis": {"title": {"text": "layer"}, "type": "category", "autorange": "reversed"},
        "height": 120 + max(60, _ROW_PX * len(load.layers)),
    }
    few = ratio_MN.shape[1] <= 8
    return {
        "data": [
            {
                "type": "heatmap",
                "x": [str(rank + 1) for rank in range(ratio_MN.shape[1])],
                "y": [str(layer) for layer in load.layers],
                "z": _list(ratio_MN.round(4)),
                "zmin": 0,
                "zmax": ceiling,
                "zmid": 1,
                "colorscale": [
                    [0, "#2166ac"],
                    [1 / ceiling, "#f7f7f7"],
                    [1, "#b2182b"],
                ],
                "colorbar": {"title": {"text": "x even"}, "thickness": 10, "len": 1},
                "hovertemplate": "layer %{y}, rank %{x}: %{z:.3f} times even<extra></extra>",
                **({"texttemplate": "%{z:.2f}"} if few else {}),
            }
        ],
        "layout": layout,
    }


def load_ratio(load: Load) -> np.ndarray:
    """[E, M, N]: the mean over seeds of each rank's share, over the share of an even load."""
    return load.load_SEMN.mean(axis=0) * load.load_SEMN.shape[3]


def specialization_chart(panel: Specialization, top: float) -> Figure:
    """One cell: NMI of expert and label in each layer, over its permutation null.

    `top` is the largest value of all panels, so that they share a scale.
    """
    layers = [str(layer) for layer in panel.layers]
    data: list[Figure] = [
        {
            "type": "bar",
            "name": "permutation null, 95%",
            "x": layers,
            "base": _list(panel.null_low_M),
            "y": _list(panel.null_high_M - panel.null_low_M),
            "marker": {"color": "--grey/0.35"},
            "hovertemplate": "null from %{base:.4f}, %{y:.4f} wide<extra></extra>",
        }
    ]
    if panel.random_M is not None:
        data.append(_points("random linear router", layers, panel.random_M, "--c1", "x", "dot"))
    seeds = {
        **_points("trained, one seed", layers * len(panel.nmi_SM), panel.nmi_SM.ravel()),
        "mode": "markers",
        "marker": {
            "color": "--c0/0.6",
            "size": 7,
            "symbol": ["circle" if above else "circle-open" for above in panel.above_SM.ravel()],
        },
        "text": [
            "above its own null" if above else "within its own null"
            for above in panel.above_SM.ravel()
        ],
        "hovertemplate": "layer %{x}: %{y:.4f}, %{text}<extra></extra>",
    }
    data.append(seeds)
    mean = _points("trained, mean", layers, panel.nmi_SM.mean(axis=0), "--c0")
    data.append({**mean, "mode": "lines"})
    layout = {
        "xaxis": {"title": {"text": "layer"}, "type": "category"},
        "yaxis": {"title": {"text": "NMI(expert; label)"}, "range": [0, 1.06 * top]},
        "height": 250,
        "showlegend": False,
    }
    return {"data": data, "layout": layout}


def highest(panel: Specialization) -> float:
    """The largest value that the panel shows."""
    shown = [panel.nmi_SM, panel.null_high_M, *([] if panel.random_M is None else [panel.random_M])]
    return max(float(np.max(values)) for values in shown)


def importance_chart(shares: Mapping[str, Importance]) -> Figure:
    """A bar a parameter, with its interval where there is one."""
    names = list(shares)
    below, above = (
        [0.0 if of.low is None else abs(bound(of) - of.share) for of in shares.values()]
        for bound in (lambda of: of.low, lambda of: of.high)
    )
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "x": [of.share for of in shares.values()],
                "y": names,
                "text": [f"{of.share:.2f}" for of in shares.values()],
                "textposition": "inside",
                "insidetextanchor": "start",
                "marker": {"color": "--c0"},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": above,
                    "arrayminus": below,
                    "color": "--ink",
                    "visible": any(of.low is not None for of in shares.values()),
                },
                "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": "importance (shares of 1)"}, "rangemode": "tozero"},
            "yaxis": {"categoryorder": "array", "categoryarray": names[::-1], "automargin": True},
            "height": 130 + _ROW_PX * len(names),
            "meta": {"rows": names},
        },
    }


def pareto_chart(points: Sequence[ParetoPoint], *, metric: str, against: Cost = "flops") -> Figure:
    """The metric against a cost: the front as a line with its cells, the rest as dots."""
    front = [point for point in points if point.on_front]
    rest = [point for point in points if not point.on_front]
    least, most = points[0].spends(against), points[-1].spends(against)
    unit = {"flops": "FLOPs", "active": " active parameters"}[against]
    data = [
        {
            "name": name,
            "x": [point.spends(against) for point in shown],
            "y": [point.value for point in shown],
            "text": [point.cell for point in shown],
            "customdata": [point.n for point in shown],
            "mode": mode,
            "textposition": _beside([point.spends(against) for point in shown], least, most),
            "cliponaxis": False,
            "line": {"color": colour, "shape": "hv", "width": 1.5},
            "marker": {"color": colour, "size": 8, "symbol": symbol},
            "hovertemplate": "%{text} (n = %{customdata})<br>"
            f"%{{y:.4f}} at %{{x:.3s}}{unit}<extra></extra>",
        }
        for name, shown, mode, colour, symbol in (
            ("on the front", front, "lines+markers+text", "--c1", "diamond"),
            ("dominated", rest, "markers", "--c0", "circle-open"),
        )
        if shown
    ]
    title = f"{NAMES[against]}{' of a trial' if against == 'flops' else ''}"
    x_axis: Figure = {"title": {"text": title}, "tickformat": ".3~s"}
    if least == most:
        x_axis |= {"range": [0.5 * least, 1.5 * most], "nticks": 5}
    return {
        "data": data,
        "layout": {
            "xaxis": x_axis,
            "yaxis": {"title": {"text": metric}, "range": _with_room([p.value for p in points])},
            "height": 380,
            "showlegend": True,
        },
    }


def _beside(places: Sequence[float], least: float, most: float) -> list[str]:
    """Where a name stands: above its point, where no step of the front is, towards the middle."""
    return [f"top {'left' if 2 * place > least + most else 'right'}" for place in places]


def _with_room(values: Sequence[float]) -> list[float]:
    """A range that holds the names below and above the outermost points, too."""
    low, high = min(values), max(values)
    room = 0.15 * (high - low) or 0.01 * abs(high) or 1.0
    return [low - room, high + room]


def with_colours(figure: Figure, colours: Mapping[str, str] = LIGHT) -> Figure:
    """The figure with each colour variable replaced by its value."""

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put(each) for key, each in value.items()}
        if isinstance(value, list):
            return [put(each) for each in value]
        if isinstance(value, str) and (found := re.fullmatch(r"(--\w+)(?:/([\d.]+))?", value)):
            return _rgba(colours[found[1]], found[2])
        return value

    return put(figure)


def _rgba(colour: str, alpha: str | None) -> str:
    if alpha is None:
        return colour
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def _points(
    name: str,
    x: Sequence[str],
    y: np.ndarray,
    colour: str = "--c0",
    symbol: str = "circle",
    dash: str = "solid",
) -> Figure:
    return {
        "name": name,
        "x": list(x),
        "y": _list(y),
        "mode": "lines+markers",
        "line": {"color": colour, "dash": dash, "width": 1.5},
        "marker": {"color": colour, "symbol": symbol, "size": 7},
    }


def _line(colour: str, *, x: float) -> Figure:
    at = {"x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper"}
    return {"type": "line", **at, "line": {"color": colour, "width": 1, "dash": "dash"}}


def _list(array: np.ndarray) -> list:
    return np.asarray(array, dtype=float).tolist()
