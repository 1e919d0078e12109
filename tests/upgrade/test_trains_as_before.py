"""Today's code trains what commit 016369d trained: the losses that it left are met again.

`trained.json` was written by that commit, over the configurations below and the tokens of the old
home. Where this test fails, results of before are no longer comparable: that is a decision, which
begins a new group in `moe/digests_alike.py`. Where it passes and code was written anew, the line
that it asks for keeps what was trained before in the same rows.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe.code_digest import moe_digest
from moe.config import DataConfig, ModelConfig, MoEConfig, OptimConfig, TrainConfig, TrialConfig
from moe.data.token_store import TokenStore
from moe.digests_alike import ALIKE
from moe.train.training_run import train
from search_spaces.overlay import overlay

TRAINED = Path(__file__).with_name("trained.json")

BASE = TrialConfig(
    model=ModelConfig(num_layers=2, d_model=32, num_heads=2, d_ff=64, context_length=32),
    moe=MoEConfig(num_experts=4, top_k=2),
    data=DataConfig(tokenizer="byte"),
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=1),
    train=TrainConfig(
        num_steps=6,
        batch_tokens=512,
        micro_batch_tokens=256,
        eval_every=3,
        eval_tokens=1024,
        seed=3,
    ),
)
SEQUENCE = {"moe.routing_unit": "sequence"}
CASES = {
    "dense": {"moe.num_experts": 0, "model.ffn_multiple": 2.0},
    "learned": {},
    "frozen": {"moe.router": "frozen"},
    "random": {"moe.router": "random"},
    "hash": {"moe.router": "hash"},
    "label": {"moe.router": "label", "moe.top_k": 1},
    "sequence": SEQUENCE,
    "sequence-frozen": {**SEQUENCE, "moe.router": "frozen"},
    "prefix": {
        **SEQUENCE,
        "moe.sequence_representation": "prefix",
        "moe.prefix_length": 4,
        "train.loss_start": 4,
    },
    "global": {"moe.routing_scope": "global"},
    "switch-balanced": {"moe.top_k": 1, "moe.gate": "switch", "moe.balance": "switch"},
    "sigmoid-loss-free": {"moe.gate": "sigmoid", "moe.balance": "loss_free_logits"},
    "double-softmax": {"moe.gate": "double_softmax", "moe.z_loss_coefficient": 1e-3},
    "global-batch": {"moe.balance": "switch", "moe.balance_scope": "global_batch"},
    "fine-grained": {"moe.granularity": 2, "moe.shared_experts": 1},
    "every-second-layer": {"moe.layer_stride": 2, "moe.d_expert": 48},
    "dropout": {"model.dropout": 0.2, "optim.grad_clip": 0.5},
    "bf16": {"train.precision": "bf16"},
}


def losses(case: str, tokens: Path, out: Path) -> list[float]:
    """Loss of evaluation and of training at each evaluation."""
    config = overlay(BASE, CASES[case])
    result = train(config, TokenStore.open(tokens), report=lambda *_: None, out=out)
    return [entry[name] for entry in result.curve for name in ("val/loss", "train/loss")]


@pytest.mark.parametrize("case", CASES)
def test_losses_are_met_again(case, old_tokens, tmp_path):
    """To the bit on the processor that they were written on; elsewhere the last digits differ."""
    expected = json.loads(TRAINED.read_text())[case]
    within = 5e-3 if case == "bf16" else 2e-5
    assert losses(case, old_tokens, tmp_path / "out") == pytest.approx(expected, rel=within)


def test_the_digest_of_todays_code_is_known():
    known = {digest for group in ALIKE for digest in group}
    assert moe_digest() in known, (
        f"what trains was written anew: its digest is {moe_digest()}. If the losses above are met "
        "again, add it to the newest group in moe/digests_alike.py; if results are meant to "
        "change, begin a group with it, and write trained.json anew."
    )


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        found = {case: losses(case, Path(sys.argv[1]), Path(scratch, case)) for case in CASES}
    TRAINED.write_text(json.dumps(found, indent=1) + "\n")
