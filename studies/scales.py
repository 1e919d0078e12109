"""The base configurations that studies share, one a scale.

`smoke`: a whole study in about two minutes on two cores; it shows that things work, and is no
evidence. `cpu`: two to four minutes a trial on one core; it is the answer of `studies.dense_gain`,
and stays as it is: every result at that scale hangs on it. `cpu-2025-11`: what `cpu` was before,
the answer of `studies.cpu_scale`; it trains on so few tokens a parameter that capacity hardly
matters. `gpu`: about 25M active parameters. `paper`: GPT-2 small as in arXiv 2402.13089. All have
GPT-2's blocks; any study asks the same over LLaMA's with `--set model.family=llama`, or takes
`of_family` as scales.
"""

from __future__ import annotations

from moe.config import (
    GPT2_VOCAB_SIZE,
    DataConfig,
    ModelConfig,
    MoEConfig,
    OptimConfig,
    TrainConfig,
    TrialConfig,
)
from search_spaces.families import family
from search_spaces.overlay import overlay

# The paper's mixture: four experts, two chosen, in every block, no balance loss.
PAPER_MOE = MoEConfig(num_experts=4, top_k=2)

SMOKE = TrialConfig(
    model=ModelConfig(num_layers=2, d_model=64, num_heads=4, d_ff=256, context_length=64),
    moe=PAPER_MOE,
    data=DataConfig(tokenizer="byte"),
    optim=OptimConfig(learning_rate=4e-3, warmup_steps=20),
    train=TrainConfig(
        num_steps=150,
        batch_tokens=2048,
        micro_batch_tokens=1024,
        eval_every=30,
        eval_tokens=16384,
    ),
)

CPU = TrialConfig(
    model=ModelConfig(num_layers=2, d_model=48, num_heads=2, d_ff=192, context_length=128),
    moe=PAPER_MOE,
    data=DataConfig(tokenizer="bpe", vocab_size=512, test_fraction=0.05),
    optim=OptimConfig(learning_rate=8e-3, warmup_steps=400),
    train=TrainConfig(
        num_steps=2000,
        batch_tokens=2048,
        micro_batch_tokens=2048,
        eval_every=250,
        eval_tokens=131072,
    ),
)

CPU_2025_11 = TrialConfig(
    model=ModelConfig(num_layers=2, d_model=64, num_heads=4, d_ff=256, context_length=128),
    moe=PAPER_MOE,
    data=DataConfig(tokenizer="bpe", vocab_size=1024),
    optim=OptimConfig(learning_rate=4e-3, warmup_steps=100),
    train=TrainConfig(
        num_steps=1000,
        batch_tokens=2048,
        micro_batch_tokens=2048,
        eval_every=125,
        eval_tokens=65536,
    ),
)

GPU = TrialConfig(
    model=ModelConfig(
        num_layers=8, d_model=384, num_heads=6, d_ff=1536, context_length=512, dropout=0.0
    ),
    moe=PAPER_MOE,
    data=DataConfig(tokenizer="bpe", vocab_size=8192, test_fraction=0.05),
    optim=OptimConfig(learning_rate=1e-3, warmup_steps=200),
    train=TrainConfig(
        num_steps=2000,
        batch_tokens=131072,
        micro_batch_tokens=32768,
        precision="bf16",
        eval_every=200,
        eval_tokens=1048576,
    ),
)

PAPER = TrialConfig(
    model=ModelConfig(
        num_layers=12, d_model=768, num_heads=12, d_ff=3072, context_length=1024, dropout=0.2
    ),
    moe=PAPER_MOE,
    data=DataConfig(tokenizer="gpt2", vocab_size=GPT2_VOCAB_SIZE, test_fraction=0.05),
    optim=OptimConfig(learning_rate=9.6e-4, warmup_steps=300, weight_decay=0.5),
    train=TrainConfig(
        num_steps=6000,
        batch_tokens=1048576,
        micro_batch_tokens=16384,
        precision="bf16",
        eval_every=250,
        eval_tokens=4194304,
    ),
)

SCALES = {"smoke": SMOKE, "cpu": CPU, "gpu": GPU, "paper": PAPER, "cpu-2025-11": CPU_2025_11}


def of_family(name: str) -> dict[str, TrialConfig]:
    """Every scale with the blocks of a family: `gpt2`, which they have, or `llama`."""
    return {scale: overlay(base, family(name)) for scale, base in SCALES.items()}
