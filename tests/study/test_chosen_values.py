"""Which value is chosen for a cell, and what is said of it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from moe.metrics import LOAD_ENTROPY, describe
from orchestrator.study.chosen_values import TUNED, Choices, Chosen, Tried, best_of, question_of
from orchestrator.study.resolve import resolve

RATE = "optim.learning_rate"


def tried(*means, **last):
    found = [
        Tried(values={RATE: 0.001 * 2**i}, mean=mean, why="" if mean else "diverged at seed 7")
        for i, mean in enumerate(means)
    ]
    return [*found[:-1], dataclasses.replace(found[-1], **last)]


def rate(best):
    return best.values[RATE] if best else None


@pytest.mark.parametrize(
    ("metric", "means", "best"),
    [
        ("val/loss", (3.0, 2.0, 2.5), 0.002),
        (LOAD_ENTROPY, (0.3, 0.2, 0.9), 0.004),  # more is better
        ("val/loss", (2.0, 2.0, 2.5), 0.001),  # of equal ones the first
        ("val/loss", (3.0, 2.5, None), 0.002),  # what diverged is out
        ("val/loss", (None, 2.5, None), 0.002),
        ("val/loss", (None, None, None), None),
    ],
)
def test_the_best_mean_in_the_direction_of_the_metric(metric, means, best):
    assert rate(best_of(tried(*means), describe(metric).cost)) == best


def test_what_violates_a_constraint_is_chosen_only_where_all_do():
    cost = describe("val/loss").cost
    assert rate(best_of(tried(3.0, 2.0, violates="a bound"), cost)) == 0.001
    every = [dataclasses.replace(each, violates="a bound") for each in tried(3.0, 2.0)]
    assert rate(best_of(every, cost)) == 0.002


def chosen(*means):
    found = tried(*means)
    best = best_of(found, describe("val/loss").cost)
    return Chosen(of="q", values=best.values, tried=tuple(found))


def choices(**cells):
    return Choices(
        launch="s-tuning/smoke",
        metric="val/loss",
        axes={RATE: (0.001, 0.002, 0.004)},
        seeds=(7, 8),
        cells=cells,
        untuned=("own",),
    )


def test_a_best_value_at_an_end_of_its_list_is_a_caution():
    said = list(choices(a=chosen(3, 2, 1), b=chosen(3, 2, 1), c=chosen(1, 2, 3)).cautions())
    assert said[0].startswith(f"the best {RATE} of a, b is the largest that was tried: 0.004.")
    assert said[1].startswith(f"the best {RATE} of c is the smallest that was tried: 0.001.")
    assert len(said) == 2
    assert list(choices(a=chosen(3, 1, 2)).cautions()) == []
    assert list(choices(a=chosen(3, 1, None)).cautions()) == [], "a larger one was tried"


def test_nothing_is_smaller_than_none():
    found = [Tried(values={"optim.weight_decay": x}, mean=1 + x) for x in (0.0, 0.1)]
    assert list(Chosen(of="q", values=found[0].values, tried=tuple(found)).ends()) == []


def test_an_order_is_of_numbers_alone():
    found = [Tried(values={"optim.schedule": name}, mean=1.0) for name in ("cosine", "linear")]
    one = Chosen(of="q", values=found[0].values, tried=tuple(found))
    assert list(one.ends()) == []


def test_a_line_a_cell_and_a_sentence_under_the_table():
    found = choices(a=chosen(3, 1, 2), b=chosen(1.5, 2, None))
    lines = list(found.lines())
    assert lines[0] == (
        f"tuned: a has {RATE}=0.002 (val/loss 1.0000 on seeds 7, 8, which are not judged; "
        f"{RATE}=0.001: 3.0000; {RATE}=0.004: 2.0000)"
    )
    assert f"{RATE}=0.004: diverged at seed 7" in lines[1]
    assert lines[2] == "not tuned, since they set it themselves: own"
    told, caution = found.sentences()
    assert f"the best of {RATE} among 0.001, 0.002, 0.004 by the mean val/loss" in told
    assert "over seeds 7, 8, which are not judged (s-tuning/smoke)" in told
    assert f"a {RATE}=0.002; b {RATE}=0.001. Set by the cell itself: own." in told
    assert caution.startswith(f"Caution: the best {RATE} of b is the smallest")


def test_the_record_is_read_as_it_was_written():
    found = choices(a=chosen(3, 1, None))
    kept = json.loads(json.dumps(found.as_json()))
    read = Choices.of({TUNED: kept})
    assert read.as_json() == found.as_json()
    assert read.values == {"a": {RATE: 0.002}}
    assert Choices.of({}) is None
    assert Choices.of({TUNED: None}) is None


def test_a_question_is_of_the_cell_its_values_and_its_seeds(grid_study, corpus):
    def asked(**changed):
        study = dataclasses.replace(grid_study, **{"tune": {RATE: (0.1, 0.2)}, **changed})
        launch = resolve(study, corpus_spec=corpus)
        return question_of(launch, launch.cells[0])

    first = asked()
    assert asked(tune={RATE: (0.2, 0.1)}) == first, "the order is no part of it"
    assert asked(seeds=(0, 1, 2)) == first, "nor is who is judged"
    assert asked(tune={RATE: (0.1, 0.2, 0.3)}) != first
    assert asked(tune_seeds=(9,)) != first
    assert asked(cells=grid_study.cells[1:]) != first
