"""What is allowed and seldom meant has a line before it costs anything."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from orchestrator.study import EarlyStopping, Study
from orchestrator.study.cautions import cautions
from orchestrator.study.resolve import resolve
from search_spaces.cells import Cell
from search_spaces.domains import Choice
from search_spaces.space import Space
from tests.fixtures.studies import TINY


def lines(corpus, cells=(), **more):
    study = Study(
        name="careful", question="?", baseline="plain", held_fixed="?", scales={"smoke": TINY},
        cells=[Cell(name="plain", overrides={}), *cells], seeds=(0,), **more,
    )  # fmt: skip
    return cautions(resolve(study, corpus_spec=corpus))


def test_nothing_is_said_of_an_ordinary_study(corpus):
    assert lines(corpus) == []
    assert lines(corpus, early_stopping=EarlyStopping()) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"optim.warmup_steps": 9}, "warm-up is not shorter.* 9, train.num_steps 8.*never reaches"),
        ({"optim.warmup_steps": 8}, "reaches its peak at the last step"),
        ({"train.eval_every": 8}, "one evaluation only.*eval_every 8, train.num_steps 8"),
        (
            {"train.precision": "bf16", "moe.d_expert": 30},
            "experts 30 wide are no multiple of 8.*padded there to 32",
        ),
    ],
)
def test_each_is_said_of_its_cell(corpus, overrides, expected):
    (line,) = lines(corpus, [Cell(name="odd", overrides=overrides)])
    assert line.endswith("(cell odd)")
    assert re.search(expected, line)


def test_rungs_between_evaluations_are_named(corpus):
    """Rungs lie at 2 and 4 of 8 steps."""
    stopping = EarlyStopping(first_rung=0.25, reduction_factor=2)

    def of(every):
        cell = Cell(name="odd", overrides={"train.eval_every": every})
        return lines(corpus, [cell], early_stopping=stopping)

    assert of(2) == []
    assert "rungs at steps 2 lie between evaluations (train.eval_every 4)" in of(4)[0]
    assert "rungs at steps 2, 4 lie between evaluations (train.eval_every 5)" in of(5)[0]
    _, between = of(8)
    assert "rungs at steps 2, 4 lie between" in between
    assert "evaluated there as well" in between


def test_many_cells_are_counted_and_every_cell_is_said(corpus):
    idle = [
        Cell(name=f"w{n}", overrides={"optim.warmup_steps": 8 + n, "train.eval_every": 8})
        for n in range(8)
    ]
    warmup, once = lines(corpus, idle)
    assert warmup.endswith("(cells w0, w1, w2, w3, w4 and 3 more; the numbers are w0's)")
    everywhere = dataclasses.replace(TINY.train, eval_every=8)
    base = dataclasses.replace(TINY, train=everywhere)
    study = Study(
        name="careful", question="?", baseline="plain", held_fixed="?", scales={"smoke": base},
        space=Space(axes={"moe.top_k": Choice((1, 2)), "moe.num_experts": Choice((2, 4))}),
        trials=2, seeds=(0,),
    )  # fmt: skip
    (line,) = cautions(resolve(study, corpus_spec=corpus))
    assert line.endswith("(every point looked at)")
    assert "one evaluation only" in once


def test_plan_and_run_say_it(moe_study, hold, grid_study, said, corpus, tmp_path):
    code, out, _ = moe_study(
        *("plan", "quickstart", "--corpus", corpus, "--home", tmp_path / "none"),
        *("--set", "optim.warmup_steps=200", "--json"),
    )
    assert code == 0
    assert "warm-up is not shorter than the run" in json.loads(out)["cautions"][0]
    longer = dataclasses.replace(TINY, optim=dataclasses.replace(TINY.optim, warmup_steps=80))
    with hold(dataclasses.replace(grid_study, scales={"smoke": longer})):
        assert any("warm-up is not shorter than the run" in line for line in said)
