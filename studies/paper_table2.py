"""Table 2 of arXiv 2402.13089: how many experts there are, and how many are chosen."""

from __future__ import annotations

from orchestrator.study import All, Ordered, Study
from studies.paper_cells import DESIGN, PAPER_SCALES, SEEDS, mixture
from studies.published import published

SIZES = ((2, 2), (4, 2), (6, 2), (4, 1), (4, 3))
UNITS = ("sequence", "token")


def _name(unit: str, experts: int, top_k: int) -> str:
    return mixture(unit, experts=experts, top_k=top_k).name


STUDY = Study(
    name="paper_table2",
    question="Do more experts, or more chosen ones, help: by token and by sequence?",
    baseline=_name("token", 4, 2),
    held_fixed="tokens, learning rate, width of an expert, learned layer-wise router; total "
    "parameters grow with N, active ones with K",
    scales=PAPER_SCALES,
    cells=[mixture(unit, experts=n, top_k=k) for n, k in SIZES for unit in UNITS],
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=(
        All(
            id="C8",
            statement="larger K helps sequence routing; larger N helps token routing",
            parts=(
                Ordered(
                    id="C8.K",
                    statement="by sequence, K = 3 beats 2 beats 1",
                    best_to_worst=tuple(_name("sequence", 4, k) for k in (3, 2, 1)),
                ),
                Ordered(
                    id="C8.N",
                    statement="by token, N = 6 beats 4 beats 2",
                    best_to_worst=tuple(_name("token", n, 2) for n in (6, 4, 2)),
                ),
            ),
        ),
    ),
    published=published("table2"),
)
