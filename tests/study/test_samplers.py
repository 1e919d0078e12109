"""Who draws a study's points: named, Optuna's own, or one that is not in the project."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import optuna
import pytest

from orchestrator.study import samplers
from orchestrator.study.resolve import resolve
from orchestrator.study.samplers import Random, Sampler, Tpe, as_sampler
from orchestrator.trials.sampling import propose


def drawn(study, corpus, points=4):
    launch = resolve(study, corpus_spec=corpus)
    known = []
    for index in range(points):
        is_new = lambda point: point.cell_hash not in {p.cell_hash for p in known}  # noqa: E731
        known.append(propose(launch, [], index=index, is_new=is_new)[0])
    return [point.overrides for point in known]


def test_a_name_a_sampler_and_an_object_of_optuna():
    assert as_sampler("tpe") == Tpe()
    assert as_sampler(Random()) == Random()
    assert str(as_sampler(optuna.samplers.NSGAIISampler(seed=0))) == "NSGAIISampler"


@pytest.mark.parametrize("value", ["tpee", 3, optuna.samplers.TPESampler])
def test_anything_else_is_refused_with_the_names(sampled_study, value):
    with pytest.raises(ValueError, match=r"tiny-search: a sampler is .*tpe, random") as refused:
        dataclasses.replace(sampled_study, sampler=value)
    assert "Did you mean tpe?" in str(refused.value) or value != "tpee"


@pytest.mark.parametrize("name", list(samplers.SAMPLERS))
def test_a_restarted_driver_draws_the_same_points(sampled_study, corpus, name):
    study = dataclasses.replace(sampled_study, sampler=name)
    assert drawn(study, corpus) == drawn(study, corpus)


def test_an_object_of_optuna_draws(sampled_study, corpus):
    study = dataclasses.replace(sampled_study, sampler=optuna.samplers.RandomSampler(seed=1))
    points = drawn(study, corpus)
    assert len({tuple(sorted(p.items())) for p in points}) == 4


@dataclass(frozen=True, kw_only=True)
class Narrow(Sampler):
    """Always the same corner, as far as the study's other points leave it."""

    def optuna_sampler(self, *, seed, index):
        return optuna.samplers.PartialFixedSampler(
            {"moe.num_experts": 4}, optuna.samplers.RandomSampler(seed=seed)
        )


def test_another_sampler_is_one_class_and_one_line(monkeypatch, sampled_study, corpus, hold):
    monkeypatch.setitem(samplers.SAMPLERS, "narrow", Narrow)
    study = dataclasses.replace(sampled_study, sampler="narrow")
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        assert {p["moe.num_experts"] for p in drawn(study, corpus, 3)} == {4}
    with hold(study, trials=1) as session:
        assert session.info.attributes["sampler"] == "narrow"
