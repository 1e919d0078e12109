"""Which objectives a study can have, and what they are of a run."""

from __future__ import annotations

import dataclasses

import optuna
import pytest

from moe.accounting import account
from moe.metrics import VAL_LOSS
from orchestrator.base.errors import BadInput
from orchestrator.study.objectives import FIGURES, directions_of, values_of
from orchestrator.study.resolve import resolve
from orchestrator.study.samplers import Sampler
from search_spaces.domains import Choice, Float
from search_spaces.space import Infeasible, Space
from tests.fixtures.studies import TINY

FLOPS, ENTROPY = "flops_per_token", "router/load_entropy"


def with_objectives(study, *objectives, **changes):
    return dataclasses.replace(
        study, **{"early_stopping": None, "objectives": objectives, **changes}
    )


def test_the_first_is_the_metric_and_all_have_directions(sampled_study):
    study = with_objectives(sampled_study, ENTROPY, VAL_LOSS, FLOPS)
    assert study.metric == ENTROPY
    assert directions_of(study.objectives) == ["maximize", "minimize", "minimize"]
    assert dataclasses.replace(study, trials=3).objectives == study.objectives
    assert sampled_study.objectives == ()


def test_figures_are_those_of_the_accounting():
    told = values_of((VAL_LOSS, *FIGURES), {VAL_LOSS: 2.5}, TINY)
    assert told == {VAL_LOSS: 2.5, **dataclasses.asdict(account(TINY))}
    assert values_of((VAL_LOSS, ENTROPY), {VAL_LOSS: 2.5}, TINY)[ENTROPY] is None


@pytest.mark.parametrize(
    ("objectives", "changes", "said"),
    [
        ((VAL_LOSS,), {}, "a tuple of at least two names; received"),
        ([VAL_LOSS, FLOPS], {}, "a tuple of at least two names; received"),
        ("val/loss", {}, "a tuple of at least two names; received 'val/loss'"),
        ((VAL_LOSS, VAL_LOSS), {}, "an objective stands once; received val/loss, val/loss"),
        (
            (VAL_LOSS, "flops_per_tokn"),
            {},
            "received 'flops_per_tokn'. Did you mean flops_per_token",
        ),
        ((VAL_LOSS, "val/los"), {}, "received 'val/los'. Did you mean val/loss"),
        ((VAL_LOSS, "no such thing"), {}, "There are val/loss, .*params_total"),
        ((VAL_LOSS, 3), {}, "received 3. Write its name"),
        ((VAL_LOSS, "train/grad_norm"), {}, "neither less nor more is better"),
        ((VAL_LOSS, "test/loss"), {}, "nothing goes by the test split.*Write 'val/loss'"),
        ((FLOPS, VAL_LOSS), {}, "the first objective is the study's metric.*Write a metric first"),
        ((VAL_LOSS, FLOPS), {"metric": ENTROPY}, "the first objective is the metric; study tiny"),
    ],
)
def test_what_cannot_be_improved_together_is_refused(sampled_study, objectives, changes, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(sampled_study, early_stopping=None, objectives=objectives, **changes)


def test_grids_and_early_stopping_are_refused_with_the_reason(grid_study, sampled_study):
    with pytest.raises(ValueError, match=r"objectives are for sampled studies.*tiny-grid"):
        dataclasses.replace(grid_study, objectives=(VAL_LOSS, FLOPS))
    with pytest.raises(ValueError, match=r"by one value.*Leave early_stopping out"):
        dataclasses.replace(sampled_study, objectives=(VAL_LOSS, FLOPS))


def test_nuisance_and_a_warm_start_are_refused_beside_them(sampled_study, corpus):
    rate = {"optim.learning_rate": Float(low=1e-3, high=1e-2, log=True)}
    with pytest.raises(ValueError, match=r"received optim\.learning_rate beside .*into the space"):
        with_objectives(sampled_study, VAL_LOSS, FLOPS, nuisance=rate)
    study = with_objectives(sampled_study, VAL_LOSS, FLOPS)
    with pytest.raises(BadInput, match=r"--warm-start: a warm start and a ladder go by one value"):
        resolve(study, corpus_spec=corpus, warm_start=True)


class OfOne(Sampler):
    def suggestions(self, search, *, seed, index):
        yield from ()

    def __str__(self):
        return "of one"


class OptunasOfOne(optuna.samplers.RandomSampler):
    def sample_relative(self, study, trial, search_space):
        self._raise_error_if_multi_objective(study)
        return {}


@pytest.mark.parametrize("sampler", [OfOne(), OptunasOfOne()])
def test_a_sampler_that_takes_one_is_refused(sampled_study, sampler):
    with pytest.raises(ValueError, match=r"the sampler .* takes one\. Choose"):
        with_objectives(sampled_study, VAL_LOSS, FLOPS, sampler=sampler)


@pytest.mark.parametrize("name", ["auto", "gp", "tpe", "random", "qmc", "nsga2"])
def test_ours_take_several(sampled_study, corpus, name):
    study = with_objectives(sampled_study, VAL_LOSS, FLOPS, sampler=name)
    assert resolve(study, corpus_spec=corpus).sampler.takes_objectives
    for kind in ("TPESampler", "GPSampler", "NSGAIISampler"):
        assert with_objectives(
            sampled_study, VAL_LOSS, FLOPS, sampler=getattr(optuna.samplers, kind)()
        ).objectives


def test_an_option_is_refused_alike(sampled_study, corpus, monkeypatch):
    from orchestrator.study import samplers

    monkeypatch.setitem(samplers.SAMPLERS, "of-one", OfOne)
    with pytest.raises(BadInput, match="takes one"):
        resolve(
            with_objectives(sampled_study, VAL_LOSS, FLOPS), corpus_spec=corpus, sampler="of-one"
        )


def test_points_that_lack_any_objective_are_left_out(sampled_study, corpus):
    space = Space(axes={"moe.router": Choice(("learned", "hash"))})
    study = with_objectives(sampled_study, VAL_LOSS, "router/z_loss", space=space)
    launch = resolve(study, corpus_spec=corpus)
    assert launch.sampled_point({"moe.router": "learned"}, 0).config.moe.router == "learned"
    with pytest.raises(Infeasible, match="router/z_loss is of runs with a router"):
        launch.sampled_point({"moe.router": "hash"}, 0)
