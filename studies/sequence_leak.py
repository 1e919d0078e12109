"""How much of sequence-level perplexity is a leak from the future?

A router that reads the mean over all positions lets later tokens choose the experts of earlier
ones. A causal prefix of P positions does not. Positions before P count in no loss, in any cell: so
no number of this study stands beside one of another study.
"""

from __future__ import annotations

from typing import Any

from moe.config import TrialConfig
from orchestrator.study import Better, Equivalent, Study
from search_spaces.cells import Cell
from studies.paper_cells import (
    CAPACITY_MARGIN,
    DESIGN,
    PAPER_SCALES,
    PERCENT,
    SEEDS,
    dense,
    mixture,
)

ROUTERS = ("learned", "frozen")


def _name(router: str, representation: str) -> str:
    return mixture("sequence", router=router, suffix=f"-{representation}").name


def prefix_length(base: TrialConfig) -> int:
    return max(1, base.model.context_length // 4)


def counted_from(base: TrialConfig) -> dict[str, Any]:
    """The first quarter of the context counts in no loss."""
    return {"train.loss_start": prefix_length(base)}


def read_from_prefix(base: TrialConfig) -> dict[str, Any]:
    """The router of a sequence reads the first quarter of the context alone."""
    return {"moe.sequence_representation": "prefix", "moe.prefix_length": prefix_length(base)}


def cells(base: TrialConfig) -> list[Cell]:
    counted = counted_from(base)
    read = {
        "mean": {"moe.sequence_representation": "mean"},
        "prefix": read_from_prefix(base),
    }
    return [
        dense(2, also=counted),
        mixture("token", also=counted),
        *(
            mixture("sequence", router=router, suffix=f"-{name}", also=change | counted)
            for router in ROUTERS
            for name, change in read.items()
        ),
    ]


STUDY = Study(
    name="sequence_leak",
    question="How much of sequence-level perplexity is the leak from later tokens?",
    baseline=dense(2).name,
    held_fixed="tokens, learning rate, 2 of 4 experts, the positions that count: all but the first "
    "quarter of the context, which is the prefix",
    scales=PAPER_SCALES,
    cells=cells,
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=(
        *(
            Better(
                id=f"leak-{router}",
                statement=f"a {router} router gains more than 1% of perplexity by reading later "
                "positions",
                a=_name(router, "mean"),
                b=_name(router, "prefix"),
                by=PERCENT,
            )
            for router in ROUTERS
        ),
        Equivalent(
            id="C4-causal",
            statement="without the leak, sequence routing is equivalent to the dense model of "
            "equal active parameters",
            a=_name("learned", "prefix"),
            b=dense(2).name,
            margin=CAPACITY_MARGIN,
        ),
    ),
)
