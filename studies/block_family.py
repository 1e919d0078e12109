"""Do claims of arXiv 2402.13089 on GPT-2's blocks hold for LLaMA's (2302.13971)?

C2, C3 and C5 of its tables are judged in each family by itself, so nothing hangs on which of the
two learns faster at this rate. The cells over GPT-2's blocks are those of the tables, and trained
once in a home.
"""

from __future__ import annotations

from orchestrator.study import Better, Claim, Equivalent, Study
from search_spaces.cells import Cell
from search_spaces.families import FAMILIES, family
from studies.paper_cells import DESIGN, PAPER_SCALES, ROUTER_MARGIN, SEEDS, dense, mixture

UNITS = ("token", "sequence")


def _cells(name: str) -> dict[str, Cell]:
    """Of one family, by what the claims call them; GPT-2's are those of every scale."""
    change = {} if name == "gpt2" else {"suffix": f"-{name}", "also": family(name)}
    return {
        "token": mixture("token", **change),
        "token-frozen": mixture("token", router="frozen", **change),
        "sequence": mixture("sequence", **change),
        "sequence-frozen": mixture("sequence", router="frozen", **change),
        "token-K1": mixture("token", top_k=1, **change),
        "dense-1x": dense(1, **change),
        "dense-4x": dense(4, **change),
    }


CELLS = {name: _cells(name) for name in FAMILIES}


def _claims(name: str) -> tuple[Claim, ...]:
    cell = {what: found.name for what, found in CELLS[name].items()}
    return (
        Better(
            id=f"C2-{name}",
            statement=f"token Top-2 beats the dense model of equal total parameters ({name})",
            a=cell["token"],
            b=cell["dense-4x"],
        ),
        Better(
            id=f"C3-{name}",
            statement=f"token Top-1 beats the dense model of equal active parameters ({name})",
            a=cell["token-K1"],
            b=cell["dense-1x"],
        ),
        *(
            Equivalent(
                id=f"C5-{unit}-{name}",
                statement=f"a frozen router is equivalent to a learned one, {unit} unit ({name})",
                a=cell[f"{unit}-frozen"],
                b=cell[unit],
                margin=ROUTER_MARGIN,
            )
            for unit in UNITS
        ),
    )


STUDY = Study(
    name="block_family",
    question="Does what GPT-2's blocks say of mixtures hold for LLaMA's?",
    baseline=CELLS["gpt2"]["dense-1x"].name,
    held_fixed="tokens, learning rate, 4 experts of the dense FFN's width; widths of each family "
    "have the same parameters",
    scales=PAPER_SCALES,
    cells=[cell for cells in CELLS.values() for cell in cells.values()],
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=tuple(claim for name in FAMILIES for claim in _claims(name)),
)
