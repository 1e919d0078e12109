"""A rung's correlation with the end is over full curves alone."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

import pytest

from orchestrator.report.rungs import MIN_CURVES, rung_line, rungs, rungs_of_launch
from orchestrator.study import EarlyStopping

STOPPING = EarlyStopping(first_rung=0.2, reduction_factor=2)


def trial(number, curve, state="complete", num_steps=100):
    return SimpleNamespace(
        number=number, state=state, curve=curve, num_steps=num_steps, corpus_digest=None
    )


def test_a_rung_that_foretells_and_one_that_does_not():
    ends = range(MIN_CURVES)
    records = [trial(i, {20: -i, 45: i, 80: 5.0 if i else 4.0, 100: i}) for i in ends]
    records += [trial(99, {20: 50.0}, "pruned"), trial(98, {20: 1.0, 50: 1.0})]
    found = rungs(STOPPING, [100], records)
    assert [(r.step, r.n) for r in found] == [(20, 10), (40, 10), (80, 10)]
    assert found[0].tau == pytest.approx(-1)
    assert found[1].tau == pytest.approx(1)  # judged at the first evaluation past the rung
    assert 0 < found[2].tau < 1
    assert "-1.00, 1.00" in rung_line(found, [100])


def test_too_few_curves_say_so():
    found = rungs(STOPPING, [100], [trial(0, {20: 1.0, 100: 1.0})])
    assert [r.tau for r in found] == [None] * 3
    assert "1 full curves are too few" in rung_line(found, [100])


def test_trials_of_several_lengths_are_compared_at_their_own_rungs():
    short = [trial(i, {10: i, 20: i, 40: i, 50: i}, num_steps=50) for i in range(6)]
    long = [trial(i, {20: 9 - i, 40: i, 80: i, 100: i}) for i in range(6, 12)]
    cut = trial(12, {10: 0.0, 20: 99.0, 50: 1.0})  # an unfinished long one
    found = rungs(STOPPING, [50, 100], [*short, *long, cut])
    assert [(r.share, r.step, r.n) for r in found] == [
        (share, None, 12) for share in (0.2, 0.4, 0.8)
    ]
    assert found[0].tau < 1
    assert found[1].tau == found[2].tau == pytest.approx(1)
    assert "at 20%, 40%, 80% of each trial's own steps (50, 100)" in rung_line(found, [50, 100])
    assert rungs(STOPPING, [100], [*short, *long])[0].n == 6


def test_rungs_between_evaluations_say_where_trials_are_judged():
    records = [trial(i, {30: i, 60: i}, num_steps=60) for i in range(3)]
    found = rungs(STOPPING, [60], records)
    assert [(r.step, r.judged_at) for r in found] == [(12, 30), (24, 30), (48, 60)]
    line = rung_line(found, [60])
    assert "12 at the evaluation of step 30; 24 at the evaluation of step 30" in line
    assert "48 never, since no evaluation lies between it and the end" in line
    at_rungs = [trial(i, {12: i, 24: i, 48: i, 60: i}, num_steps=60) for i in range(3)]
    assert "judged:" not in rung_line(rungs(STOPPING, [60], at_rungs), [60])
    assert [r.judged_at for r in rungs(STOPPING, [60], [])] == [None] * 3


def point(number, cell, rung, end, state="complete", seed=0, **more):
    made = trial(number, {50: rung, 100: end} if state == "complete" else {50: rung}, state)
    made.cell_hash, made.seed, made.is_older, made.diverged = cell, seed, False, False
    made.config = {}
    made.__dict__.update(more)
    return made


GUARDED = EarlyStopping(first_rung=0.5, guarded=0.3)
COUNTED = {"train.loss_start": 32}
KEPT = {"early_stopping": {**GUARDED.as_attributes(), "num_steps": [100]}}


def names(guarded, count):
    found = (f"{i:06d}" for i in range(10**6))
    return list(islice((n for n in found if GUARDED.guards("l", n) is guarded), count))


def test_guarded_points_alone_speak_once_a_point_by_their_mean():
    """Survivors whose ranks hold are among the curves, and a launch beside it: neither is told."""
    records = []
    for i, cell in enumerate(names(True, 12)):
        for seed in (0, 1):
            records.append(point(len(records), cell, i + seed, -i - 3 * seed, seed=seed))
    for i, cell in enumerate(names(False, 30)):
        records.append(point(len(records), cell, i, i))
    others = [point(900 + i, cell, i, i) for i, cell in enumerate(names(True, 20))]
    (found,), lengths = rungs_of_launch(KEPT, records, launch="l", others=others)
    assert (found.n, found.tau) == (12, pytest.approx(-1))
    assert found.low >= -1
    assert found.high < -0.7
    line = rung_line([found], lengths)
    assert "-1.00 [-1.00, -0." in line
    assert "over 12 points that were guarded against it (95% intervals)" in line
    kept = {"early_stopping": {**KEPT["early_stopping"], "guarded": 0.0}}
    (plain,), _ = rungs_of_launch(kept, records, launch="l", others=others)
    assert (plain.n, plain.low) == (74, None)


def test_what_is_evaluated_otherwise_says_nothing():
    """Losses of positions that count no longer, of this launch or of one beside it, would be told
    as curves of those that count now: of 12 whose ranks hold none of the others' is heard."""
    kept = {"early_stopping": {**KEPT["early_stopping"], "guarded": 0.0}, "base": COUNTED}
    own = [point(i, f"{i}", i, i, config={**COUNTED, "moe.top_k": i}) for i in range(12)]
    older = [point(50 + i, f"{i}", i, -i, is_older=True, config={}) for i in range(30)]
    beside = [point(90 + i, f"{i}", i, -i, config={}) for i in range(30)]
    alike = [point(130 + i, f"{i}", i, i, config={**COUNTED, "data.num": 1}) for i in range(3)]
    (found,), _ = rungs_of_launch(kept, [*own, *older], others=[*beside, *alike])
    assert (found.n, found.tau) == (15, pytest.approx(1))
    (at_first,), _ = rungs_of_launch(kept, older, others=[*beside, *alike])
    assert at_first.n == 3


def test_points_from_before_the_rule_guarded_say_nothing():
    """One that was stopped all the same tells when it was; not one of which a seed diverged."""
    cells = names(True, 26)
    records = [point(i, cell, i, i) for i, cell in enumerate(cells[:12])]
    records.append(point(12, cells[12], 5.0, None, "pruned"))
    records += [point(13 + i, cell, i, -i) for i, cell in enumerate(cells[13:25])]
    diverged = cells[25]
    records.append(point(30, diverged, 5.0, None, "pruned"))
    records.append(point(31, diverged, 5.0, None, "failed", seed=1, diverged=True))
    (found,), _ = rungs_of_launch(KEPT, records, launch="l")
    assert (found.n, found.tau) == (12, pytest.approx(-1))
