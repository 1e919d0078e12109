"""Figure 1 of arXiv 2402.13089: what the balance loss does to the load, and to the loss.

Collapse is a fall of the load's entropy by more than a tenth of its maximum. With N = 4 and K = 2,
two experts that take every token would lower it by a half.
"""

from __future__ import annotations

from moe.metrics import LOAD_ENTROPY
from orchestrator.study import All, Better, Equivalent, Study
from studies.paper_cells import CHOICE_MARGIN, DESIGN, PAPER_SCALES, SEEDS, mixture
from studies.published import published

COLLAPSE = 0.1
UNITS = ("sequence", "token")
WITHOUT = {
    unit: mixture(unit, suffix="-unbalanced", also={"moe.balance": "none"}) for unit in UNITS
}
WITH = {unit: mixture(unit, also={"moe.balance": "switch"}) for unit in UNITS}


def _claim(id: str, unit: str) -> All:
    with_loss, without = WITH[unit].name, WITHOUT[unit].name
    return All(
        id=id,
        statement="the balance loss does not change perplexity, though without it experts "
        f"collapse ({unit} unit)",
        parts=(
            Equivalent(
                id=f"{id}.loss",
                statement="with and without are equivalent",
                a=with_loss,
                b=without,
                margin=CHOICE_MARGIN,
            ),
            Better(
                id=f"{id}.load",
                statement="without it the load's entropy falls by more than 0.1",
                a=with_loss,
                b=without,
                metric=LOAD_ENTROPY,
                by=COLLAPSE,
            ),
        ),
    )


STUDY = Study(
    name="paper_balance",
    question="Does the balance loss change perplexity, and do experts collapse without it?",
    baseline=WITHOUT["sequence"].name,
    held_fixed="all but the balance loss; its coefficient is the paper's 0.01 before --set",
    scales=PAPER_SCALES,
    cells=[cell for unit in UNITS for cell in (WITHOUT[unit], WITH[unit])],
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=(_claim("C7", "sequence"), _claim("C7-token", "token")),
    published=published("figure1"),
)
