"""How much training text a context length leaves unused, told before anything is tokenised.

Sequences are cut from stretches of text that have one value of every sequence label
(`moe.data.spill`); what is left at the end of a stretch is dropped. The share is exact for bytes,
and goes by an average of bytes a token for other tokenizers.
"""

from __future__ import annotations

import math
from collections import Counter

from moe.config import DataConfig
from moe.data.corpus import Corpus
from moe.data.digest import held_out_position, split_of
from moe.data.labels import NO_LABEL, TEXT_COLUMN
from moe.data.prepare import sequence_labels

WORTH_SAYING = 0.01
# A byte-pair token spells 0.28 log2(V) bytes of English: 2.8 of V = 1,024, 4.4 of GPT-2's.
_BYTES_PER_BIT = 0.28
_ENOUGH = 4  # times the text with which the share of the stretches so far is not worth saying


def expected_dropped_share(data: DataConfig, corpus: Corpus, context_length: int) -> float:
    """Share of the training tokens that would be in no sequence.

    Of text in one stretch, and of a corpus that is far away, only as much is read as shows that the
    share stays below `WORTH_SAYING`; what is returned then is the share of that.
    """
    columns = sequence_labels(data, corpus)
    stops_early = not columns or corpus.source.survey_limit is not None
    bytes_per_token = (
        1.0 if data.tokenizer == "byte" else max(1.0, _BYTES_PER_BIT * math.log2(data.vocab_size))
    )
    tokens: Counter[tuple[str, ...]] = Counter()
    total = 0.0
    for count, row in enumerate(corpus.documents(), start=1):
        text = row[TEXT_COLUMN].encode(errors="replace")
        if split_of(held_out_position(text), data) == 0:
            size = len(text) / bytes_per_token + 1
            tokens[tuple(row.get(column) or NO_LABEL for column in columns)] += size
            total += size
        if (
            stops_early
            and count % 1000 == 0
            and total * WORTH_SAYING > _ENOUGH * len(tokens) * context_length
        ):
            break
    used = sum(max(0, math.ceil(size) - 1) // context_length for size in tokens.values())
    return 1 - used * context_length / total if total else 0.0


def about_dropped_text(
    share: float, *, context_length: int, labels: tuple[str, ...], exact: bool
) -> str:
    """One line: how much, why, and the remedy."""
    said = f"{share:.1%}" if exact else f"about {share:.0%}"
    if labels:
        columns = " and ".join(repr(label) for label in labels)
        why = f"sequences do not mix values of {columns}, and what is left of each is too short"
        remedy = (
            "Lower model.context_length, use more text, or follow a label of fewer values "
            "(moe.label_column, data.sequence_labels, the labels of a claim)."
        )
    else:
        why = "what is left at the end of a short text fills no sequence"
        remedy = "Lower model.context_length, or use more text."
    return (
        f"{said} of the training tokens are never trained on at model.context_length="
        f"{context_length}: {why}. {remedy}"
    )
