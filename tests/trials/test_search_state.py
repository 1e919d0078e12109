"""What samplers are told: order, refusals, divergences, trials stopped early; and that on no space
of ours chance has to stand in for them."""

from __future__ import annotations

import dataclasses
import math
import random
import sys
from itertools import islice
from pathlib import Path

import optuna
import pytest

from orchestrator.stores.choices import optuna_distributions
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.constraints import Constraint
from orchestrator.study.samplers import Nsga2, as_sampler
from orchestrator.trials.sampling import DRAWS_OF_SAMPLER
from orchestrator.trials.search_history import BoundedHistory
from orchestrator.trials.search_state import Search
from search_spaces.domains import Choice, Float
from search_spaces.space import Infeasible, Space
from studies.scales import SMOKE
from studies.search import space as space_of_search

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

SPACE = Space(
    axes={
        "moe.num_experts": Choice((2, 4, 8, 16)),
        "moe.router": Choice(("learned", "frozen", "random")),
        "optim.learning_rate": Float(low=1e-4, high=1e-1, log=True),
    }
)


def record(number, params, space=SPACE, state="complete", value=None, curve=None, **attributes):
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrialRecord))
    known = optuna_distributions(space)
    own = {"number": number, "trial_id": number, "state": state, "value": value, "params": params}
    own |= {"distributions": {path: known[path] for path in params}, "curve": curve or {}}
    own |= {"config_hash": repr(params)}
    return TrialRecord(**{**fields, **own, "attributes": attributes})


def point(experts=4, router="learned", rate=1e-3):
    return {"moe.num_experts": experts, "moe.router": router, "optim.learning_rate": rate}


def searched(records, is_open=lambda values: True, space=SPACE, **more):
    return Search(space=space, records=records, is_open=is_open, **more)


def test_optunas_samplers_are_told_of_order_and_the_record_keeps_its_choices():
    seen = [record(0, point(8), value=1.0), record(1, point(2, "random"), value=2.0)]
    search = searched(seen, fixed={"moe.num_experts": 16})
    study = search.as_optuna_study(optuna.samplers.RandomSampler(seed=0))
    assert [t.params["moe.num_experts"] for t in study.trials] == [2, 0]
    assert [t.params["moe.router"] for t in study.trials] == ["learned", "random"]
    drawn = list(islice(search.draws(study), 3))
    assert [values["moe.num_experts"] for values in drawn] == [16] * 3
    assert all(SPACE.has(values) for values in drawn)


def test_a_refused_draw_is_told_so_that_it_is_left():
    """TPE, told of no refusal, would draw the same corner for ever."""
    rng = random.Random(0)
    values = [SPACE.draw(rng) for _ in range(30)]
    seen = [record(i, v, value=float(v["moe.num_experts"])) for i, v in enumerate(values)]
    tpe = as_sampler("tpe")

    def drawn(is_open):
        suggestions = tpe.suggestions(searched(seen, is_open), seed=3, index=30)
        return [v["moe.num_experts"] for v in islice(suggestions, 40)]

    experts = drawn(lambda v: v["moe.num_experts"] > 2)
    assert experts[:5].count(2) >= 3, "where the best values lie"
    assert experts[20:].count(2) < experts[:20].count(2)


def test_a_trial_stopped_early_counts_as_what_it_would_have_come_to():
    falls = [record(i, point(rate=1e-3 + i), value=2.0, curve={2: 3.0, 4: 2.0}) for i in range(3)]
    stopped = record(3, point(16), state="pruned", curve={2: 3.5})
    diverged = record(4, point(8), state="failed", curve={2: 9.0}, diverged_at_step=3)
    failed = record(5, point(8), state="failed")
    elsewhere = record(6, point(4), value=0.0)
    elsewhere = dataclasses.replace(elsewhere, params={**point(4), "moe.num_experts": 3})
    running = record(7, point(2), state="running")
    falls = [dataclasses.replace(r, params=point(rate=1e-3 * (r.number + 1))) for r in falls]
    search = searched([*falls, stopped, diverged, failed, elsewhere, running])
    assert [one.cost for one in search.seen] == [2.0, 2.0, 2.0, 2.5, float("inf")]
    assert search.pending == [point(2)]
    promoted = record(8, point(16), value=2.2, curve={2: 3.5, 4: 2.2})
    search = searched([*falls, stopped, promoted])
    assert [one.cost for one in search.seen] == [2.0, 2.0, 2.0, 2.2]


def test_a_genetic_sampler_knows_its_generations():
    """Its own marks are of the study that it drew in, which ours are not: untold, it would draw at
    random for ever."""
    rng = random.Random(0)
    values = [SPACE.draw(rng) for _ in range(200)]
    seen = [record(i, v, value=abs(v["moe.num_experts"] - 8.0)) for i, v in enumerate(values)]
    search = searched(seen[:60])
    drawn = [
        next(Nsga2().suggestions(search, seed=seed, index=60))["moe.num_experts"]
        for seed in range(30)
    ]
    assert drawn.count(8) > 15, "a quarter of them by chance"


def wide():
    import search_problems

    return search_problems.wide_space(SMOKE)


@pytest.mark.parametrize(
    ("name", "space", "trials"),
    [
        ("tpe", space_of_search, 60),
        ("tpe", lambda _: wide(), 60),
        ("gp", space_of_search, 15),
        ("gp", lambda _: wide(), 15),
        ("qmc", lambda _: wide(), 30),
    ],
)
def test_chance_stands_in_for_no_sampler(name, space, trials):
    """On the spaces of studies/search.py and of benchmarks/search_problems.py: 85% were drawn at
    random there while refusals were told to nobody."""
    space, sampler, rng = space(SMOKE), as_sampler(name), random.Random(0)
    seen, known, fallbacks = [], [], 0

    def is_open(values):
        try:
            space.config(SMOKE, values)
        except Infeasible:
            return False
        return values not in known

    for index in range(trials):
        search = searched(seen, is_open, space)
        suggestions = sampler.suggestions(search, seed=index, index=index)
        values = next(filter(is_open, islice(suggestions, DRAWS_OF_SAMPLER)), None)
        if values is None:
            fallbacks += 1
            continue
        known.append(values)
        loss = rng.gauss(0, 0.01) + values.get("moe.top_k", 3) + values["optim.learning_rate"]
        seen.append(record(index, values, space, value=loss))
    assert fallbacks == 0


ALIVE = Constraint("router/dead_experts", at_most=0)


def ended(number, params, loss, dead, seed=0):
    metrics = {"metrics": {"router/dead_experts": dead}}
    made = record(number, params, value=loss, **metrics)
    return dataclasses.replace(made, seed=seed, cell_hash=str(sorted(params.items())))


def test_samplers_of_optuna_are_told_the_mean_over_seeds():
    seen = [
        ended(0, point(8), 1.0, 3),
        ended(1, point(8), 1.0, 0, seed=1),
        ended(2, point(2), 2.0, 0),
    ]
    running = record(3, point(16), state="running")
    search = searched([*seen, running], constraints=[ALIVE])
    study = search.as_optuna_study(optuna.samplers.RandomSampler(seed=0))
    assert [list(t.constraints.values()) for t in study.trials] == [[1.5], [1.5], [0.0], []]
    assert study.best_trial.number == 2
    assert [one.excess for one in search.seen] == [(3,), (0,), (0,)], "the process has its noise"
    assert [one.excess for one in searched(seen).seen] == [None] * 3


@pytest.mark.parametrize(
    "sampler", ["gp", "tpe", "nsga2", optuna.samplers.GPSampler(n_startup_trials=10)]
)
def test_samplers_learn_to_leave_what_violates(sampler):
    """High rates have the lower loss and kill experts."""
    rng, sampler = random.Random(1), as_sampler(sampler)

    def outcome(values):
        rate = math.log10(values["optim.learning_rate"])
        return -rate, max(0.0, 10 * (rate + 2.5))

    found = {}
    for constraints in ([ALIVE], []):
        values = [SPACE.draw(rng) for _ in range(30)]
        seen = [ended(i, v, *outcome(v)) for i, v in enumerate(values)]
        for index in range(30, 42):
            search = searched(seen, constraints=constraints)
            drawn = next(iter(sampler.suggestions(search, seed=index, index=index)))
            seen.append(ended(index, drawn, *outcome(drawn)))
        found[bool(constraints)] = sum(outcome(r.params)[1] == 0 for r in seen[30:])
    assert found[True] > found[False], found


def test_the_history_keeps_the_best_that_satisfy():
    history = BoundedHistory(8, constraints=[ALIVE])
    for number in range(40):
        satisfies = number < 4
        history.note(ended(number, point(), 5.0 if satisfies else 1.0, 0 if satisfies else 2))
    kept = [r.number for r in history.records()]
    assert kept[:2] == [0, 1]
    assert len(kept) == 8
