"""Names of all metrics, with unit, direction and reduction. Definitions: docs/metrics.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Metric:
    name: str
    unit: str
    better: Literal["lower", "higher", "neither"]
    reduction: str
    meaning: str


STEP = "step"
TOKENS = "tokens"
TIMESTAMP_MS = "timestamp_ms"

VAL_LOSS = "val/loss"
VAL_PERPLEXITY = "val/perplexity"
VAL_BITS_PER_BYTE = "val/bits_per_byte"
TRAIN_LOSS = "train/loss"
TRAIN_LOSS_LAST_100 = "train/loss_last_100"
GRAD_NORM = "train/grad_norm"
LEARNING_RATE = "train/learning_rate"
TOKENS_PER_S = "cost/tokens_per_s"
DEVICE_S = "cost/device_s"
PEAK_MEMORY_BYTES = "cost/peak_memory_bytes"
BALANCE_LOSS = "router/balance_loss"
Z_LOSS = "router/z_loss"
LOAD_ENTROPY = "router/load_entropy"
MAX_VIOLATION = "router/max_violation"
DEAD_EXPERTS = "router/dead_experts"
CONFIDENCE = "router/confidence"
SATURATION = "router/saturation"

_EVAL = "mean over the held-out tokens"
_SINCE = "mean over steps since the last evaluation"
_LAYERS = "mean over MoE blocks, on the evaluation set"

METRICS: tuple[Metric, ...] = tuple(
    Metric(name=n, unit=u, better=b, reduction=r, meaning=m)
    for n, u, b, r, m in (
        (VAL_LOSS, "nats/token", "lower", _EVAL, "cross-entropy on the fixed held-out set"),
        (VAL_PERPLEXITY, "1", "lower", _EVAL, "exp(val/loss)"),
        (VAL_BITS_PER_BYTE, "bits/byte", "lower", _EVAL, "compares tokenizers"),
        (TRAIN_LOSS, "nats/token", "lower", _SINCE, "cross-entropy, auxiliary losses apart"),
        (
            TRAIN_LOSS_LAST_100,
            "nats/token",
            "lower",
            "mean over the last 100 steps",
            "the average that arXiv 2402.13089 reports",
        ),
        (GRAD_NORM, "1", "neither", _SINCE, "gradient norm before clipping"),
        (LEARNING_RATE, "1", "neither", "last step", "learning rate"),
        (TOKENS_PER_S, "tokens/s", "higher", _SINCE, "training tokens a second, all workers"),
        (DEVICE_S, "s", "lower", "sum over workers and attempts", "device time of the trial"),
        (
            PEAK_MEMORY_BYTES,
            "bytes",
            "lower",
            "max over workers",
            "peak memory of the process, or GPU",
        ),
        (BALANCE_LOSS, "1", "lower", _SINCE, "N sum_e f_e p_e, before its coefficient"),
        (Z_LOSS, "1", "lower", _SINCE, "router z-loss, before its coefficient"),
        (LOAD_ENTROPY, "1", "higher", _LAYERS, "-sum f ln f / ln N; 1 is even"),
        (MAX_VIOLATION, "1", "lower", _LAYERS, "max_e f_e N - 1"),
        (DEAD_EXPERTS, "pairs", "lower", "sum over blocks", "(block, expert) with f_e < 1/(10 N)"),
        (CONFIDENCE, "1", "neither", _LAYERS, "mean of the largest router probability"),
        (SATURATION, "1", "neither", _LAYERS, "overlap of the choice now with the final choice"),
    )
)
