"""Table 3 of arXiv 2402.13089: is a learned router worth more than one that cannot learn?

Routing by language follows a column of the corpus (`studies.paper_cells.by_label`): `language`,
or on the standard library, which has none, `topic`. `--set moe.label_column=domain` chooses
another column.
"""

from __future__ import annotations

from moe.config import TrialConfig
from orchestrator.study import All, Equivalent, NotBetter, Study
from search_spaces.cells import Cell
from studies.paper_cells import (
    CHOICE_MARGIN,
    DESIGN,
    PAPER_SCALES,
    ROUTER_MARGIN,
    SEEDS,
    by_label,
    mixture,
)
from studies.published import published

GLOBAL = mixture("sequence", scope="global")
ROUTERS = {
    (unit, router): mixture(unit, router=router)
    for router in ("frozen", "random", "learned")
    for unit in ("sequence", "token")
}


def cells(base: TrialConfig) -> list[Cell]:
    return [*by_label(base), GLOBAL, *ROUTERS.values()]


STUDY = Study(
    name="paper_table3",
    question="Is a learned router better than a frozen, a random or a language-guided one?",
    baseline=ROUTERS["token", "learned"].name,
    held_fixed="tokens, learning rate, 4 experts of the dense FFN's width; 2 chosen, 1 by language",
    scales=PAPER_SCALES,
    cells=cells,
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=(
        All(
            id="C5",
            statement="a frozen router is equivalent to a learned one, at both units",
            parts=tuple(
                Equivalent(
                    id=f"C5.{unit}",
                    statement=f"frozen is equivalent to learned at {unit} unit",
                    a=ROUTERS[unit, "frozen"].name,
                    b=ROUTERS[unit, "learned"].name,
                    margin=ROUTER_MARGIN,
                )
                for unit in ("token", "sequence")
            ),
        ),
        NotBetter(
            id="C10",
            statement="routing by language (the corpus's label) is no better than a learned "
            "global router",
            a="sequence-global-label-N4-K1",
            b=GLOBAL.name,
            margin=CHOICE_MARGIN,
        ),
    ),
    published=published("table3"),
)
