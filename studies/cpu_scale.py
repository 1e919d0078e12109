"""How long must a trial of the `cpu` scale be? The shortest at which dense 1x and dense 2x separate.

Nothing here looks at a mixture, and its seeds are used nowhere else: a scale that was chosen for
showing effects of mixtures would be no evidence of them. Separate means by more than the margin of
every equivalence (1% of perplexity), or two models of twice the width would pass for equivalent.
`docs/log.md` has what came out; `studies.scales.CPU` is the answer, frozen.
"""

from __future__ import annotations

from orchestrator.claim_types import Better
from orchestrator.study import Study
from search_spaces.overlay import overlay
from studies.paper_cells import PERCENT, dense
from studies.scales import CPU

LENGTHS = (500, 1000, 1500)
NARROW, WIDE = dense(1), dense(2)

STUDY = Study(
    name="cpu_scale",
    question="How many steps until a dense model of twice the width is better by over 1%?",
    baseline=NARROW.name,
    held_fixed="all of the cpu scale but the number of steps; tokens a step, learning rate",
    scales={f"steps-{n}": overlay(CPU, {"train.num_steps": n}) for n in LENGTHS},
    default_scale=f"steps-{LENGTHS[0]}",
    cells=[NARROW, WIDE],
    seeds=(100, 101, 102, 103, 104),
    claims=(
        Better(
            id="separate",
            statement="dense 2x beats dense 1x by more than 1% of perplexity",
            a=WIDE.name,
            b=NARROW.name,
            by=PERCENT,
        ),
    ),
)
