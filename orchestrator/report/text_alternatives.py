"""What a figure shows, in words and numbers: for readers who do not see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.report.figure_data import Curve, Interval, Load, Specialization
from orchestrator.report.figure_labels import last_part
from orchestrator.report.interactions import Interaction
from orchestrator.report.pareto import NAMES, Cost, ParetoPoint
from orchestrator.stores.importances import Importance


def curves_text(curves: Sequence[Curve], label: str) -> str:
    ends = "; ".join(f"{curve.cell} {curve.mean_E[-1]:.4g}" for curve in curves)
    return f"Curves of {label} over training; at the end: {ends}."


def intervals_text(rows: Sequence[Interval], label: str) -> str:
    told = "; ".join(f"{row.cell} {_with_bounds(row)}" for row in rows)
    return f"{label}, mean with its interval: {told}."


def interaction_text(found: Interaction) -> str:
    """How far what one axis does depends on the other, and what is not held equal."""
    row, column = last_part(found.row_axis), last_part(found.column_axis)
    told = [
        f"{row} {each.row} against {found.rows[0]}, at {column} {each.column} more than at "
        f"{found.columns[0]} by {_with_bounds(each.found)}"
        for each in found.contrasts
    ]
    if found.along:
        told.append(f"not held equal: {', '.join(found.along)}")
    return "; ".join(told)


def means_text(found: Interaction, label: str) -> str:
    means = "; ".join(
        f"{row}, {column} {_with_bounds(each)}" for (row, column), each in found.intervals.items()
    )
    return f"{label} by {found.row_axis} and {found.column_axis}: {means}."


def _with_bounds(each: Interval) -> str:
    bounds = "" if each.low is None else f" [{each.low:.4f}, {each.high:.4f}]"
    return f"{each.mean:.4f}{bounds}"


def load_text(load: Load) -> str:
    share_MN = load.load_SEMN.mean(axis=0)[-1] * load.load_SEMN.shape[3]
    layers = "; ".join(
        f"layer {layer} from {row.min():.2f} to {row.max():.2f}"
        for layer, row in zip(load.layers, share_MN, strict=True)
    )
    return f"Load of experts of {load.cell} at the end, in times an even share: {layers}."


def specialization_text(panel: Specialization) -> str:
    layers = "; ".join(
        f"layer {layer} {nmi:.4f} (null up to {high:.4f}, {above} of {len(panel.above_SM)} seeds "
        "above their own)"
        for layer, nmi, high, above in zip(
            panel.layers,
            panel.nmi_SM.mean(axis=0),
            panel.null_high_M,
            panel.above_SM.sum(axis=0),
            strict=True,
        )
    )
    return f"NMI of expert and label in {panel.cell}: {layers}."


def pareto_text(points: Sequence[ParetoPoint], label: str, against: Cost = "flops") -> str:
    front = "; ".join(
        f"{p.cell} {p.value:.4f} at {p.spends(against):.3g}" for p in points if p.on_front
    )
    return f"{label} against {NAMES[against]}; on the front: {front}."


def importance_text(shares: Mapping[str, Importance]) -> str:
    told = [
        f"{name} {of.share:.2f}" + ("" if of.low is None else f" [{of.low:.2f}, {of.high:.2f}]")
        for name, of in shares.items()
    ]
    return f"Importance: {'; '.join(told)}."
