"""What persistence, adaptation and capacity each buy.

Frozen against random is what a route that persists buys; learned against frozen what adapting it
buys; random against dense what capacity alone buys. A hash of the token id (arXiv 2106.04426)
persists and balances, and sees nothing of the context.
"""

from __future__ import annotations

from orchestrator.study import Better, Equivalent, Study
from studies.paper_cells import DESIGN, PAPER_SCALES, ROUTER_MARGIN, SEEDS, dense, mixture
from studies.published import published

UNITS = ("token", "sequence")
HASH = mixture("token", router="hash")
LEARNED, FROZEN, RANDOM = (
    {unit: mixture(unit, router=router) for unit in UNITS}
    for router in ("learned", "frozen", "random")
)
DENSE_1X, DENSE_2X = dense(1), dense(2)


def _buys(unit: str) -> tuple[Better, ...]:
    parts = (
        ("persistence", "a frozen router beats a random one", FROZEN[unit], RANDOM[unit]),
        ("adaptation", "a learned router beats a frozen one", LEARNED[unit], FROZEN[unit]),
        (
            "capacity",
            "a random router beats the dense model of equal active parameters",
            RANDOM[unit],
            DENSE_2X,
        ),
    )
    return tuple(
        Better(id=f"{what}-{unit}", statement=f"{statement} ({unit} unit)", a=a.name, b=b.name)
        for what, statement, a, b in parts
    )


STUDY = Study(
    name="router_controls",
    question="What do persistence, adaptation and capacity of a router each buy?",
    baseline=DENSE_2X.name,
    held_fixed="tokens, learning rate, 2 of 4 experts of the dense FFN's width, layer-wise",
    scales=PAPER_SCALES,
    cells=[HASH, *RANDOM.values(), *FROZEN.values(), *LEARNED.values(), DENSE_1X, DENSE_2X],
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=(
        *(claim for unit in UNITS for claim in _buys(unit)),
        Equivalent(
            id="hash",
            statement="a hash of the token id is equivalent to a learned router",
            a=HASH.name,
            b=LEARNED["token"].name,
            margin=ROUTER_MARGIN,
        ),
    ),
    published=published("table1", "table3"),
)
