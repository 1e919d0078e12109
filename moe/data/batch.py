"""Sequences that are trained on or evaluated together. B sequences, S = context_length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """`ids_BS` and `targets_BS` are views of the same rows of S + 1 tokens (int64)."""

    ids_BS: np.ndarray
    targets_BS: np.ndarray  # the ids one position on
    labels: dict[str, np.ndarray]  # sequence label -> [B] int64, index into label_values(column)


@dataclass(frozen=True)
class EvaluationBatch(Batch):
    """With the bytes of text that each target stands for (int64), as it was before the tokenizer
    normalised it: for bits per byte. `document_B` numbers the documents of the split, in the order
    of its tokens, by where each sequence begins."""

    bytes_BS: np.ndarray
    document_B: np.ndarray
