"""A study whose every cell is a point of one small space: the table that search_saves.py reads.

A search over a finite table can be replayed thousands of times in seconds, so that how much a
search saves is measured over many seeds and not once.

    moe-study run benchmarks/search_table.py --home HOME --concurrency 1
    python benchmarks/search_saves.py --record HOME
"""

from __future__ import annotations

import dataclasses
import itertools

from moe.config import TrialConfig
from orchestrator.study.study import Study
from search_spaces.cells import Cell, readable_name
from search_spaces.domains import Choice
from search_spaces.space import Space
from studies.scales import SMOKE

SPACE = Space(
    axes={
        "moe.num_experts": Choice((4, 8)),
        "moe.top_k": Choice((1, 2)),
        "moe.router": Choice(("learned", "frozen", "random")),
        "moe.routing_unit": Choice(("token", "sequence")),
        "optim.learning_rate": Choice((1e-3, 2e-3, 4e-3, 8e-3)),
    }
)
NUM_EVALUATIONS = 16

BASE = dataclasses.replace(
    SMOKE,
    # Top-1 with a learned router needs a gate that is not normalised over the chosen.
    moe=dataclasses.replace(SMOKE.moe, gate="switch"),
    train=dataclasses.replace(
        SMOKE.train,
        num_steps=160,
        batch_tokens=1024,
        micro_batch_tokens=1024,
        eval_every=160 // NUM_EVALUATIONS,
        eval_tokens=4096,
    ),
)


def cells(base: TrialConfig) -> list[Cell]:
    values = itertools.product(*(domain.values for domain in SPACE.axes.values()))
    points = [dict(zip(SPACE.axes, chosen, strict=True)) for chosen in values]
    return [Cell(name=readable_name(point), overrides=point) for point in points]


STUDY = Study(
    name="search-table",
    question="What is the loss of every point of a small space, at every evaluation?",
    baseline="no cell: the table is what a search is replayed on",
    held_fixed="tokens, depth, widths, gate",
    scales={"smoke": BASE},
    cells=cells,
    seeds=(0,),
)
