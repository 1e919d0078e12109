"""How large had a trial of the scale `cpu-2025-11` to be? The smallest at which dense 1x and 2x
separate.

Nothing here looks at a mixture, and its seeds are used nowhere else: a scale that was chosen for
showing effects of mixtures would be no evidence of them. They separate where the interval of the
paired difference excludes 0, over five seeds. The ladder is in the order of cost; `docs/log.md` has
what came out on which corpus, and `studies.scales.CPU_2025_11` is the answer, frozen.
"""

from __future__ import annotations

from orchestrator.study import Better, Study
from search_spaces.overlay import overlay
from studies.paper_cells import dense
from studies.scales import CPU_2025_11

# (blocks, optimiser steps)
LADDER = ((4, 500), (2, 1000), (4, 1000), (2, 2000), (4, 1500), (2, 3000))
NARROW, WIDE = dense(1), dense(2)


def _rung(num_layers: int, num_steps: int) -> dict[str, int]:
    return {
        "model.num_layers": num_layers,
        "train.num_steps": num_steps,
        "train.eval_every": num_steps // 8,
    }


SCALES = {f"layers{n}-steps{steps}": overlay(CPU_2025_11, _rung(n, steps)) for n, steps in LADDER}

STUDY = Study(
    name="cpu_scale",
    question="How many blocks and steps until a dense model of twice the width is better?",
    baseline=NARROW.name,
    held_fixed="tokens a step, learning rate, d_model, vocabulary, context: those of that scale",
    scales=SCALES,
    default_scale=next(iter(SCALES)),
    cells=[NARROW, WIDE],
    seeds=(100, 101, 102, 103, 104),
    claims=(
        Better(
            id="separate",
            statement="dense 2x beats dense 1x",
            a=WIDE.name,
            b=NARROW.name,
        ),
    ),
)
