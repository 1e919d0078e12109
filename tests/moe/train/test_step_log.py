from __future__ import annotations

import math
import pickle

import pytest
import torch

from moe.train.step_log import LOSS, DivergenceError, StepLog


def _filled(rows, capacity=4):
    log = StepLog(capacity, "cpu")
    for step, (loss, norm) in enumerate(rows, start=1):
        log.write(step, torch.tensor([loss, norm, 0.0, 0.0]))
    return log


def test_means_are_over_the_asked_steps_when_the_ring_has_turned():
    log = _filled([(float(step), 1.0) for step in range(1, 251)])
    assert log.means(151, 250)[LOSS] == pytest.approx(200.5)
    assert log.means(201, 201)[LOSS] == 201


@pytest.mark.parametrize(
    ("loss", "norm", "reason"),
    [
        (math.nan, 1.0, "the loss is nan"),
        (math.inf, 1.0, "the loss is inf"),
        (101.0, 1.0, "above train.max_loss=100"),
        (2.0, math.nan, "the gradient's norm is nan at a loss of 2 nats"),
    ],
)
def test_divergence_names_the_first_such_step_and_the_reason(loss, norm, reason):
    log = _filled([(2.0, 1.0), (loss, norm), (math.nan, math.nan)])
    with pytest.raises(DivergenceError, match=reason) as caught:
        log.check(1, 3, max_loss=100)
    assert caught.value.step == 2
    assert caught.value.loss == pytest.approx(loss, nan_ok=True)
    log.check(1, 1, max_loss=100)
    log.check(4, 3, max_loss=100)  # nothing new to look at


def test_divergence_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(DivergenceError(7, math.nan, "the loss is nan")))
    assert (error.step, str(error)[:40]) == (7, "training diverged at step 7: the loss is")
