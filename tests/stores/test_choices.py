"""An axis may get more choices between two runs of a launch, and lose none."""

from __future__ import annotations

import dataclasses
from itertools import islice

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from orchestrator.base.errors import BadInput
from orchestrator.stores.choices import Choices
from orchestrator.stores.importances import importances
from orchestrator.stores.optuna_storage import open_storage
from orchestrator.stores.optuna_trials import CHOICES_ADDED
from orchestrator.trials.search_state import Search
from search_spaces.domains import Choice
from search_spaces.space import Space
from tests.stores.test_enqueued import finish, optunas_own


def with_experts(study, *experts):
    axes = {**study.space.axes, "moe.num_experts": Choice(experts)}
    return dataclasses.replace(study, space=Space(axes=axes))


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_added_choices_are_recorded_and_the_sampler_goes_on(
    hold, sampled_study, said, kind, tmp_path
):
    prefix = {"sqlite": "sqlite:///", "journal": "journal:"}[kind]
    options = {"optuna_storage": f"{prefix}{tmp_path / 'record'}"}
    with hold(with_experts(sampled_study, 4, 6), trials=4, options=options) as session:
        finish(session)
        name = session.launch.name
    wider = with_experts(sampled_study, 2, 4, 6, 8)
    for trials in (12, 16):
        with hold(wider, trials=trials, options=options) as session:
            finish(session)
            assert len({r.cell_hash for r in session.records}) == trials
    assert sum("has the new choices 2, 8" in line for line in said) == 1
    assert {r.params["moe.num_experts"] for r in session.records} == {2, 4, 6, 8}
    study = optuna.load_study(
        study_name=name, storage=open_storage(options["optuna_storage"], create=False)
    )
    assert study.user_attrs[CHOICES_ADDED] == [
        {"at_trial": 4, "choices": {"moe.num_experts": [2, 8]}}
    ]
    own = [t.distributions["moe.num_experts"].choices for t in study.get_trials()]
    assert own == [(4, 6)] * 4 + [(2, 4, 6, 8)] * 12
    assert importances(session.search), "over all trials, under one list"
    refused = pytest.raises(BadInput, match=r"none taken away; moe\.num_experts lacks 8, which")
    with refused, hold(with_experts(sampled_study, 2, 4, 6), options=options):
        pytest.fail("a narrower space was taken")


def test_the_sampler_learns_from_trials_of_both_lists(hold, sampled_study):
    """TPE's draws are those of a study whose trials all had the widest list."""
    with hold(with_experts(sampled_study, 4, 6), trials=4) as session:
        finish(session)
    with hold(with_experts(sampled_study, 2, 4, 6, 8), trials=14) as session:
        finish(session)
        records = session.records
        space = session.launch.space
    search = Search(space=space, records=records, is_open=lambda values: True)
    shown = search.as_optuna_study(optuna.samplers.TPESampler(seed=0))
    found = {t.distributions["moe.num_experts"] for t in shown.get_trials()}
    assert found == {IntDistribution(0, 3)}, "numbers are ordered: their ranks in the widest list"
    ranks = [t.params["moe.num_experts"] for t in shown.get_trials()]
    assert ranks == [(2, 4, 6, 8).index(r.params["moe.num_experts"]) for r in records]
    whole = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    for trial in shown.get_trials():
        whole.add_trial(
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=trial.value
            )
        )
    drawn = [list(islice(search.draws(study), 5)) for study in (shown, whole)]
    assert drawn[0] == drawn[1]
    assert all(values["moe.num_experts"] in (2, 4, 6, 8) for values in drawn[0])


def test_an_enqueued_point_with_a_new_choice_runs(hold, sampled_study, home):
    """Optuna refuses a changed list of choices for the enqueued trial: another stands for it."""
    with hold(with_experts(sampled_study, 4, 6), trials=1) as session:
        finish(session)
    point = {"moe.num_experts": 8, "moe.top_k": 2, "moe.router": "frozen"}
    with hold(with_experts(sampled_study, 4, 6, 8), trials=2) as session:
        optunas_own(home, session.launch.name).enqueue_trial(point)
        finish(session)
        assert [r.params for r in session.records[1:]] == [point]
        states = [t.state.name for t in optunas_own(home, session.launch.name).get_trials()]
        assert sorted(states) in (["COMPLETE", "COMPLETE"], ["COMPLETE", "COMPLETE", "FAIL"])


def test_an_axis_of_another_kind_is_refused():
    choices = Choices()
    choices.widened({"optim.beta1": CategoricalDistribution((0.8, 0.9))})
    with pytest.raises(BadInput, match="an axis stays of one kind"):
        choices.widened({"optim.beta1": FloatDistribution(0.8, 0.9)})
    with pytest.raises(BadInput, match="none taken away"):
        choices.added({"optim.beta1": FloatDistribution(0.8, 0.9)})
    assert choices.added({"moe.top_k": CategoricalDistribution((1,))}) == {}


def test_lists_of_which_neither_holds_the_other_are_put_in_order():
    choices = Choices()
    choices.widened({"moe.top_k": CategoricalDistribution((1, 8))})
    widest = choices.widened({"moe.top_k": CategoricalDistribution((1, 2))})
    assert widest == {"moe.top_k": CategoricalDistribution((1, 2, 8))}
    assert choices.widened({"moe.top_k": CategoricalDistribution((8,))}) == widest
