"""A field of a Study that is given another type than its own: the rule, the value, the remedy."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.study import Study
from orchestrator.study.samplers import Random

TEXTS = ("name", "question", "baseline", "held_fixed")
# What is right here by its type: whether the space has such axes is seen when it is resolved.
TAKEN = [(text, "6") for text in TEXTS]
TAKEN += [("prior", {"guarded": 0.2}), ("nuisance", {"guarded": 0.2}), ("seeds", [3])]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Study)])
@pytest.mark.parametrize(
    "value",
    [3.5, "6", {"guarded": 0.2}, [3], ["x"], object()],
    ids=["fraction", "text", "dict", "numbers", "names", "object"],  # the same in each process
)
def test_every_field_refuses_what_is_no_value_of_it(sampled_study, field, value):
    if (field, value) in TAKEN:
        return
    with pytest.raises(ValueError, match=r"received .*[.'\]}]$"):
        dataclasses.replace(sampled_study, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("name", 3, "letters, digits.*received 3. Rename it"),
        ("trials", 6.5, r"a whole number; received 6\.5 of study tiny-search\. Set trials=20"),
        ("trials", "6", "a whole number; received '6'"),
        ("trials", None, "a whole number; received None"),
        ("warm_start", "no", "warm_start is True or False; received 'no'"),
        ("first", None, "first is a list of points.*received None"),
        ("early_stopping", {"guarded": 0.2}, r"received \{'guarded': 0\.2\}.*EarlyStopping\("),
        ("seeds", 3, r"received 3 of study .*Write for example seeds=\(0, 1\)"),
        ("seeds", (), r"at least one; received \(\) of .*Write for example"),
        ("scale_seeds", {"smoke": 3}, "scale_seeds maps scales to tuples"),
        ("claims", 3, "claims is a tuple of claims"),
        ("metric", ["val/loss"], "metric is the name of one of moe.metrics"),
        ("scales", {}, "one at least; received {}"),
        ("space", {"moe.top_k": (1, 2)}, "space is a Space, or a function"),
        ("cells", 3, "cells is a list of Cell"),
        ("published", {"a": 3.0}, "published maps cells"),
        ("default_scale", "smok", "received 'smok'. Choose one of these"),
    ],
)
def test_what_is_refused_is_said_with_its_remedy(sampled_study, field, value, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(sampled_study, **{field: value})


def test_what_only_a_search_has_is_refused_of_a_grid(grid_study):
    for given, said in (
        ({"sampler": "gp"}, "sampler is for sampled studies; received gp for the grid tiny-grid"),
        ({"sampler": Random()}, "received random for the grid tiny-grid"),
        ({"trials": 3}, "trials is for sampled studies; received 3"),
    ):
        with pytest.raises(ValueError, match=said):
            dataclasses.replace(grid_study, **given)


def test_points_climb_a_ladder_alone(sampled_study, grid_study):
    for study in (sampled_study, grid_study):
        with pytest.raises(ValueError, match=r"received 3 of study .*, which has no ladder"):
            dataclasses.replace(study, ladder_points=3)
