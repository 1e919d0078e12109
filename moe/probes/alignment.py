"""From labels on characters to labels on tokens, for any tokenizer whose tokens spell the text.

Shapes: T tokens of all documents, D documents, S labelled spans, L labels.

A token takes the label of the span that it covers most. Lengths are in characters, of which a token
may hold a part: a byte of a character of n bytes is 1/n of it, counted in twelfths, so that all
sums are exact. Tokens on no labelled character (white space between words) have no label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moe.data.tokenizer import Tokenizer, encode_with_bytes
from moe.probes.probe_sources import Document, LabelledUnit, Probe

NO_LABEL = -1
TWELFTHS = 12  # divisible by every length of a character in UTF-8


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizedProbe:
    """A probe in the tokens of one tokenizer, documents one after the other.

    `label_T` indexes `labels`, or is `NO_LABEL`. `unit_T` numbers what was labelled as one, a span
    (a word, however many tokens it takes) or a document. `attributes` are those of each document.
    `crossing_share`: of the labelled tokens, those on spans of more than one label.
    `unlabelled_share`: of all tokens, those without a label.
    `left_out_share`: of the documents that were read, those without a usable label.
    """

    spec: str
    labelled_unit: LabelledUnit
    labels: tuple[str, ...]
    token_T: np.ndarray
    label_T: np.ndarray
    unit_T: np.ndarray
    document_T: np.ndarray
    attributes: tuple[dict[str, str], ...]
    crossing_share: float
    unlabelled_share: float
    left_out_share: float


def tokenize_probe(
    probe: Probe, tokenizer: Tokenizer, *, max_tokens: int | None = None, seed: int = 0
) -> TokenizedProbe:
    """`max_tokens` keeps a random choice of whole documents, the same for every model.

    Raises ValueError if the tokenizer's tokens do not stand for all bytes of the text.
    """
    chosen, tokens, lengths = _encoded(probe, tokenizer, max_tokens, seed)
    documents = [probe.documents[i] for i in chosen]
    count_D = np.array([len(ids) for ids in tokens])
    token_T = np.concatenate(tokens).astype(np.int64)
    document_T = np.repeat(np.arange(len(documents)), count_D)
    if probe.labelled_unit == "document":
        labels = tuple(sorted({document.label for document in documents}))
        index_of = {label: i for i, label in enumerate(labels)}
        label_T = np.repeat([index_of[document.label] for document in documents], count_D)
        unit_T, crossing = document_T, 0.0
    else:
        labels, label_T, unit_T, crosses_T = _span_labels(documents, np.concatenate(lengths))
        crossing = float(crosses_T.sum() / max(1, np.count_nonzero(label_T != NO_LABEL)))
    return TokenizedProbe(
        spec=probe.spec,
        labelled_unit=probe.labelled_unit,
        labels=labels,
        token_T=token_T,
        label_T=label_T.astype(np.int64),
        unit_T=unit_T,
        document_T=document_T,
        attributes=tuple(dict(document.attributes) for document in documents),
        crossing_share=crossing,
        unlabelled_share=float(np.mean(label_T == NO_LABEL)),
        left_out_share=probe.left_out_share,
    )


def _encoded(
    probe: Probe, tokenizer: Tokenizer, max_tokens: int | None, seed: int
) -> tuple[list[int], list[np.ndarray], list[np.ndarray]]:
    """Documents within the limit, in their order, with the tokens of each, and their bytes."""
    order: Any = range(len(probe.documents))
    if max_tokens is not None:
        order = np.random.default_rng(seed).permutation(len(probe.documents))
    ids_of: dict[int, np.ndarray] = {}
    lengths_of: dict[int, np.ndarray] = {}
    total = 0
    for i in order:
        text = probe.documents[i].text
        ids, lengths = encode_with_bytes(tokenizer, text)
        spelled, size = int(lengths.sum()), len(text.encode())
        if spelled != size:
            raise ValueError(
                "labels reach tokens through bytes, so the tokens of a text must spell it; "
                f"received {spelled} bytes of tokens for {size} bytes of {text[:40]!r}. "
                "Use a byte-level tokenizer."
            )
        if max_tokens is not None and ids_of and total + len(ids) > max_tokens:
            break
        ids_of[int(i)], lengths_of[int(i)] = ids, lengths
        total += len(ids)
    chosen = sorted(ids_of)
    return chosen, [ids_of[i] for i in chosen], [lengths_of[i] for i in chosen]


def _span_labels(
    documents: list[Document], length_T: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Label names, the label and the span of each token, and whether it lies on several labels."""
    text = "".join(document.text for document in documents)
    first_D = np.cumsum([0, *(len(document.text) for document in documents)])
    spans = [
        (first + start, first + end, label)
        for first, document in zip(first_D.tolist(), documents, strict=False)
        for start, end, label in document.spans
    ]
    labels = tuple(sorted({label for *_, label in spans}))
    index_of = {label: i for i, label in enumerate(labels)}
    label_S = np.array([index_of[label] for *_, label in spans])
    start_S, end_S = (TWELFTHS * np.array([span[i] for span in spans]) for i in (0, 1))
    position_of_byte = _positions(text.encode())
    end_T = position_of_byte[np.cumsum(length_T)]
    start_T = np.concatenate([[0], end_T[:-1]])
    first_T = np.searchsorted(end_S, start_T, side="right")
    touched_T = np.maximum(np.searchsorted(start_S, end_T, side="left") - first_T, 0)
    touched_T[start_T == end_T] = 0
    # One row for each pair of a token and a span that it touches, in the order of both.
    token_R = np.repeat(np.arange(len(length_T)), touched_T)
    first_row_T = np.cumsum(touched_T) - touched_T
    span_R = first_T[token_R] + np.arange(len(token_R)) - first_row_T[token_R]
    cover_R = np.minimum(end_T[token_R], end_S[span_R]) - np.maximum(
        start_T[token_R], start_S[span_R]
    )
    best = np.lexsort((span_R, -cover_R, token_R))[first_row_T[touched_T > 0]]
    span_T, label_T = np.full((2, len(length_T)), NO_LABEL, dtype=np.int64)
    span_T[token_R[best]] = span_R[best]
    label_T[token_R[best]] = label_S[span_R[best]]
    differs = label_S[span_R] != label_T[token_R]
    crosses_T = np.bincount(token_R[differs], minlength=len(length_T)) > 0
    return labels, label_T, span_T, crosses_T


def _positions(data: bytes) -> np.ndarray:
    """Where each byte of a text begins, in twelfths of a character; one entry more, for its end."""
    byte = np.frombuffer(data, dtype=np.uint8)
    begins = (byte & 0xC0) != 0x80
    character = np.cumsum(begins) - 1
    step = TWELFTHS // np.bincount(character)[character] if len(byte) else byte
    return np.concatenate([[0], np.cumsum(step, dtype=np.int64)])
