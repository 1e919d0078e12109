"""Does the scale of a frozen router's random weights matter?

The choice of the K largest scores does not change with their scale, but the weights of the chosen
do: near uniform where scores are small, near one-hot where they are large.
"""

from __future__ import annotations

from moe.config import TrialConfig
from orchestrator.study import All, Equivalent, Study
from search_spaces.cells import Cell
from studies.paper_cells import DESIGN, PAPER_SCALES, ROUTER_MARGIN, SEEDS, mixture

UNITS = ("token", "sequence")
FACTORS = {"-std0.1x": 0.1, "-std10x": 10.0, "-std100x": 100.0}


def _name(unit: str, suffix: str = "") -> str:
    return mixture(unit, router="frozen", suffix=suffix).name


def cells(base: TrialConfig) -> list[Cell]:
    std = base.moe.router_init_std
    rescaled = [
        mixture(unit, router="frozen", suffix=suffix, also={"moe.router_init_std": factor * std})
        for unit in UNITS
        for suffix, factor in FACTORS.items()
    ]
    return [
        *(mixture(unit, router=router) for router in ("learned", "frozen") for unit in UNITS),
        *rescaled,
    ]


STUDY = Study(
    name="router_init",
    question="Does the scale at which a frozen router is initialised change the loss?",
    baseline=_name("token"),
    held_fixed="tokens, learning rate, 2 of 4 experts, the direction of the router's weights",
    scales=PAPER_SCALES,
    cells=cells,
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=tuple(
        All(
            id=f"init-{unit}",
            statement=f"a frozen router is as good at 0.1, 10 and 100 times the scale ({unit} "
            "unit)",
            parts=tuple(
                Equivalent(
                    id=f"init-{unit}{suffix}",
                    statement=f"{factor:g} times the scale is equivalent",
                    a=_name(unit, suffix),
                    b=_name(unit),
                    margin=ROUTER_MARGIN,
                )
                for suffix, factor in FACTORS.items()
            ),
        )
        for unit in UNITS
    ),
)
