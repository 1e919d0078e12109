"""A mean over the seeds that are left is ranked against no whole one."""

from __future__ import annotations

import dataclasses

from moe.metrics import VAL_LOSS, describe
from orchestrator.report.pareto import pareto_points
from orchestrator.report.table_text import render
from orchestrator.report.tables import best_row, table_of
from orchestrator.stores.trial_record import TrialRecord

LOSS = describe(VAL_LOSS)
SEEDS = {"whole": {0: 3.0, 1: 3.2}, "half": {0: 2.0}, "better": {0: 2.9, 1: 2.9}, "none": {}}


def records():
    number = 0
    for cell, losses in SEEDS.items():
        for seed in (0, 1):
            attributes = {
                "params_total": 10, "params_active": 10, "flops_per_token": 60,
                "batch_tokens": 128, "num_steps": 8, "moe_digest": "d",
            }  # fmt: skip
            fields = dict.fromkeys(f.name for f in dataclasses.fields(TrialRecord))
            own = {
                "number": number, "cell": cell, "seed": seed, "cell_hash": cell,
                "state": "complete" if seed in losses else "failed", "value": losses.get(seed),
                "tokens": 1024, "params": {}, "attributes": attributes, "curve": {8: 1.0},
            }  # fmt: skip
            yield TrialRecord(**{**fields, **own})
            number += 1


def test_a_table_has_whole_rows_first():
    table = table_of("s", "l", list(records()), best_first=True)
    assert [row.cell for row in table.rows] == ["better", "whole", "half", "none"]
    assert "those over fewer stand below them" in render(table, "markdown")
    grid = table_of("s", "l", list(records()))
    assert "those over fewer" not in render(grid, "markdown")


def test_the_best_point_is_a_whole_one():
    assert best_row(list(records()), LOSS) == ("better", 2.9, 2)
    assert best_row([r for r in records() if r.cell == "none"], LOSS) is None


def test_no_front_holds_a_mean_over_fewer(home):
    front = {p.cell for p in pareto_points(list(records()), home, metric=VAL_LOSS) if p.on_front}
    assert front == {"better"}
