"""Who draws a study's points: named, Optuna's own, or one that is not in the project."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass

import optuna
import pytest

from orchestrator.base.errors import BadInput
from orchestrator.study import samplers
from orchestrator.study.resolve import resolve
from orchestrator.study.samplers import OptunaSampler, Random, Tpe, as_sampler
from orchestrator.trials.sampling import SpaceExhausted, propose
from search_spaces.domains import Float
from search_spaces.space import Space


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
    names = ", ".join(samplers.SAMPLERS)
    with pytest.raises(ValueError, match=f"tiny-search: a sampler is .*{names}") as refused:
        dataclasses.replace(sampled_study, sampler=value)
    assert "Did you mean tpe?" in str(refused.value) or value != "tpee"


def test_a_sampler_that_keeps_its_state_in_its_own_study_is_refused(sampled_study):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        qmc = optuna.samplers.QMCSampler(seed=0, warn_asynchronous_seeding=False)
    grid = optuna.samplers.GridSampler({"x": [0, 1]})
    for sampler, instead in ((qmc, "qmc"), (grid, "grid study")):
        with pytest.raises(ValueError, match=f"would begin anew each time.*{instead}"):
            dataclasses.replace(sampled_study, sampler=sampler)


def of_optuna(kind, *given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return getattr(optuna.samplers, kind)(*given)


class MyQmc(optuna.samplers.QMCSampler):
    pass


def test_nor_may_one_within_it_or_of_its_kind(sampled_study):
    within = of_optuna("PartialFixedSampler", {"moe.top_k": 2}, of_optuna("QMCSampler"))
    with pytest.raises(ValueError, match=r"received QMCSampler within PartialFixedSampler, .*qmc"):
        dataclasses.replace(sampled_study, sampler=within)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        mine = MyQmc()
    with pytest.raises(ValueError, match=r"received MyQmc, .*qmc"):
        dataclasses.replace(sampled_study, sampler=mine)


class Broken(optuna.samplers.RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        raise KeyError(name)


def test_one_that_cannot_draw_the_space_is_refused_with_its_reason(sampled_study, corpus):
    rates = Space(axes={**sampled_study.space.axes, "optim.learning_rate": Float(low=1e-3, high=1)})
    study = dataclasses.replace(sampled_study, space=rates, sampler=of_optuna("BruteForceSampler"))
    with pytest.raises(BadInput, match=r"raised ValueError: .*step must be given.*sampler=.gp"):
        resolve(study, corpus_spec=corpus)
    broken = dataclasses.replace(sampled_study, sampler=Broken())
    with pytest.raises(BadInput, match="received Broken, which raised KeyError"):
        resolve(broken, corpus_spec=corpus)
    assert resolve(broken, corpus_spec=corpus, draws=False)


def test_one_that_has_drawn_all_there_is_ends(sampled_study, corpus):
    study = dataclasses.replace(sampled_study, sampler=of_optuna("BruteForceSampler"))
    launch = resolve(study, corpus_spec=corpus)
    with pytest.raises(SpaceExhausted, match="all of its 16 feasible points"):
        propose(launch, [], index=0, is_new=lambda point: False)


@pytest.mark.parametrize("name", list(samplers.SAMPLERS))
def test_a_restarted_driver_draws_the_same_points(sampled_study, corpus, name):
    study = dataclasses.replace(sampled_study, sampler=name)
    assert drawn(study, corpus) == drawn(study, corpus)


@pytest.mark.parametrize("kind", ["RandomSampler", "TPESampler", "NSGAIISampler", "GPSampler"])
def test_an_object_of_optuna_draws_the_same_after_a_restart(sampled_study, corpus, kind):
    """Whatever it drew before, and whatever seed it was made with."""
    sampler = getattr(optuna.samplers, kind)(seed=1)
    study = dataclasses.replace(sampled_study, sampler=sampler)
    points = drawn(study, corpus)
    assert len({tuple(sorted(p.items())) for p in points}) == 4
    assert drawn(study, corpus) == points


@pytest.mark.parametrize(("trials", "seeds", "name"), [(20, 1, "gp"), (150, 2, "tpe")])
def test_auto_chooses_by_size_and_says_so(sampled_study, corpus, hold, said, trials, seeds, name):
    study = dataclasses.replace(sampled_study, trials=trials, seeds=tuple(range(seeds)))
    with hold(study) as session:
        assert session.info.attributes["sampler"] == str(session.launch.sampler) == name
    assert [line for line in said if f"points are drawn by {name}" in line]
    with hold(study, sampler="random") as session:
        assert session.info.attributes["sampler"] == "random"


def test_an_option_chooses_for_a_sampled_study_alone(sampled_study, grid_study, corpus):
    with pytest.raises(BadInput, match="a grid whose cells are all run"):
        resolve(grid_study, corpus_spec=corpus, sampler="gp")
    with pytest.raises(BadInput, match=r"--sampler: a sampler is .*'gpp'\. Did you mean gp"):
        resolve(sampled_study, corpus_spec=corpus, sampler="gpp")


@dataclass(frozen=True, kw_only=True)
class Narrow(OptunaSampler):
    """Always the same corner, as far as the study's other points leave it."""

    def optuna_sampler(self, *, seed, index):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.PartialFixedSampler(
                {"moe.top_k": 2}, optuna.samplers.RandomSampler(seed=seed)
            )


def test_another_sampler_is_one_class_and_one_line(monkeypatch, sampled_study, corpus, hold):
    monkeypatch.setitem(samplers.SAMPLERS, "narrow", Narrow)
    study = dataclasses.replace(sampled_study, sampler="narrow")
    assert {p["moe.top_k"] for p in drawn(study, corpus, 3)} == {2}
    with hold(study, trials=1) as session:
        assert session.info.attributes["sampler"] == "narrow"


def test_a_prior_is_of_the_space_and_of_a_sampler_that_takes_it(sampled_study, grid_study, corpus):
    believed = dataclasses.replace(sampled_study, prior={"moe.top_k": 2})
    assert resolve(believed, corpus_spec=corpus).prior == {"moe.top_k": 2}
    assert len(drawn(believed, corpus)) == 4
    with pytest.raises(BadInput, match=r"taken by the sampler gp.*where tpe draws"):
        resolve(believed, corpus_spec=corpus, sampler="tpe")
    with pytest.raises(BadInput, match=r"taken by the sampler gp.*where tpe draws"):
        resolve(believed, corpus_spec=corpus, trials=500)
    with pytest.raises(BadInput, match=r"the value of moe\.top_k lies in its domain.*received 3"):
        resolve(dataclasses.replace(sampled_study, prior={"moe.top_k": 3}), corpus_spec=corpus)
    for study, prior in ((grid_study, {"moe.top_k": 2}), (sampled_study, ["moe.top_k"])):
        with pytest.raises(ValueError, match="prior maps axes of a sampled study to values"):
            dataclasses.replace(study, prior=prior)
