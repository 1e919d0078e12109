"""Kendall's tau of two launches, over the points that both ran."""

from __future__ import annotations

import dataclasses

import pytest
from scipy.stats import kendalltau

from orchestrator.report.rank_agreement import agreement_text, rank_agreement
from orchestrator.stores.trial_record import TrialRecord


def record(k, value, *, seed=0, state="complete", is_older=False):
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrialRecord))
    own = {"params": {"moe.top_k": k}, "value": value, "seed": seed, "state": state}
    return TrialRecord(**{**fields, **own, "is_older": is_older})


def test_it_is_over_points_in_common_at_the_mean_of_their_seeds():
    ours = [record(1, 1.0), record(1, 3.0, seed=1), record(2, 1.5), record(3, 0.5), record(4, 0.1)]
    theirs = [record(k, value) for k, value in ((1, 20.0), (2, 30.0), (3, 10.0), (5, 0.0))]
    found = rank_agreement(ours, theirs)
    assert found.n == 3
    assert found.tau == pytest.approx(kendalltau([2.0, 1.5, 0.5], [20.0, 30.0, 10.0])[0])
    assert found.ci_low < found.tau < found.ci_high
    assert f"{found.tau:.2f} [" in agreement_text(found)
    assert rank_agreement(ours, theirs[1:]) is None, "two points have no order to speak of"
    without = [*theirs[:2], record(3, None, state="pruned")]
    assert rank_agreement(ours, without) is None
    assert rank_agreement(ours, [*theirs[:2], record(3, 1.0, is_older=True)]) is None
    assert rank_agreement(ours, [record(k, 1.0) for k in (1, 2, 3)]) is None, "all tied"
