"""Is the load balanced within each micro-batch, or over the global batch (arXiv 2501.11873)?

A micro-batch of few sequences has few topics; to balance within it forbids experts to specialise in
them. The two differ only where a step has several micro-batches, so here it has at least eight.
"""

from __future__ import annotations

from moe.config import TrialConfig
from orchestrator.study import Better, Specialises, Study
from search_spaces.overlay import overlay
from studies.paper_cells import DESIGN, PAPER_SCALES, SEEDS, mixture

UNITS = ("token", "sequence")


def _split(base: TrialConfig) -> TrialConfig:
    """The scale with at least eight micro-batches a step."""
    eighth = base.train.batch_tokens // 8
    return overlay(base, {"train.micro_batch_tokens": min(eighth, base.train.micro_batch_tokens)})


NONE = {unit: mixture(unit, also={"moe.balance": "none"}) for unit in UNITS}
MICRO, GLOBAL = (
    {
        unit: mixture(
            unit,
            suffix=f"-balanced-{scope}",
            also={"moe.balance": "switch", "moe.balance_scope": scope},
        )
        for unit in UNITS
    }
    for scope in ("micro_batch", "global_batch")
)

STUDY = Study(
    name="balance_scope",
    question="Does balancing over the global batch let experts specialise, and lower the loss?",
    baseline=MICRO["token"].name,
    held_fixed="all but the balance loss and its scope; micro-batches of an eighth of a step",
    scales={name: _split(base) for name, base in PAPER_SCALES.items()},
    cells=[cell for unit in UNITS for cell in (NONE[unit], MICRO[unit], GLOBAL[unit])],
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=(
        *(
            Better(
                id=f"scope-{unit}",
                statement=f"balancing over the global batch beats the micro-batch ({unit} unit)",
                a=GLOBAL[unit].name,
                b=MICRO[unit].name,
            )
            for unit in UNITS
        ),
        Specialises(
            id="scope-domains",
            statement="by token, global balance lets experts go more with domains than micro-batch "
            "balance does",
            cell=GLOBAL["token"].name,
            control=MICRO["token"].name,
            labels=("topic", "domain", "language"),
            at_least=0.0,
        ),
    ),
)
