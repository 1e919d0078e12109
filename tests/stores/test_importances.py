"""Shares of importance: what explains a search stands first, with no interval from few trials."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import optuna
import pytest

from orchestrator.driver.publish import _importance_note
from orchestrator.report.plotly_charts import importance_chart
from orchestrator.report.text_alternatives import importance_text
from orchestrator.stores.importances import Importance, complete_needed, importances
from search_spaces.domains import Choice
from tests.stores.test_enqueued import finish


def searched(num_trials, seed=0):
    """x decides, y a little, z not at all."""
    rng = np.random.default_rng(seed)
    study = optuna.create_study()
    axes = {name: optuna.distributions.FloatDistribution(0, 1) for name in "xyz"}
    for _ in range(num_trials):
        params = {name: float(rng.uniform()) for name in axes}
        value = params["x"] ** 2 + 0.1 * params["y"] + 0.01 * rng.normal()
        made = optuna.trial.create_trial(params=params, distributions=axes, value=value)
        study.add_trial(made)
    return SimpleNamespace(study=study)


@pytest.mark.parametrize("seed", range(5))
def test_what_decides_stands_first_with_an_interval_apart_from_the_rest(seed):
    found = importances(searched(120, seed))
    assert next(iter(found)) == "x"
    assert sum(of.share for of in found.values()) == pytest.approx(1)
    for of in found.values():
        assert 0 <= of.low <= of.share <= of.high <= 1
    assert found["x"].low > max(found["y"].high, found["z"].high)
    chart = importance_chart(found)["data"][0]
    assert chart["error_x"]["visible"]
    assert chart["x"][0] + chart["error_x"]["array"][0] == pytest.approx(found["x"].high)
    assert f"x {found['x'].share:.2f} [{found['x'].low:.2f}, {found['x'].high:.2f}]" in (
        importance_text(found)
    )


def test_an_interval_is_narrower_over_more_trials():
    width = [
        np.mean(
            [
                f["y"].high - f["y"].low
                for seed in range(5)
                for f in [importances(searched(n, seed))]
            ]
        )
        for n in (40, 640)
    ]
    assert width[1] < width[0]


def test_too_few_trials_carry_no_interval():
    assert complete_needed(3) == 24
    found = importances(searched(23))
    assert {(of.low, of.high) for of in found.values()} == {(None, None)}
    assert not importance_chart(found)["data"][0]["error_x"]["visible"]
    assert importance_text({"x": Importance(share=0.5)}) == "Importance: x 0.50."
    assert importances(searched(1)) == {}


def test_importance_is_told_at_each_designs_own_best():
    """The rate, from 1e-4 to 1e-1, explains nearly all of what trials come to; of designs, each at
    its own best, the experts do."""
    rng = np.random.default_rng(0)
    study = optuna.create_study(direction="maximize")
    axes = {
        "experts": optuna.distributions.FloatDistribution(0, 1),
        "top_k": optuna.distributions.FloatDistribution(0, 1),
        "rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    }
    for _ in range(60):
        design = {"experts": float(rng.uniform()), "top_k": float(rng.uniform())}
        for rate in (1e-4, 1e-3, 1e-2, 1e-1):
            off = np.log10(rate) + 2.5 + design["experts"]
            value = 0.1 * design["experts"] - off**2 - 0.01 * rng.normal() ** 2
            params = {**design, "rate": rate}
            made = optuna.trial.create_trial(params=params, distributions=axes, value=value)
            study.add_trial(made)
    trials = SimpleNamespace(study=study)
    assert next(iter(importances(trials))) == "rate"
    own = importances(trials, nuisance=("rate",))
    assert list(own) == ["experts", "top_k"]
    assert own["experts"].low > own["top_k"].high
    assert len(study.trials) == 240, "the record stays as it was"
    assert set(study.trials[0].params) == set(axes)


def test_a_launch_knows_what_is_tuned_without_its_study_file(hold, sampled_study):
    rate = {"optim.learning_rate": Choice((1e-3, 3e-3))}
    with hold(dataclasses.replace(sampled_study, nuisance=rate, trials=24)) as session:
        finish(session)
        launch = session.read()
    assert launch.info.nuisance == ("optim.learning_rate",)
    assert set(launch.importances()) == set(sampled_study.space.axes)
    assert "without optim.learning_rate, at each design's best" in _importance_note(launch)
    with hold(sampled_study) as session:
        finish(session)
        assert session.info.nuisance == (), "an edit took it away"


def test_the_note_in_the_dashboard_says_from_when_on_they_are_to_be_believed(hold, sampled_study):
    with hold(sampled_study) as session:
        finish(session)
        launch = session.read()
    note = _importance_note(launch)
    axes = {path for record in launch.trials for path in record.params}
    assert f"from {complete_needed(len(axes))} complete trials on; there are" in note
    assert "](/artifacts/" in note
    assert note.rstrip().endswith("#figure-importance).")
