"""Is a learned router worth more than a frozen one? Six mixtures and two dense baselines."""

from __future__ import annotations

from math import log

from moe.config import TrialConfig
from orchestrator.study import Better, Equivalent, Study
from search_spaces.budget import dense_baselines
from search_spaces.cells import Cell
from search_spaces.overlay import diff
from studies.scales import SCALES

# The gate of Top-2 at each unit, as in arXiv 2402.13089.
GATES = {"token": "softmax_topk", "sequence": "double_softmax"}


def cells(base: TrialConfig) -> list[Cell]:
    dense = [
        Cell(name=name, overrides=diff(base, config))
        for name, config in dense_baselines(base).items()
    ]
    mixtures = [
        Cell(
            name=f"{unit}-{router}",
            overrides={"moe.routing_unit": unit, "moe.router": router, "moe.gate": gate},
        )
        for unit, gate in GATES.items()
        for router in ("learned", "frozen", "random")
    ]
    return dense + mixtures


STUDY = Study(
    name="quickstart",
    question="Does a learned router beat a frozen or a random one, and any of them a dense model?",
    baseline="dense-active",
    held_fixed="tokens, learning rate, width of an expert, experts chosen (2 of 4 before --set)",
    scales=SCALES,
    cells=cells,
    seeds=(0, 1),
    claims=(
        Better(
            id="mixture",
            statement="a mixture beats the dense model of equal active parameters",
            a="token-learned",
            b="dense-active",
        ),
        Equivalent(
            id="frozen",
            statement="a frozen router is as good as a learned one, within 1% of perplexity",
            a="token-frozen",
            b="token-learned",
            margin=log(1.01),
        ),
    ),
)
