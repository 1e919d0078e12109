"""Contrasts of a search whose function is known: sizes, intervals, interactions, tuned rates."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from orchestrator.surrogate.effects import effects_about
from orchestrator.surrogate.expected_improvement import Seen
from orchestrator.surrogate.warped_costs import warp_of
from search_spaces.domains import Choice, Float
from search_spaces.space import Space

RATE = "optim.learning_rate"
SPACE = Space(
    axes={
        "model.norm": Choice(("layernorm", "rmsnorm")),
        "model.position": Choice(("learned", "rope")),
        "optim.beta1": Choice((0.8, 0.85, 0.9, 0.95)),
        RATE: Float(low=1e-4, high=1e-1, log=True),
    }
)
REFERENCE = {
    "model.norm": "layernorm",
    "model.position": "learned",
    "optim.beta1": 0.9,
    RATE: 1e-3,
}


def cost(values):
    """rmsnorm is better by 0.1, at its own rate, which is ten times that of layernorm; at
    layernorm's it is worse. Position and beta1 answer together."""
    off = math.log10(values[RATE]) + 3 - (values["model.norm"] == "rmsnorm")
    rope, off_beta = values["model.position"] == "rope", abs(values["optim.beta1"] - 0.9) / 0.05
    better = 0.1 * (values["model.norm"] == "rmsnorm")
    return 3.0 - better + 0.3 * off * off + 0.1 * rope + 0.05 * off_beta * (1 - 2 * rope)


def seen(count, seed, sd=0.01):
    rng = random.Random(seed)
    points = [SPACE.draw(rng) for _ in range(count)]
    return [Seen(values=v, cost=cost(v) + rng.gauss(0, sd)) for v in points]


def truth(path, value):
    return cost({**REFERENCE, path: value}) - cost(REFERENCE)


def test_main_effects_are_those_of_the_function_and_their_intervals_cover():
    covered, told = 0, 0
    for seed in range(6):
        found = effects_about(REFERENCE, SPACE, seen(60, seed))
        for one in found.main:
            if one.path != RATE:
                told += 1
                covered += one.low <= truth(one.path, one.value) <= one.high
                assert one.cost == pytest.approx(truth(one.path, one.value), abs=0.15)
    assert told == 6 * 5
    assert covered >= 25, "95% of 30, within three deviations"


def test_a_tuned_rate_gives_each_design_its_own_best():
    """At the reference's rate rmsnorm looks worse, and is better at the one that it would have."""
    trials = seen(140, 1)
    fixed = {(o.path, o.value): o for o in effects_about(REFERENCE, SPACE, trials).main}
    tuned = effects_about(REFERENCE, SPACE, trials, nuisance=[RATE])
    own = {(o.path, o.value): o for o in tuned.main}
    norm = ("model.norm", "rmsnorm")
    assert fixed[norm].cost == pytest.approx(0.2, abs=0.1)
    assert own[norm].cost == pytest.approx(-0.1, abs=0.05)
    assert own[norm].is_clear
    assert RATE not in {path for path, _ in own}, "it is never itself the answer"


def test_axes_that_answer_together_are_found():
    found = effects_about(REFERENCE, SPACE, seen(90, 2), nuisance=[RATE])
    first = found.pairs[0]
    assert {first.path, first.other} == {"model.position", "optim.beta1"}
    assert first.is_clear
    assert first.cost < 0, "rope turns the loss from beta1 into a gain"
    others = [one for one in found.pairs[1:] if one.is_clear]
    assert len(others) <= 1


def test_what_the_space_refuses_is_told_of_no_axis_and_no_pair():
    """rmsnorm runs at rates above 5e-3 alone, beta1 0.95 never, and rope with no other beta1."""
    asked = []

    def is_feasible(values):
        asked.append(dict(values))
        slow = values["model.norm"] == "rmsnorm" and values[RATE] <= 5e-3
        moved = values["model.position"] == "rope" and values["optim.beta1"] != 0.9
        return not slow and not moved and values["optim.beta1"] != 0.95

    trials = seen(140, 3)
    told = {"reference": REFERENCE, "space": SPACE, "seen": trials, "is_feasible": is_feasible}
    paths = {(one.path, one.value) for one in effects_about(**told).main}
    assert ("model.norm", "rmsnorm") not in paths, "at the reference's own rate"
    found = effects_about(**told, nuisance=[RATE])
    own = {(one.path, one.value): one for one in found.main}
    assert own.keys() == {
        ("model.norm", "rmsnorm"),
        ("model.position", "rope"),
        ("optim.beta1", 0.8),
        ("optim.beta1", 0.85),
    }
    assert own["model.norm", "rmsnorm"].cost == pytest.approx(-0.1, abs=0.05)
    pairs = [{one.path, one.other} for one in found.pairs]
    assert pairs
    assert {"model.position", "optim.beta1"} not in pairs
    assert all(SPACE.has(values) for values in asked)


def test_two_values_that_cannot_be_had_together_are_no_pair():
    """Hashed experts take the gate's axis away: beside them no gate has a cost."""
    axes = {
        "moe.router": Choice(("learned", "hash")),
        "moe.gate": Choice(("switch", "softmax_topk")),
        "optim.beta1": Choice((0.8, 0.9)),
    }
    space, rng = Space(axes=axes), random.Random(0)
    trials = []
    for _ in range(80):
        values = space.draw(rng)
        off = 0.3 * (values.get("moe.gate") == "switch") + 0.1 * (values["moe.router"] == "hash")
        trials.append(Seen(values=values, cost=off + values["optim.beta1"] + rng.gauss(0, 0.01)))
    reference = {"moe.router": "learned", "moe.gate": "switch", "optim.beta1": 0.8}
    assert space.has(reference)
    found = effects_about(reference, space, trials)
    assert len(found.main) == 3
    pairs = [{one.path, one.other} for one in found.pairs]
    assert {"moe.router", "moe.gate"} not in pairs
    assert len(pairs) == 2


@pytest.mark.parametrize("far", [0.5, math.inf])
def test_a_value_that_was_tried_far_from_the_best_alone_is_not_told_to_cost_nothing(far):
    """As searches end: nine trials in ten crowd about the best, and one value was never near it."""
    rng, trials = random.Random(4), []
    for number in range(60):
        values = SPACE.draw(rng)
        is_bad = number % 10 == 0
        values |= {
            "model.norm": "rmsnorm" if is_bad else "layernorm",
            RATE: rng.uniform(8e-4, 1e-3),
        }
        off = far if is_bad else 0.02 * (values["model.position"] == "rope")
        trials.append(Seen(values=values, cost=3.0 + off + rng.gauss(0, 0.005)))
    told = {(o.path, o.value): o for o in effects_about(REFERENCE, SPACE, trials).main}
    norm, rope = told["model.norm", "rmsnorm"], told["model.position", "rope"]
    assert rope.low <= 0.02 <= rope.high
    assert rope.is_clear
    if math.isfinite(far):
        assert norm.low <= far <= norm.high
        assert norm.low > rope.high
    else:
        assert norm.high > rope.cost, "what diverged is as bad as the worst that did not, at least"


def test_a_warp_keeps_the_order_is_linear_at_the_best_and_gives_costs_back():
    costs = np.array([3.0, 3.01, 3.02, 3.04, 3.5, 9.0])
    warp = warp_of(costs)
    values = warp(costs)
    assert (np.diff(values) > 0).all()
    assert (values.mean(), values.std()) == pytest.approx((0, 1))
    assert warp.above_best(values) == pytest.approx(costs - 3.0)
    below = warp.above_best(np.array([warp(np.array([3.0]))[0] - 0.01 / warp.unit / warp.sd]))
    assert below == pytest.approx(-0.01), "at its slope of the best"
    assert (values[1] - values[0]) / (values[2] - values[1]) < 1.2
    assert (values[5] - values[4]) / (values[1] - values[0]) < 100, "550 in costs"
    assert warp_of(np.full(4, 3.0)) is None


def test_too_few_trials_carry_nothing():
    few = effects_about(REFERENCE, SPACE, seen(20, 0))
    assert (few.main, few.pairs) == ((), ())
    assert few.why_not.startswith("effects of 4 axes and conditions need 24 points at least")
    more = effects_about(REFERENCE, SPACE, seen(45, 0))
    assert more.main
    assert more.pairs == ()
    assert "interactions need 48 points" in more.why_not
    alike = [Seen(values=one.values, cost=1.0) for one in seen(40, 0)]
    assert effects_about(REFERENCE, SPACE, alike).why_not == "all trials have the same value"


def test_the_same_trials_say_the_same():
    trials = seen(40, 4)
    once, again = (effects_about(REFERENCE, SPACE, trials, nuisance=[RATE]) for _ in range(2))
    assert once == again
