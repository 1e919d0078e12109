"""Table 1 of arXiv 2402.13089 once more, without the leak from later tokens.

Sequence cells are routed by a causal prefix instead of the mean over all positions, and the
prefix's positions count in no loss, in any cell. The order of the cells beside the published one
(Kendall's tau, as under `paper_table1`) says whether the leak is why the two tables differ; no
perplexity of this study stands beside one of another.
"""

from __future__ import annotations

import dataclasses

from moe.config import TrialConfig
from orchestrator.study import Study
from search_spaces.cells import Cell
from studies.paper_cells import DESIGN, PAPER_SCALES, SEEDS
from studies.paper_table1 import CLAIMS, DENSE_1X
from studies.paper_table1 import STUDY as TABLE
from studies.published import published
from studies.sequence_leak import counted_from, read_from_prefix


def _causal(cell: Cell, base: TrialConfig) -> Cell:
    is_sequence = cell.overrides.get("moe.routing_unit") == "sequence"
    also = {**counted_from(base), **(read_from_prefix(base) if is_sequence else {})}
    return dataclasses.replace(cell, overrides={**cell.overrides, **also})


def cells(base: TrialConfig) -> list[Cell]:
    return [_causal(cell, base) for cell in TABLE.cells]


STUDY = Study(
    name="table1_causal",
    question="Is the leak from later tokens why table 1 differs from the published one?",
    baseline=DENSE_1X.name,
    held_fixed="what paper_table1 holds, and the positions that count: all but the prefix, the "
    "first quarter of the context",
    scales=PAPER_SCALES,
    cells=cells,
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=tuple(dataclasses.replace(claim, id=f"{claim.id}-by-prefix") for claim in CLAIMS),
    published=published("table1"),
)
