"""Table 1 of arXiv 2402.13089: routing unit, scope and K against three dense models."""

from __future__ import annotations

from orchestrator.study import All, Better, Equivalent, Study
from studies.paper_cells import (
    CAPACITY_MARGIN,
    DESIGN,
    PAPER_SCALES,
    SEEDS,
    dense,
    mixture,
)
from studies.published import published

TOKEN_K1, TOKEN_K2 = (mixture("token", top_k=k) for k in (1, 2))
SEQUENCE_K1, SEQUENCE_K2 = (mixture("sequence", top_k=k) for k in (1, 2))
GLOBAL_K1, GLOBAL_K2 = (mixture("sequence", scope="global", top_k=k) for k in (1, 2))
DENSE_1X, DENSE_2X, DENSE_4X = (dense(multiple) for multiple in (1, 2, 4))

CLAIMS = (
    Better(
        id="C2",
        statement="token, layer-wise, Top-2 beats the dense model of equal total parameters",
        a=TOKEN_K2.name,
        b=DENSE_4X.name,
    ),
    Better(
        id="C3",
        statement="token, layer-wise, Top-1 beats the dense model of equal active parameters",
        a=TOKEN_K1.name,
        b=DENSE_1X.name,
    ),
    Equivalent(
        id="C4",
        statement="sequence, layer-wise, Top-2 is equivalent to the dense model of equal active "
        "parameters",
        a=SEQUENCE_K2.name,
        b=DENSE_2X.name,
        margin=CAPACITY_MARGIN,
    ),
    All(
        id="C9",
        statement="global routing is worse than layer-wise",
        parts=tuple(
            Better(
                id=f"C9.K{k}",
                statement=f"layer-wise beats global at K = {k}",
                a=layer.name,
                b=everywhere.name,
            )
            for k, layer, everywhere in (
                (1, SEQUENCE_K1, GLOBAL_K1),
                (2, SEQUENCE_K2, GLOBAL_K2),
            )
        ),
    ),
)

STUDY = Study(
    name="paper_table1",
    question="Do routing unit, scope and K make a mixture better than dense models of its size?",
    baseline=DENSE_1X.name,
    held_fixed="tokens, learning rate, 4 experts of the dense FFN's width, learned router",
    scales=PAPER_SCALES,
    cells=[
        TOKEN_K2,
        SEQUENCE_K2,
        GLOBAL_K2,
        TOKEN_K1,
        SEQUENCE_K1,
        GLOBAL_K1,
        DENSE_1X,
        DENSE_2X,
        DENSE_4X,
    ],
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=CLAIMS,
    published=published("table1"),
)
