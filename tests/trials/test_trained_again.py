"""Points that early stopping ended, to be trained to their end: which may be."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.base.errors import BadInput
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.trials.trained_again import TrainedAgain, promotable


def record(cell, state, *, seed=0, is_older=False, **attributes):
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrialRecord))
    own = {"cell": cell, "cell_hash": cell, "state": state, "seed": seed, "curve": {}}
    return TrialRecord(**{**fields, **own, "is_older": is_older, "attributes": attributes})


RECORDS = [
    record("stopped", "pruned"),
    record("stopped", "pruned", seed=1),
    record("ran", "complete"),
    record("broken", "failed", diverged_at_step=5),
    record("broken", "pruned", seed=1),
    record("before", "pruned", is_older=True),
]


def test_a_stopped_point_is_named_once_with_all_its_seeds():
    (trials,) = promotable(RECORDS, ["stopped", "stopped"])
    assert [r.seed for r in trials] == [0, 1]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("stoped", "has no stoped. Did you mean stopped?"),
        ("before", "`table` shows all"),
        ("ran", "ran is complete"),
        ("broken", "of broken one diverged"),
    ],
)
def test_others_are_refused_with_the_reason(cell, message):
    with pytest.raises(BadInput) as refused:
        promotable(RECORDS, ["stopped", cell])
    assert message in str(refused.value)


def test_only_what_is_asked_for_is_trained_again():
    again = TrainedAgain(promoted=frozenset({"stopped"}))
    assert [r.cell for r in RECORDS if again.has(r)] == ["stopped", "stopped"]
    failed = TrainedAgain(failed=True)
    assert [r.cell for r in RECORDS if failed.has(r)] == ["broken"]
    assert not any(map(TrainedAgain().has, RECORDS))
