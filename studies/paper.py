"""The three tables of arXiv 2402.13089 together: the claims that span them, and other rates.

C1 compares signed mean effects over every pair of published cells that differ in one choice alone,
a step of K and N on either side of N = 4, K = 2. The random router is left out: it is the control,
and dwarfs all. One learning rate for all cells can favour one of them, so the main contrasts are
judged again at half and at twice the rate.
"""

from __future__ import annotations

from moe.config import TrialConfig
from orchestrator.study import All, Better, Claim, Effect, Equivalent, LargerEffect, Study
from search_spaces.cells import Cell
from studies import paper_table1, paper_table2, paper_table3
from studies.paper_cells import (
    CAPACITY_MARGIN,
    DESIGN,
    GAIN_MARGIN,
    PAPER_SCALES,
    ROUTER_MARGIN,
    SEEDS,
    dense,
    mixture,
)
from studies.published import published

UNITS = ("token", "sequence")
RATES = {"-lr0.5x": 0.5, "-lr2x": 2.0}


def _name(unit: str, **fields: object) -> str:
    return mixture(unit, **fields).name


def _both(**fields: object) -> tuple[str, str]:
    """The sequence cell, then the token cell."""
    return _name("sequence", **fields), _name("token", **fields)


UNIT = Effect(
    name="unit",
    pairs=(
        _both(),
        _both(top_k=1),
        _both(top_k=3),
        _both(experts=2),
        _both(experts=6),
        _both(router="frozen"),
    ),
)
TOP_K = Effect(
    name="K",
    pairs=tuple((_name(unit, top_k=k), _name(unit, top_k=k + 1)) for unit in UNITS for k in (1, 2)),
)
EXPERTS = Effect(
    name="N",
    pairs=tuple(
        (_name(unit, experts=n), _name(unit, experts=n + 2)) for unit in UNITS for n in (2, 4)
    ),
)
SCOPE = Effect(
    name="scope",
    pairs=tuple(
        (_name("sequence", scope="global", top_k=k), _name("sequence", top_k=k)) for k in (1, 2)
    ),
)
ROUTER = Effect(
    name="router", pairs=tuple((_name(unit, router="frozen"), _name(unit)) for unit in UNITS)
)


def _random_router(unit: str) -> tuple[Claim, Claim]:
    random = _name(unit, router="random")
    return (
        Better(
            id=f"C6.{unit}.gain",
            statement=f"learned beats random at {unit} unit",
            a=_name(unit),
            b=random,
        ),
        Equivalent(
            id=f"C6.{unit}.dense",
            statement=f"random is as good as dense 1x at {unit} unit",
            a=random,
            b=dense(1).name,
            margin=GAIN_MARGIN,
        ),
    )


def _contrasts(suffix: str) -> dict[str, Claim]:
    """The main contrasts of the tables, between cells whose names end in `suffix`."""

    def better(id: str, a: str, b: str) -> Better:
        return Better(id=id, statement=f"{a} beats {b}", a=a, b=b)

    def equivalent(id: str, a: str, b: str, margin: float) -> Equivalent:
        return Equivalent(id=id, statement=f"{a} is as good as {b}", a=a, b=b, margin=margin)

    token, sequence = (_name(unit, suffix=suffix) for unit in UNITS)
    frozen = {unit: _name(unit, router="frozen", suffix=suffix) for unit in UNITS}
    return {
        "unit": better(f"unit{suffix}", token, sequence),
        "C2": better(f"C2{suffix}", token, dense(4, suffix=suffix).name),
        "C4": equivalent(f"C4{suffix}", sequence, dense(2, suffix=suffix).name, CAPACITY_MARGIN),
        "C5-token": equivalent(f"C5-token{suffix}", frozen["token"], token, ROUTER_MARGIN),
        "C5-sequence": equivalent(
            f"C5-sequence{suffix}", frozen["sequence"], sequence, ROUTER_MARGIN
        ),
    }


def _at_other_rates() -> tuple[All, ...]:
    statements = {
        "unit": "token routing beats sequence routing",
        "C2": "token Top-2 beats dense 4x",
        "C4": "sequence Top-2 is equivalent to dense 2x",
        "C5-token": "frozen is equivalent to learned at token unit",
        "C5-sequence": "frozen is equivalent to learned at sequence unit",
    }
    at_rates = [_contrasts(suffix) for suffix in RATES]
    return tuple(
        All(
            id=f"{name}-rates",
            statement=f"{statement}, at half and at twice the learning rate",
            parts=tuple(contrasts[name] for contrasts in at_rates),
        )
        for name, statement in statements.items()
    )


def cells(base: TrialConfig) -> list[Cell]:
    tables = [
        *paper_table1.STUDY.cells,
        *paper_table2.STUDY.cells,
        *paper_table3.cells(base),
    ]
    union = {cell.name: cell for cell in tables}
    for suffix, factor in RATES.items():
        change = {
            "suffix": suffix,
            "also": {"optim.learning_rate": factor * base.optim.learning_rate},
        }
        again = [mixture(unit, router=r, **change) for r in ("learned", "frozen") for unit in UNITS]
        union |= {cell.name: cell for cell in (*again, dense(2, **change), dense(4, **change))}
    return list(union.values())


STUDY = Study(
    name="paper",
    question="Which design choice moves perplexity most, and does the answer hang on the rate?",
    baseline=dense(1).name,
    held_fixed="tokens, width of an expert; the learning rate but in the cells that are named so",
    scales=PAPER_SCALES,
    cells=cells,
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=(
        LargerEffect(
            id="C1",
            statement="the routing unit moves perplexity more than K, N, scope or router kind do",
            effect=UNIT,
            than=(TOP_K, EXPERTS, SCOPE, ROUTER),
        ),
        All(
            id="C6",
            statement="a random router loses the gain: about as good as dense 1x",
            parts=tuple(part for unit in UNITS for part in _random_router(unit)),
        ),
        *_at_other_rates(),
    ),
    published=published("table1", "table2", "table3"),
)
