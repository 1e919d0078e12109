"""What a report says a launch cost is what its trials paid, however they ended."""

from __future__ import annotations

import dataclasses

import pytest

from moe.metrics import DEVICE_S as MEASURED
from orchestrator.report.cost import cost_rows
from orchestrator.stores.trial_record import (
    BATCH_TOKENS,
    DEVICE_S,
    FLOPS_PER_TOKEN,
    METRICS,
    NUM_STEPS,
    REUSED_FROM,
    TrialRecord,
)


def trial(number, cell, state, *, tokens=100, device_s=None, **attributes):
    if device_s is not None:
        kept = {METRICS: {MEASURED: device_s}} if state == "complete" else {DEVICE_S: device_s}
        attributes |= kept
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrialRecord))
    own = {"number": number, "cell": cell, "state": state, "tokens": tokens}
    fields["params"] = {}
    return TrialRecord(**{**fields, **own, "attributes": {FLOPS_PER_TOKEN: 3, **attributes}})


def test_trials_count_however_they_ended():
    records = [
        trial(0, "a", "complete", device_s=5.0),
        trial(1, "a", "pruned", tokens=40, device_s=2.0),
        trial(2, "a", "failed", tokens=10, device_s=1.0),
        trial(3, "b", "waiting", tokens=0, device_s=4.0),  # interrupted
        trial(4, "b", "waiting", tokens=0),
        trial(
            5,
            "b",
            "complete",
            device_s=9.0,
            **{REUSED_FROM: "elsewhere", NUM_STEPS: 8, BATCH_TOKENS: 50},
        ),
        trial(6, "b", "pruned", tokens=20),  # of a version that noted no device time
    ]
    a, b, total = cost_rows(records)
    assert (a.trials, a.tokens, a.flops, a.device_s, a.timed) == (3, 150, 450, 8.0, 3)
    assert (b.trials, b.tokens, b.flops, b.device_s, b.timed) == (2, 20, 60, 4.0, 1)
    assert (total.trials, total.tokens, total.timed) == (5, 170, 4)
    assert (b.reused, b.saved_tokens, b.saved_flops) == (1, 400, 1200)
    assert (a.reused, a.saved_tokens, total.saved_tokens) == (0, 0, 400)
    assert total.device_s == pytest.approx(sum(r.device_s for r in records))


def test_nothing_paid_is_no_number():
    (row, total) = cost_rows([trial(0, "a", "waiting", tokens=0)])
    assert row.device_s is total.device_s is None
    assert row.trials == 0


def test_what_an_old_record_does_not_say_was_saved_is_no_number():
    (row, _) = cost_rows([trial(0, "a", "complete", **{REUSED_FROM: "elsewhere"})])
    assert (row.reused, row.saved_tokens, row.saved_flops) == (1, None, None)
