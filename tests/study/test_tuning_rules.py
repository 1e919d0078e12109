"""What a grid may tune: refused with the reason, by kind, before anything is created."""

from __future__ import annotations

import dataclasses

import pytest

from moe.config import ConfigError
from orchestrator.base.errors import BadInput
from orchestrator.study import Sequential, Specialises
from orchestrator.study.resolve import resolve
from orchestrator.study.tuning import candidates, tuning_launch, tuning_study, untuned_cells
from orchestrator.study.tuning_rules import TUNE_SEEDS
from search_spaces.cells import Cell
from tests.fixtures.studies import TINY

RATE = "optim.learning_rate"
RATES = {RATE: (0.002, 0.004, 0.008)}


def tuned(study, tune=RATES, **changed):
    return dataclasses.replace(study, **{"tune": tune, **changed})


@pytest.mark.parametrize(
    ("tune", "why"),
    [
        (3, "tune maps paths of the optimiser"),
        ((RATE, 0.1), "tune maps paths of the optimiser"),
        ({RATE: ()}, "needs one or more different values"),
        ({RATE: 0.1}, "needs one or more different values"),
        ({RATE: (0.1, 0.1)}, "needs one or more different values"),
        ({RATE: (0.1,)}, "two values at least"),
        ({RATE: ("high", "low")}, "of type float"),
        ({"optim.schedule": ("cosine", "step")}, "from cosine, linear, wsd"),
        ({"optim.learning_rat": (0.1, 0.2)}, "Did you mean optim.learning_rate"),
        ({"train.num_steps": (10, 20)}, "axes of the section optim"),
        ({"data.tokenizer": ("byte", "bpe")}, "axes of the section optim"),
        ({"moe.top_k": (1, 2)}, "axes of the section optim"),
    ],
)
def test_axes_that_cannot_be_tuned(grid_study, tune, why):
    with pytest.raises(ConfigError, match=why):
        tuned(grid_study, tune)
    with pytest.raises(ConfigError, match=why):
        tuned(grid_study, lambda base: tune).tuned_over(TINY)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"tune_seeds": (0, 7)}, "received 0 among both"),
        ({"scale_seeds": {"smoke": (3000,)}}, "received 3000 among both"),
        ({"tune_seeds": (5, 5)}, "different whole numbers"),
        ({"tune_seeds": 5}, "different whole numbers"),
        ({"tune_seeds": (-1,)}, "different whole numbers"),
        ({"tune_seeds": (True, 4)}, "different whole numbers"),
        ({"tune_seeds": (11, 12), "design": Sequential(max_seeds=12)}, "tune_seeds with 11 of"),
        ({"tune": {}, "tune_seeds": (9,)}, "which tunes nothing"),
        ({"name": "n" * 60}, "at most 57 characters"),
    ],
)
def test_seeds_and_studies_that_cannot_be_tuned(grid_study, changed, why):
    with pytest.raises(ValueError, match=why):
        tuned(grid_study, **changed)


def test_a_search_tunes_within_its_designs(sampled_study):
    with pytest.raises(ValueError, match=r"tune is for grids.*nuisance="):
        tuned(sampled_study)


def test_until_decided_never_comes_to_a_tuning_seed(grid_study):
    study = tuned(grid_study, tune_seeds=(12, 13), design=Sequential(max_seeds=12))
    assert study.tune_seeds == (12, 13)
    assert tuned(grid_study).tune_seeds == TUNE_SEEDS
    assert grid_study.tune_seeds == ()


@pytest.mark.parametrize(
    ("changed", "asked", "why"),
    [
        ({}, {"seeds": (0, 3001)}, "received 3001 among both"),
        ({}, {"overrides": {RATE: 0.5}}, "is what this study varies"),
        ({"tune": {RATE: (0.1, -0.1)}}, {}, "cell dense with optim.learning_rate=-0.1: "),
        ({"tune": {"optim.decay_fraction": (0.1, 0.3)}}, {}, "changes nothing in cell dense"),
        (
            {"cells": [Cell(name="own", overrides={RATE: 0.1})], "baseline": "own"},
            {},
            "which every cell of tiny-grid sets itself",
        ),
        (
            {"cells": [Cell(name="n" * 98, overrides={})]},
            {},
            "Give cell n+ a shorter name",
        ),
    ],
)
def test_a_launch_that_cannot_be_tuned(grid_study, corpus, changed, asked, why):
    with pytest.raises(BadInput, match=why):
        resolve(tuned(grid_study, **changed), corpus_spec=corpus, **asked)


def test_a_cell_that_sets_a_tuned_path_keeps_its_value(grid_study, corpus):
    """Also where it is the base's own: a cell beside it that leaves the path open is another."""
    own = Cell(name="own", overrides={"moe.router": "frozen", RATE: TINY.optim.learning_rate})
    half = Cell(name="half", overrides={"moe.router": "random", RATE: 0.03})
    tune = {**RATES, "optim.warmup_steps": (0, 2)}
    study = tuned(grid_study, RATES, cells=[own, *grid_study.cells])
    launch = resolve(study, corpus_spec=corpus)
    assert launch.merged == {}
    assert untuned_cells(study, launch.base) == ["own"]
    assert [cell.name for cell in tuning_launch(launch).cells] == [
        f"{cell}-lr{rate}"
        for cell in ("dense", "learned", "frozen")
        for rate in (0.002, 0.004, 0.008)
    ]
    study = tuned(grid_study, tune, cells=[half, own])
    values = [one.values for one in candidates(study, launch.base)]
    assert values == [{"optim.warmup_steps": 0}, {"optim.warmup_steps": 2}] * 2


def test_the_values_may_follow_from_the_scale(grid_study, corpus):
    study = tuned(grid_study, lambda base: {RATE: [base.optim.learning_rate * x for x in (1, 2)]})
    launch = resolve(study, corpus_spec=corpus, overrides={RATE: 0.1})
    assert study.tuned_over(launch.base) == {RATE: (0.1, 0.2)}


def test_the_tuning_is_an_ordinary_grid_on_the_same_tokens(grid_study, corpus):
    study = tuned(grid_study, tune_seeds=(7, 8))
    launch = resolve(study, corpus_spec=corpus)
    tuning = tuning_launch(launch)
    assert tuning.name == launch.name.replace("tiny-grid/", "tiny-grid-tuning/")
    assert tuning.study.is_grid
    assert not tuning.study.tune
    assert {point.seed for point in tuning.points()} == {7, 8}
    digests = {point.config.data.digest for one in (launch, tuning) for point in one.points()}
    assert len(digests) == 1
    asked = resolve(tuning_study(study), corpus_spec=corpus)
    assert [p.config_hash for p in asked.points()] == [p.config_hash for p in tuning.points()]


def test_the_tuning_keeps_the_labels_apart_that_its_study_follows(grid_study, corpus):
    """The claims are not the tuning's, and its tokens are those of the study all the same."""
    claim = Specialises(
        id="s", statement="s", cell="learned", labels=("language",), at_least=0.1, control="frozen"
    )
    launch = resolve(tuned(grid_study, claims=(claim,)), corpus_spec=corpus)
    plain = resolve(tuned(grid_study), corpus_spec=corpus)
    digests = [
        {point.config.data.digest for point in one.points()}
        for one in (launch, tuning_launch(launch), plain)
    ]
    assert digests[0] == digests[1] != digests[2]
    assert tuning_launch(launch).labels_kept == frozenset()


def test_a_study_that_tunes_nothing_is_as_it_was(grid_study, corpus):
    plain, other = (resolve(study, corpus_spec=corpus) for study in (grid_study, tuned(grid_study)))
    assert [p.config_hash for p in plain.points()] == [p.config_hash for p in other.points()]
    assert plain.name == other.name
