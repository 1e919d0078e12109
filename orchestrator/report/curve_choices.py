"""What a reader may choose of the curves on the page: the values of every seed, and what a step is
in tokens, FLOPs and device time. The page draws from these; nothing is averaged away beforehand.
"""

from __future__ import annotations

from typing import Any

from orchestrator.report.figure_data import CellTrials
from orchestrator.report.launch_data import LaunchData
from orchestrator.stores.trial_record import FLOPS_PER_TOKEN, TrialRecord

MOST_STOPPED = 60  # pruned trials whose curves are drawn, the newest of them
STEPS, TOKENS, FLOPS, SECONDS = (
    "optimiser step",
    "training tokens",
    "training FLOPs",
    "device seconds",
)


def curve_choices(data: LaunchData) -> dict[str, Any]:
    """`axes`: what x may be, those that are known of every cell. Of a cell its seeds' values, each
    over its own steps; `per_step`: an axis's unit for one step. `stopped`: pruned trials."""
    shown = {curve.cell for curve in data.curves}
    cells = [cell for cell in data.cells if cell.name in shown]
    per_step = [_per_step(data, cell) for cell in cells]
    axes = [axis for axis in (TOKENS, STEPS, FLOPS, SECONDS) if all(axis in of for of in per_step)]
    stopped = [r for r in data.launch.trials if r.state == "pruned" and r.curve and not r.is_older]
    return {
        "metric": data.launch.metric,
        "label": data.metric_label,
        "is_loss": data.is_loss,
        "rising": data.launch.measure.better == "higher",
        "axes": axes,
        "cells": [
            {
                "name": cell.name,
                "is_reference": cell.name == data.reference,
                "per_step": {axis: of[axis] for axis in axes},
                "seeds": [_seed(record) for record in cell.trials if record.curve],
            }
            for cell, of in zip(cells, per_step, strict=True)
        ],
        "stopped": [
            {"name": r.cell, **_seed(r), "per_step": _of_trial(r)} for r in stopped[-MOST_STOPPED:]
        ],
    }


def _seed(record: TrialRecord) -> dict[str, Any]:
    points = sorted(record.curve.items())
    return {"seed": record.seed, "x": [step for step, _ in points], "y": [y for _, y in points]}


def _per_step(data: LaunchData, cell: CellTrials) -> dict[str, float]:
    found = {STEPS: 1.0}
    tokens = data.tokens_of_step(cell)
    if tokens:
        found[TOKENS] = tokens
        found[FLOPS] = tokens * cell.trials[0].attributes.get(FLOPS_PER_TOKEN, 0)
    timed = [r.device_s / max(r.curve) for r in cell.trials if r.device_s and r.curve]
    if timed:
        found[SECONDS] = sum(timed) / len(timed)
    return {axis: value for axis, value in found.items() if value}


def _of_trial(record: TrialRecord) -> dict[str, float]:
    found = {STEPS: 1.0}
    if record.batch_tokens:
        found[TOKENS] = float(record.batch_tokens)
        found[FLOPS] = record.batch_tokens * record.attributes.get(FLOPS_PER_TOKEN, 0)
    if record.device_s:
        found[SECONDS] = record.device_s / max(record.curve)
    return found
