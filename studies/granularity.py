"""Granularity G (arXiv 2402.07871): G times as many experts, each a G-th as wide, G times as many
chosen. The router of G times as many experts is G times as large, so the experts of the coarser
mixtures, and the dense model, are as much wider as makes active parameters equal."""

from __future__ import annotations

from moe.config import TrialConfig
from orchestrator.study import Better, Study
from search_spaces.budget import matched_cell
from search_spaces.cells import Cell
from studies.paper_cells import DESIGN, PAPER_SCALES, SEEDS, dense, mixture

CELLS = {g: mixture("token", suffix=f"-G{g}", also={"moe.granularity": g}) for g in (1, 2, 4, 8)}
FINEST = CELLS[8]
DENSE = dense(2, suffix="-active")


def cells(base: TrialConfig) -> list[Cell]:
    coarser = [matched_cell(cell, FINEST, base) for cell in (CELLS[1], CELLS[2], CELLS[4])]
    return [*coarser, FINEST, matched_cell(DENSE, FINEST, base)]


STUDY = Study(
    name="granularity",
    question="At equal active parameters, are more and narrower experts better?",
    baseline=CELLS[1].name,
    held_fixed="tokens, learning rate, active parameters, learned token-level router",
    scales=PAPER_SCALES,
    cells=cells,
    scale_seeds=SEEDS,
    design=DESIGN,
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
