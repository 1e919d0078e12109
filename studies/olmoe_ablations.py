"""The design choices of OLMoE (arXiv 2409.02060, section 4.1) that are axes here.

Each cell is OLMoE's mixture (64 experts of an eighth of the width, 8 chosen, QK-norm,
load-balancing loss and z-loss, over LLaMA's blocks) with one choice taken otherwise; the experts of
coarser ones, whose routers are smaller, are as much wider as keeps active parameters. A shared
expert is tried at 32 experts, as there.

Sparse upcycling needs a finished dense trial: run `dense-1x-active`, then
`--set moe.upcycled_from=HASH` with its config hash adds a mixture of eight copies, to be compared
with N8-K1 from scratch. Not asked: the truncated normal that OLMoE begins with (initial weights
have no axis but the router's scale, which has two cells here). A choice by experts looks into the
future of a text, so its loss is too good: it is told under the table.
"""

from __future__ import annotations

from moe.config import TrialConfig
from orchestrator.study import Better, Equivalent, NotBetter, Ordered, Study
from search_spaces.budget import matched_cell
from search_spaces.cells import Cell
from search_spaces.overlay import overlay
from studies.paper_cells import DESIGN, PERCENT, SEEDS, dense
from studies.scales import of_family

OLMOE = {
    "model.qk_norm": "full",
    "moe.num_experts": 8,
    "moe.top_k": 1,
    "moe.granularity": 8,
    "moe.gate": "switch",
    "moe.balance": "switch",
    "moe.z_loss_coefficient": 0.001,
}

FINE = Cell(name="N64-K8", overrides={})
MIDDLE = Cell(name="N32-K4", overrides={"moe.granularity": 4})
COARSE = Cell(name="N8-K1", overrides={"moe.granularity": 1})
EXPERT_CHOICE = Cell(
    name="expert-choice", overrides={"moe.selection": "expert", "moe.balance": "none"}
)
UNBALANCED = Cell(name="no-balance-loss", overrides={"moe.balance": "none"})
NO_Z_LOSS = Cell(name="no-z-loss", overrides={"moe.z_loss_coefficient": 0.0})
NO_QK_NORM = Cell(name="no-qk-norm", overrides={"model.qk_norm": "none"})
DENSE = dense(1, suffix="-active")
UPCYCLED = "upcycled-N8-K1"
SHARED = "shared-S1-N31-K3"
ROUTER_SCALES = {"router-std0.1x": 0.1, "router-std10x": 10.0}


def cells(base: TrialConfig) -> list[Cell]:
    shared = {
        "moe.num_experts": 31,
        "moe.top_k": 3,
        "moe.granularity": 1,
        "moe.shared_experts": 1,
        "moe.d_expert": base.model.d_ff_of_activation // 4,
    }
    scaled = [
        Cell(name=name, overrides={"moe.router_init_std": factor * base.moe.router_init_std})
        for name, factor in ROUTER_SCALES.items()
    ]
    afresh = {"moe.upcycled_from": ""}
    middle, coarse, with_shared, narrow = (
        matched_cell(cell, FINE, overlay(base, afresh))
        for cell in (MIDDLE, COARSE, Cell(name=SHARED, overrides=shared), DENSE)
    )
    made = [
        FINE,
        middle,
        coarse,
        with_shared,
        EXPERT_CHOICE,
        UNBALANCED,
        NO_Z_LOSS,
        NO_QK_NORM,
        *scaled,
        narrow,
    ]
    if not base.moe.upcycled_from:
        return made
    return [
        *(Cell(name=cell.name, overrides={**cell.overrides, **afresh}) for cell in made),
        Cell(
            name=UPCYCLED,
            overrides={**COARSE.overrides, "moe.d_expert": narrow.config(base).d_ff_dense},
        ),
    ]


def _without(id: str, what: str, cell: Cell) -> Better:
    return Better(id=id, statement=f"{what} beats none", a=FINE.name, b=cell.name)


STUDY = Study(
    name="olmoe_ablations",
    question="Which of OLMoE's choices lower the loss of a mixture?",
    baseline=FINE.name,
    held_fixed="tokens, learning rate, active parameters of mixtures",
    scales={scale: overlay(base, OLMOE) for scale, base in of_family("llama").items()},
    cells=cells,
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=(
        Better(
            id="OL1",
            statement="the mixture beats the dense model of equal active parameters",
            a=FINE.name,
            b=DENSE.name,
        ),
        Ordered(
            id="OL2",
            statement="the finer the experts, the better",
            best_to_worst=(FINE.name, MIDDLE.name, COARSE.name),
        ),
        NotBetter(
            id="OL3",
            statement="a shared expert is no better than one more that is chosen",
            a=SHARED,
            b=MIDDLE.name,
            margin=PERCENT,
        ),
        Better(
            id="OL4",
            statement="a choice by tokens beats one by experts",
            a=FINE.name,
            b=EXPERT_CHOICE.name,
        ),
        _without("OL5", "a load-balancing loss", UNBALANCED),
        _without("OL6", "a router z-loss", NO_Z_LOSS),
        _without("OL7", "QK-norm", NO_QK_NORM),
        *(
            Equivalent(
                id=f"OL8-{name}",
                statement=f"{factor:g} times the scale of the router's first weights is equivalent",
                a=name,
                b=FINE.name,
                margin=PERCENT,
            )
            for name, factor in ROUTER_SCALES.items()
        ),
    ),
)
