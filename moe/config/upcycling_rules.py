"""Whether a mixture can start from the weights of a dense model (2212.05055), without torch."""

from __future__ import annotations

from moe.config.checks import require
from moe.config.trial import TrialConfig

# Of `model`, what may differ: each model says its FFN's width by these, and dropout has no weights.
_OWN = ("d_ff", "ffn_multiple", "dropout")


def require_upcyclable(config: TrialConfig, dense: TrialConfig) -> None:
    """Raises ConfigError, with the reason, where `config` cannot start from a trained `dense`."""
    require(
        dense.moe.is_dense,
        "moe.upcycled_from names a trial without experts, whose FFNs become the experts",
        f"one with moe.num_experts={dense.moe.num_experts}",
        "Name a dense trial.",
    )
    ours, theirs = vars(config.model), vars(dense.model)
    different = {k: (ours[k], theirs[k]) for k in ours if k not in _OWN and ours[k] != theirs[k]}
    require(
        not different,
        "a mixture and the dense model that it starts from have the same blocks",
        ", ".join(f"model.{k}={a!r} and {b!r}" for k, (a, b) in different.items()),
        "Set these alike, or name another dense trial.",
    )
    require(
        config.d_expert == dense.d_ff_dense,
        "experts are copies of the dense FFN, so they are as wide as it is",
        (config.d_expert, dense.d_ff_dense),
        "Choose moe.granularity, moe.d_expert or the dense model's width accordingly.",
    )
    require(
        len(config.moe_layers) == config.model.num_layers or config.d_ff_dense == dense.d_ff_dense,
        "dense blocks of the mixture are those of the dense model, so their FFNs are as wide",
        (config.d_ff_dense, dense.d_ff_dense),
        "Choose model.ffn_multiple accordingly.",
    )
    require(
        config.data.digest == dense.data.digest,
        "a mixture goes on with the tokens of the dense model",
        (config.data.digest, dense.data.digest),
        "Use the same corpus, tokenizer and split for both.",
    )
