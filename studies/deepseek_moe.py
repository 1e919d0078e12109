"""Figure 3 and section 4 of DeepSeekMoE (arXiv 2401.06066), over LLaMA's blocks.

From GShard's two experts of sixteen on, one of the two becomes shared, then all are parted into
halves and quarters. A token passes two experts' worth of sixteen in each; the finest has the
largest router, and the experts of the others are as much wider as makes active parameters equal.
GShard again with experts half as wide again, and dense models of the active and of the total
parameters of the finest, are what the paper compares with. Gate (softmax over all, not normalised)
and balance loss are the paper's in every mixture.
"""

from __future__ import annotations

from moe.config import TrialConfig
from orchestrator.study import Better, Equivalent, NotBetter, Ordered, Study
from search_spaces.budget import matched_cell
from search_spaces.cells import Cell
from studies.paper_cells import DESIGN, PERCENT, SEEDS
from studies.scales import of_family

EXPERTS, CHOSEN = 16, 2
GSHARD, WIDE_GSHARD = "gshard-N16-K2", "gshard-N16-K2-1.5x"
SHARED, HALVES, QUARTERS = "shared-S1-N15-K1", "fine-S1-N31-K3", "fine-S1-N63-K7"
DENSE_ACTIVE, DENSE_TOTAL = "dense-active", "dense-total"


def _mixture(name: str, base: TrialConfig, *, parts: int, shared: int) -> Cell:
    """Experts parted into `parts`, of which `shared` are taken out for every token."""
    width = base.model.d_ff_of_activation // parts
    return Cell(
        name=name,
        overrides={
            "moe.num_experts": EXPERTS * parts - shared,
            "moe.top_k": CHOSEN * parts - shared,
            "moe.shared_experts": shared,
            "moe.d_expert": width,
            "moe.gate": "switch",
            "moe.balance": "switch",
        },
    )


def cells(base: TrialConfig) -> list[Cell]:
    finest = _mixture(QUARTERS, base, parts=4, shared=1)
    gshard, shared, halves = (
        matched_cell(cell, finest, base)
        for cell in (
            _mixture(GSHARD, base, parts=1, shared=0),
            _mixture(SHARED, base, parts=1, shared=1),
            _mixture(HALVES, base, parts=2, shared=1),
        )
    )
    wide = round(1.5 * gshard.config(base).d_expert)
    active, total = (
        Cell(name=name, overrides={"moe.num_experts": 0}) for name in (DENSE_ACTIVE, DENSE_TOTAL)
    )
    return [
        gshard,
        shared,
        halves,
        finest,
        Cell(name=WIDE_GSHARD, overrides={**gshard.overrides, "moe.d_expert": wide}),
        matched_cell(active, finest, base),
        matched_cell(total, finest, base, "total"),
    ]


STUDY = Study(
    name="deepseek_moe",
    question="At equal active parameters, are a shared expert and narrower experts better?",
    baseline=GSHARD,
    held_fixed="tokens, learning rate, active parameters, gate, balance loss",
    scales=of_family("llama"),
    cells=cells,
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=(
        Better(
            id="DS1",
            statement="one shared expert of the two that are active beats none",
            a=SHARED,
            b=GSHARD,
        ),
        Ordered(
            id="DS2",
            statement="the finer experts are parted, the better",
            best_to_worst=(QUARTERS, HALVES, SHARED),
        ),
        NotBetter(
            id="DS3",
            statement="GShard with half as many parameters again in its experts is no better",
            a=WIDE_GSHARD,
            b=QUARTERS,
            margin=PERCENT,
        ),
        Equivalent(
            id="DS4",
            statement="it nearly reaches the dense model of equal total parameters",
            a=QUARTERS,
            b=DENSE_TOTAL,
            margin=PERCENT,
        ),
    ),
)
