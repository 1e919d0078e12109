"""Granularity G (arXiv 2402.07871): G times as many experts, each a G-th as wide, G times as many
chosen, so that total and active parameters stay (output biases and routers apart)."""

from __future__ import annotations

from orchestrator.study import Better, Study
from studies.paper_cells import PAPER_SCALES, SEEDS, dense, mixture

CELLS = {
    g: mixture(
        "token", suffix=f"-G{g}" if g > 1 else "", also={"moe.granularity": g} if g > 1 else {}
    )
    for g in (1, 2, 4, 8)
}

STUDY = Study(
    name="granularity",
    question="At equal active and total parameters, are more and narrower experts better?",
    baseline=CELLS[1].name,
    held_fixed="tokens, learning rate, active and total parameters, learned token-level router",
    scales=PAPER_SCALES,
    cells=[*CELLS.values(), dense(2)],
    scale_seeds=SEEDS,
    claims=(
        Better(
            id="GR1",
            statement="experts a fourth as wide beat whole ones",
            a=CELLS[4].name,
            b=CELLS[1].name,
        ),
        Better(
            id="GR2",
            statement="the gain goes on: an eighth beats a fourth",
            a=CELLS[8].name,
            b=CELLS[4].name,
        ),
    ),
)
