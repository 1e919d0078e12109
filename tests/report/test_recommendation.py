"""What is told of a race's winner: from which seeds, on which split, beside what."""

from __future__ import annotations

import dataclasses
import json

import pytest

from moe import identity
from moe.metrics import TEST_LOSS, VAL_LOSS
from orchestrator.report.race import CONFIRM_SEEDS, RACE_SEEDS, Budget, race_of
from orchestrator.report.recommendation import Recommendation
from orchestrator.report.recommendation_text import axis_rows, lines_of
from orchestrator.stores.trial_record import CONFIG, METRICS, TrialRecord
from orchestrator.surrogate.effects import Effect, Effects
from search_spaces.overlay import overlay
from tests.fixtures.studies import TINY

BUDGET = Budget(finalists=2, race=4, confirm=2)
EFFECTS = Effects(
    main=(
        Effect(path="moe.top_k", value=1, cost=0.2, low=0.1, high=0.3),
        Effect(path="moe.router", value="frozen", cost=0.01, low=-0.1, high=0.12),
        Effect(path="moe.router", value="random", cost=0.02, low=-0.1, high=0.13),
        Effect(path="moe.num_experts", value=2, cost=0.4, low=0.3, high=0.5),
        Effect(path="moe.num_experts", value=8, cost=-0.019, low=-0.025, high=-0.012),
    ),
    pairs=(
        Effect(
            path="moe.top_k",
            value=1,
            other="moe.router",
            other_value="frozen",
            cost=-0.05,
            low=-0.08,
            high=-0.02,
        ),
    ),
)


def record(point, seed, value, test=None):
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrialRecord))
    metrics = {VAL_LOSS: value} | ({TEST_LOSS: test} if test is not None else {})
    own = {"cell_hash": point, "cell": f"cell-{point}", "seed": seed, "value": value}
    own |= {"state": "complete", "number": seed, "attributes": {METRICS: metrics}, "curve": {}}
    own |= {"params": {"moe.top_k": {"a": 2, "b": 1}[point]}, "is_older": False}
    own["params"] |= {"moe.router": "learned", "moe.num_experts": 4}
    return TrialRecord(**{**fields, **own})


def told(trials, effects=EFFECTS, at_ends=None):
    race = race_of(["a", "b"], trials, BUDGET, cost=float)
    return Recommendation.of("s", "s/smoke", VAL_LOSS, race, trials, effects, at_ends or {})


def trials_of(*, with_test):
    found = [record("a", 0, 1.80), record("b", 0, 1.70)]
    for i in range(2):
        found.append(record("a", RACE_SEEDS + i, 2.00 + 0.01 * i))
        found.append(record("b", RACE_SEEDS + i, 2.10 - 0.01 * i))
        test = 2.2 + 0.02 * i if with_test else None
        found.append(record("a", CONFIRM_SEEDS + i, 2.05 + 0.02 * i, test))
    return found


@pytest.mark.parametrize(
    ("with_test", "metric", "mean"), [(True, TEST_LOSS, 2.21), (False, VAL_LOSS, 2.06)]
)
def test_the_winner_is_told_on_seeds_and_text_that_chose_nothing(with_test, metric, mean):
    found = told(trials_of(with_test=with_test))
    answer = found.as_json()
    json.dumps(answer, allow_nan=False)
    winner = answer["winner"]
    assert winner["cell"] == "cell-a", "though b looked better when they were chosen"
    assert winner["chosen_at"] == 1.80
    assert winner["race_mean"] == pytest.approx(2.005)
    assert winner["confirmed"]["metric"] == metric
    assert winner["confirmed"]["n"] == 2
    assert winner["confirmed"]["mean"] == pytest.approx(mean)
    assert winner["confirmed"]["ci_low"] < mean < winner["confirmed"]["ci_high"]
    assert answer["not_told_apart"] == ["cell-b"], "two seeds decide nothing"
    lines = found.lines()
    assert lines[0].startswith("recommended: cell-a (moe.top_k=2, moe.router=learned")
    assert lines[1].startswith(f"{metric}: {mean:.4f} [")
    assert "it looked like 1.8000 when it was chosen" in lines[1]
    assert "cannot be told apart from it at 5% of all races: cell-b (+0.0900 over 2 s" in lines[2]


def test_a_winner_at_an_end_of_a_domain_is_said_to_be():
    found = told(trials_of(with_test=False), at_ends={"moe.top_k": (1, 2)})
    assert json.loads(json.dumps(found.as_json()))["at_ends"] == {"moe.top_k": [1, 2]}
    (line,) = (line for line in found.lines() if line.startswith("at an end"))
    assert "at an end of what was searched: moe.top_k=2 (1 to 2); what lies beyond" in line
    without = {key: value for key, value in found.as_json().items() if key != "at_ends"}
    assert line not in lines_of(without), "one that was kept before lacks it"
    assert len(lines_of(without)) == len(found.lines()) - 1


def test_effects_are_told_where_their_intervals_leave_none_out():
    lines = told(trials_of(with_test=False)).lines()
    assert "moe.num_experts=2 would cost 0.4000 [0.3000, 0.5000]" in lines
    assert (
        "moe.top_k=1 and moe.router=frozen together would be better by 0.0500 [0.0200, 0.0800] "
        "beside what each does by itself"
    ) in lines
    assert "of 1 of the other values of axes the cost cannot be told from none" in lines
    assert not any("pairs of values" in line for line in lines)
    hidden = dataclasses.replace(EFFECTS.pairs[0], high=0.02)
    unclear = told(
        trials_of(with_test=False), dataclasses.replace(EFFECTS, pairs=(hidden, hidden))
    ).lines()
    assert "of 2 pairs of values what they do together is not told from the sum" in unclear
    assert (
        "not told: too few" in told(trials_of(with_test=False), Effects(why_not="too few")).lines()
    )


def test_each_axis_is_told_with_the_value_believed_best_and_what_leaving_costs_at_least():
    found = told(trials_of(with_test=False))
    answer = found.as_json()
    json.dumps(answer, allow_nan=False)
    assert {one["path"]: (one["value"], one["best"], one["cost"]) for one in answer["axes"]} == {
        "moe.top_k": (2, 2, 0.2),
        "moe.router": ("learned", "learned", 0.01),
        "moe.num_experts": (4, 8, -0.019),
    }
    lines = found.lines()
    assert "moe.top_k=2, believed best: 1 instead would cost 0.2000 [0.1000, 0.3000]" in lines
    assert (
        "moe.num_experts=4, though 8 is believed best: 8 instead would be better by 0.0190 "
        "[0.0120, 0.0250]"
    ) in lines
    (unsure,) = [line for line in lines if line.startswith("moe.router=learned")]
    assert unsure.endswith("+0.0100 [-0.1000, +0.1200], which cannot be told from none")
    assert not any("cost -" in line for line in lines), "a gain is no cost"
    assert axis_rows(answer)[2][:4] == ["moe.num_experts", "4", "8", "-0.0190"]
    del answer["axes"]
    kept = lines_of(answer)
    assert axis_rows(answer) == []
    assert "moe.num_experts=8 would be better by 0.0190 [0.0120, 0.0250]" in kept, "as of before"


@pytest.mark.parametrize(
    ("leaking", "said"),
    [("a", "the recommended point is"), ("b", "of the finalists cell-b is"), ("", None)],
)
def test_who_reads_later_tokens_is_not_causal(leaking, said):
    """A search finds the leak where its space has it."""
    by_mean = identity.told(overlay(TINY, {"moe.routing_unit": "sequence"}))
    trials = [
        dataclasses.replace(
            one, attributes={**one.attributes, CONFIG: by_mean if one.cell_hash in leaking else {}}
        )
        for one in trials_of(with_test=False)
    ]
    found = told(trials)
    assert found.as_json()["not_causal"] == [f"cell-{one}" for one in leaking]
    lines = [line for line in found.lines() if line.startswith("not causal: ")]
    assert [line.removeprefix("not causal: ").partition(" routed")[0] for line in lines] == (
        [said] if said else []
    )


def test_a_race_under_way_says_so():
    found = told([record("a", 0, 1.8), record("b", 0, 1.7)])
    assert found.lines() == ["the race goes on: 2 of 2 points are left"]
    assert found.as_json()["winner"] is None
    assert found.as_json()["is_over"] is False
