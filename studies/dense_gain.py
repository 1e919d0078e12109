"""At which size of a trial does a dense model gain from width what the paper's gains?

The paper's dense models of twice and four times the width have 8.3% and 14.8% less perplexity than
the first (table 1 of arXiv 2402.13089, English Wikipedia); a model that is trained on few tokens a
parameter gains less, and says nothing about capacity. Here sizes of at most about two core-minutes
a trial are set beside one another: widths, blocks, vocabularies, steps. Nothing looks at a mixture,
and the seeds are used nowhere else: a scale that was chosen for what it shows of mixtures would be
no evidence of them.

Each size has its own learning rate, the best of `RATES` on the narrow model alone, seed 100; the
wide ones are trained at that rate. `docs/results` has what came out, `studies.scales.CPU` the
answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.study import Better, Study
from search_spaces.cells import Cell
from studies.scales import CPU_2025_11

RATES = (0.004, 0.008, 0.016, 0.032)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size, and the rate that the narrow model was best at."""

    width: int
    blocks: int
    vocabulary: int
    steps: int
    warmup: int = 100
    rate: float = 0.008

    @property
    def name(self) -> str:
        warmup = "" if self.warmup == 100 else f"-W{self.warmup}"
        return f"d{self.width}-L{self.blocks}-V{self.vocabulary}-T{self.steps}{warmup}"

    def cell(self, multiple: int, rate: float) -> Cell:
        """The dense model of `multiple` times the FFN's width."""
        return Cell(
            name=f"{self.name}-lr{rate:g}-dense-{multiple}x",
            overrides={
                "moe.num_experts": 0,
                "model.ffn_multiple": float(multiple),
                "model.d_model": self.width,
                "model.d_ff": 4 * self.width,
                "model.num_heads": 2,
                "model.num_layers": self.blocks,
                "data.vocab_size": self.vocabulary,
                "optim.learning_rate": rate,
                "optim.warmup_steps": self.warmup,
                "train.num_steps": self.steps,
                "train.eval_every": self.steps // 20,
            },
        )


SIZES = (
    Size(width=32, blocks=2, vocabulary=512, steps=2000, rate=0.016),
    Size(width=32, blocks=2, vocabulary=512, steps=4000, rate=0.016),
    Size(width=32, blocks=2, vocabulary=1024, steps=2000),
    Size(width=32, blocks=4, vocabulary=512, steps=2000, rate=0.016),
    Size(width=48, blocks=2, vocabulary=512, steps=2000),
    Size(width=48, blocks=2, vocabulary=512, steps=2000, warmup=400),
    Size(width=24, blocks=2, vocabulary=512, steps=4000),
)


def cells(base: object) -> list[Cell]:
    narrow = [size.cell(1, rate) for size in SIZES for rate in RATES]
    return narrow + [size.cell(multiple, size.rate) for size in SIZES for multiple in (2, 4)]


STUDY = Study(
    name="dense_gain",
    question="At which size of a trial does a dense model gain from width as the paper's does?",
    baseline=SIZES[0].cell(1, SIZES[0].rate).name,
    held_fixed="tokens a step, context, schedule: those of cpu-2025-11; dense models alone",
    scales={"cpu-2025-11": CPU_2025_11},
    default_scale="cpu-2025-11",
    cells=cells,
    seeds=(100, 101),
    claims=tuple(
        Better(
            id=f"{size.name}-{multiple}x",
            statement=f"dense {multiple}x beats dense 1x at {size.name}",
            a=size.cell(multiple, size.rate).name,
            b=size.cell(1, size.rate).name,
        )
        for size in SIZES
        for multiple in (2, 4)
    ),
)
