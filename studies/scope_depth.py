"""Does one decision for all blocks cost more, the more blocks there are?

In table 1 of arXiv 2402.13089 global routing is worse than layer-wise, in models of twelve blocks;
at the scale `cpu`, which has two, it is not, and most pairs of cells whose order differs from the
published one have a global cell (docs/log.md). Cells route by a causal prefix, whose positions
count in no loss: what a seed finds of the leak is more than scope moves.
"""

from __future__ import annotations

from moe.config import TrialConfig
from orchestrator.study import Better, Claim, Effect, LargerEffect, Study
from search_spaces.cells import Cell
from studies.paper_cells import DESIGN, PAPER_SCALES, SEEDS, mixture
from studies.sequence_leak import counted_from, read_from_prefix

DEPTHS = (2, 6)
SCOPES = ("layer", "global")


def _name(scope: str, depth: int) -> str:
    return f"{mixture('sequence', scope=scope).name}-L{depth}"


def cells(base: TrialConfig) -> list[Cell]:
    causal = {**counted_from(base), **read_from_prefix(base)}
    return [
        mixture(
            "sequence",
            scope=scope,
            suffix=f"-L{depth}",
            also={**causal, "model.num_layers": depth},
        )
        for depth in DEPTHS
        for scope in SCOPES
    ]


def _effect(depth: int) -> Effect:
    pair = (_name("global", depth), _name("layer", depth))
    return Effect(name=f"scope at {depth} blocks", pairs=(pair,))


def _worse(depth: int) -> Claim:
    return Better(
        id=f"C9-L{depth}",
        statement=f"layer-wise beats global in {depth} blocks",
        a=_name("layer", depth),
        b=_name("global", depth),
    )


STUDY = Study(
    name="scope_depth",
    question="Does one decision for all blocks cost more, the more blocks there are?",
    baseline=_name("layer", DEPTHS[0]),
    held_fixed="tokens, widths, N, K, the learning rate of two blocks, the positions that count",
    scales=PAPER_SCALES,
    cells=cells,
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=(
        *map(_worse, DEPTHS),
        LargerEffect(
            id="scope-by-depth",
            statement=f"scope moves the loss more in {DEPTHS[-1]} blocks than in {DEPTHS[0]}",
            effect=_effect(DEPTHS[-1]),
            than=(_effect(DEPTHS[0]),),
        ),
    ),
)
