"""What the cells of a claim must share, for their values to say something about each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from moe.config import ConfigError, TrialConfig
from moe.identity import config_told, defaults
from moe.metrics import VAL_BITS_PER_BYTE
from orchestrator.study.claims import (
    All,
    Better,
    Claim,
    Equivalent,
    LargerEffect,
    NotBetter,
    Ordered,
)
from search_spaces.overlay import flatten

_DEFAULTS = {
    f"{section}.{name}": value
    for section, values in defaults(TrialConfig()).items()
    for name, value in values.items()
}
# Settings of the evaluation, which change its value though the model be the same.
_DECIDES_LEAKS = ("moe.", "model.")
_ALIKE = ("model.context_length", "train.loss_start", "train.eval_tokens")
_TOKENIZED_BY = ("data.tokenizer", "data.vocab_size")


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """How a cell's values come about. `text` is its corpus (None: that of the launch), `tokens`
    that text under a tokenizer. `is_causal`: no token's loss depends on later tokens."""

    text: str | None
    tokens: str
    alike: Mapping[str, Any]
    is_causal: bool

    @classmethod
    def of(cls, config: TrialConfig) -> Evaluated:
        """Of a cell of a study, whose corpus need not have been read."""
        values, data = flatten(config), config.data
        tokens = f"{data.tokenizer}, vocabulary {data.vocab_size}"
        return cls._of_values(values, data.corpus, tokens, config.leaks_future)

    @classmethod
    def of_record(cls, told: Mapping[str, Any], corpus_digest: str | None) -> Evaluated:
        """Of a trial as the record has it: `told` are the values that are not their default."""
        values = {**_DEFAULTS, **told}
        tokens = str(values["data.digest"])
        return cls._of_values(values, corpus_digest, tokens, bool(leaks_future(told)))

    @classmethod
    def _of_values(
        cls, values: Mapping[str, Any], text: str | None, tokens: str, leaks: bool
    ) -> Evaluated:
        return cls(
            text=text,
            tokens=tokens,
            alike={path: values[path] for path in _ALIKE},
            is_causal=not leaks,
        )


def evaluation(told: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides how a trial on some text is evaluated, equal for two whose losses compare; of a
    configuration as the record has it."""
    return tuple(told.get(path, _DEFAULTS[path]) for path in (*_ALIKE, *_TOKENIZED_BY))


def leaks_future(told: Mapping[str, Any]) -> bool | None:
    """`TrialConfig.leaks_future` of a trial as the record has it, which does not say where tokens
    came from; None for a configuration of another version.

    It hangs on model and mixture alone, which thousands of points of a search share.
    """
    decides = tuple((path, v) for path, v in told.items() if path.startswith(_DECIDES_LEAKS))
    try:
        return _leaks_future(decides)
    except TypeError:  # a list, which no value of this version is
        return None


@lru_cache(maxsize=4096)
def _leaks_future(values: tuple[tuple[str, Any], ...]) -> bool | None:
    try:
        return config_told(dict(values)).leaks_future
    except ConfigError:
        return None


def comparisons(claim: Claim) -> Iterator[tuple[str, str, str]]:
    """Cells whose values a claim sets against each other, and the metric. None of Specialises,
    whose measure is of the probe's text, the same for all cells."""
    match claim:
        case Better() | NotBetter() | Equivalent():
            yield claim.a, claim.b, claim.metric
        case Ordered():
            for step in claim.steps:
                yield from comparisons(step)
        case All():
            for part in claim.parts:
                yield from comparisons(part)
        case LargerEffect():
            for effect in (claim.effect, *claim.than):
                for a, b in effect.pairs:
                    yield a, b, claim.metric


def unlike(a: Evaluated, b: Evaluated, metric: str) -> str | None:
    """In what two cells are evaluated differently, so that this metric does not compare them."""
    if metric.startswith("cost/"):
        return None
    if a.text != b.text:
        return "different text, where losses do not compare"
    differs = [
        f"{path} ({a.alike[path]} and {b.alike[path]})"
        for path in _ALIKE
        if a.alike[path] != b.alike[path]
    ]
    if differs:
        return f"different {', '.join(differs)}"
    if a.tokens != b.tokens and metric != VAL_BITS_PER_BYTE:
        return (
            f"different tokens of one text ({a.tokens} and {b.tokens}), which {VAL_BITS_PER_BYTE} "
            "compares"
        )
    return None
