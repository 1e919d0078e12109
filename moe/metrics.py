"""Names of all metrics, with unit, direction and reduction. Definitions: docs/metrics.md."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, replace
from typing import Literal

from moe.config import TrialConfig

Needs = Literal["", "experts", "scores", "limited room", "uncertain experts", "whole sequences"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """`needs`: which runs have it: all, those with experts, those whose router scores them, those
    whose experts have limited room, those where a token may get no expert, or those that route a
    sequence by all of it."""

    name: str
    unit: str
    better: Literal["lower", "higher", "neither"]
    reduction: str
    meaning: str
    needs: Needs = ""

    @property
    def is_loss(self) -> bool:
        """Whether it is a cross-entropy in nats a token: its exponential is a perplexity."""
        return self.unit == NATS

    def cost(self, value: float) -> float:
        """The value, negated where higher is better: of two costs the lower is the better one."""
        return -value if self.better == "higher" else value

    def is_measured(self, config: TrialConfig) -> bool:
        """Whether a run of this config has it."""
        if self.is_of_test and not config.data.test_fraction:
            return False
        moe = config.moe
        match self.needs:
            case "":
                return True
            case "experts":
                return not moe.is_dense
            case "scores":
                return not moe.is_dense and moe.router_kind.scores
            case "limited room":
                return moe.limits_capacity
            case "uncertain experts":
                return moe.limits_capacity or moe.experts_choose
            case "whole sequences":
                return moe.reads_whole_sequences

    @property
    def is_of_test(self) -> bool:
        """Whether it is measured on the test split, once, after the last step."""
        return self.name.startswith(_TEST)

    def require_direction(self, what: str) -> None:
        """Raises ValueError where neither way is better; `what` needs to know (a sentence)."""
        if self.better == "neither":
            directed = ", ".join(m.name for m in METRICS if m.better != "neither")
            raise ValueError(
                f"{what}; received {self.name!r}, of which neither less nor more is better. Those "
                f"with a direction are {directed}."
            )


NATS = "nats/token"

STEP = "step"
TOKENS = "tokens"
TIMESTAMP_MS = "timestamp_ms"

VAL_LOSS = "val/loss"
VAL_LOSS_OF_PART = "val/loss/part:NAME"  # one key a part of a mixture, under the part's name
VAL_PERPLEXITY = "val/perplexity"
VAL_BITS_PER_BYTE = "val/bits_per_byte"
VAL_LOSS_CAUSAL = "val/loss_causal"
TEST_LOSS = "test/loss"
TEST_PERPLEXITY = "test/perplexity"
TEST_BITS_PER_BYTE = "test/bits_per_byte"
TEST_LOSS_CAUSAL = "test/loss_causal"
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
DROPPED = "router/dropped"
UNSERVED = "router/unserved"

_VAL, _TEST = "val/", "test/"
_EVAL = "mean over the held-out tokens"
_ON_TEST = "mean over the tokens of the test split, once, after the last step"
_SINCE = "mean over steps since the last evaluation"
_LAYERS = "mean over MoE blocks, on the evaluation set"

_NEEDS: dict[str, Needs] = {
    BALANCE_LOSS: "scores",
    Z_LOSS: "scores",
    DROPPED: "limited room",
    UNSERVED: "uncertain experts",
    VAL_LOSS_CAUSAL: "whole sequences",
    TEST_LOSS_CAUSAL: "whole sequences",
}

METRICS: tuple[Metric, ...] = tuple(
    Metric(
        name=n,
        unit=u,
        better=b,
        reduction=r,
        meaning=m,
        needs=_NEEDS.get(n, "experts" if n.startswith("router/") else ""),
    )
    for n, u, b, r, m in (
        (VAL_LOSS, NATS, "lower", _EVAL, "cross-entropy on the fixed held-out set"),
        (VAL_PERPLEXITY, "1", "lower", _EVAL, "exp(val/loss)"),
        (VAL_BITS_PER_BYTE, "bits/byte", "lower", _EVAL, "compares tokenizers"),
        (
            VAL_LOSS_OF_PART,
            NATS,
            "lower",
            "mean over the held-out tokens of one part",
            "of a mixture of corpora (`mix:`): one key a part, at most 16",
        ),
        (
            VAL_LOSS_CAUSAL,
            NATS,
            "lower",
            _EVAL,
            "where a router reads the mean of a whole sequence: each position routed by the mean "
            "up to it, as a model that writes would have to; the weights are the same",
        ),
        (TEST_LOSS, NATS, "lower", _ON_TEST, "val/loss on documents that nothing chooses by"),
        (TEST_PERPLEXITY, "1", "lower", _ON_TEST, "exp(test/loss)"),
        (TEST_BITS_PER_BYTE, "bits/byte", "lower", _ON_TEST, "val/bits_per_byte there"),
        (TEST_LOSS_CAUSAL, NATS, "lower", _ON_TEST, "val/loss_causal there"),
        (TRAIN_LOSS, NATS, "lower", _SINCE, "cross-entropy, auxiliary losses apart"),
        (
            TRAIN_LOSS_LAST_100,
            NATS,
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
        (DROPPED, "1", "lower", _LAYERS, "share of the choices that found no room in their expert"),
        (UNSERVED, "1", "lower", _LAYERS, "share of the routed units that no expert serves"),
    )
)

_BY_NAME = {metric.name: metric for metric in METRICS}


def on_test(name: str) -> str | None:
    """The same measure on the test split, once a run has ended; None where there is none."""
    moved = name.replace(_VAL, _TEST, 1)
    return moved if name.startswith(_VAL) and moved in _BY_NAME else None


def causal(name: str) -> str | None:
    """The same loss with causal routes; None where there is none."""
    return {VAL_LOSS: VAL_LOSS_CAUSAL, TEST_LOSS: TEST_LOSS_CAUSAL}.get(name)


def loss_of_part(part: str) -> str:
    """The key of one part's loss. MLflow takes its letters, digits and `._-` as they are."""
    return VAL_LOSS_OF_PART.replace("NAME", part)


def _find(name: str) -> Metric | None:
    prefix = loss_of_part("")
    if name not in _BY_NAME and str(name).startswith(prefix) and name != prefix:
        return replace(_BY_NAME[VAL_LOSS_OF_PART], name=name)
    return _BY_NAME.get(name)


def metric_named(name: str, what: str) -> Metric:
    """Raises ValueError with near matches for a name that is none; `what` needs it (a sentence)."""
    if (found := _find(name)) is not None:
        return found
    near = difflib.get_close_matches(str(name), _BY_NAME, n=2)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(_BY_NAME)}."
    raise ValueError(f"{what}; received {name!r}. {hint}")


def describe(name: str) -> Metric:
    """For readers, who must not fail at a name of another version: one without unit, the lower the
    better, stands for it."""
    unknown = Metric(name=name, unit="1", better="lower", reduction="", meaning="")
    return _find(name) or unknown


def perplexity(loss: float) -> float:
    """exp of a loss in nats a token; infinite where that is too large for a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
