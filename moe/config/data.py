"""The section `data`."""

from __future__ import annotations

from dataclasses import dataclass

from moe.config.checks import axis, check_types, require

BYTE_VOCAB_SIZE = 257  # 256 bytes and the end-of-document token
GPT2_VOCAB_SIZE = 50257


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which tokens. `digest` is the identity; `corpus` and `tokenizer` say where it came from."""

    corpus: str = axis(
        "stdlib",
        "CORPUS SPEC: stdlib, files:GLOB, hub:NAME[,CONFIG[+CONFIG...]], or a mixture of these by "
        "weight: mix:SPEC=WEIGHT,SPEC=WEIGHT",
    )
    text_column: str = axis(
        "",
        "column that holds the text, message.content for one inside another; empty: text, or the "
        "only column that holds text",
    )
    tokenizer: str = axis("byte", "byte, bpe (trained on the corpus), gpt2, or file:PATH")
    vocab_size: int = axis(BYTE_VOCAB_SIZE, "rows of the embedding")
    holdout_fraction: float = axis(0.05, "share of documents, by hash, held out for evaluation")
    test_fraction: float = axis(
        0.0,
        "share of documents, by hash, held out for test/loss, which is measured once, at the end: "
        "searches, early stopping and curves never see it; 0 is none",
    )
    digest: str = axis("", "digest of corpus, tokenizer and split; filled when a study is resolved")
    sequence_labels: str = axis(
        "",
        "label columns, joined by +, whose values no sequence mixes; what a router or a claim of "
        "the study follows is added when it is resolved",
    )

    @property
    def sequence_label_columns(self) -> tuple[str, ...]:
        return tuple(sorted(set(filter(None, self.sequence_labels.split("+")))))

    def __post_init__(self) -> None:
        check_types(self, "data")
        known = self.tokenizer in ("byte", "bpe", "gpt2") or self.tokenizer.startswith("file:")
        require(
            known,
            "data.tokenizer must be byte, bpe, gpt2 or file:PATH",
            self.tokenizer,
            "Choose one of these.",
        )
        fixed = {"byte": BYTE_VOCAB_SIZE, "gpt2": GPT2_VOCAB_SIZE}.get(self.tokenizer)
        if fixed is not None:
            require(
                self.vocab_size == fixed,
                f"data.vocab_size of the {self.tokenizer} tokenizer is {fixed}",
                self.vocab_size,
                f"Set data.vocab_size={fixed}.",
            )
        require(
            self.vocab_size >= BYTE_VOCAB_SIZE,
            f"data.vocab_size must be at least {BYTE_VOCAB_SIZE} (the bytes and end of document)",
            self.vocab_size,
            "Raise it.",
        )
        require(
            0 < self.holdout_fraction < 1,
            "data.holdout_fraction must lie between 0 and 1",
            self.holdout_fraction,
            "0.05 is usual.",
        )
        require(
            0 <= self.test_fraction < 1 - self.holdout_fraction,
            "data.test_fraction must not be negative, and leaves text to train on beside "
            "data.holdout_fraction",
            (self.test_fraction, self.holdout_fraction),
            "0.05 is usual, 0 is no test split.",
        )
