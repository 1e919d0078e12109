"""How far a difference of two cells hangs on the text that it was measured on.

Seeds tell how far training moves a difference. The held-out documents are a sample as well, the
same for every seed: another sample would move all seeds together, and their spread does not show
it. So beside the interval over seeds stands a standard error over documents, of the paired
difference: a ratio of sums over documents, linearised (Cochran, Sampling Techniques, 1977, 6.4).

D documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moe.train.document_losses import DocumentLosses
from moe.train.run_folder import LOSSES_FILE
from orchestrator.base.home import Home
from orchestrator.stores.trial_record import TrialRecord

LEAST_DOCUMENTS = 10  # below which their spread is hardly known


@dataclass(frozen=True, kw_only=True)
class TextError:
    """A standard error over `documents`, in nats a token."""

    error: float
    documents: int


def losses_of(home: Home, record: TrialRecord) -> DocumentLosses | None:
    """None for a run of before they were kept, and where the file is damaged."""
    return DocumentLosses.read(
        home.run_folder(record.config_hash, record.code_digest) / LOSSES_FILE
    )


def text_error(
    a: Mapping[int, DocumentLosses], b: Mapping[int, DocumentLosses]
) -> TextError | None:
    """Of a minus b, over the seeds that both have; None where these were not measured on the same
    documents, or on fewer than `LEAST_DOCUMENTS`."""
    seeds = sorted(a.keys() & b.keys())
    runs = [run[seed] for seed in seeds for run in (a, b)]
    if not runs or len(runs[0].document_D) < LEAST_DOCUMENTS:
        return None
    first = runs[0]
    if not all(
        run.split == first.split
        and np.array_equal(run.document_D, first.document_D)
        and np.array_equal(run.tokens_D, first.tokens_D)
        for run in runs
    ):
        return None
    difference_D = np.mean([a[s].loss_sum_D - b[s].loss_sum_D for s in seeds], axis=0)
    tokens_D, count = first.tokens_D, len(first.document_D)
    mean = difference_D.sum() / tokens_D.sum()
    beside_D = difference_D - mean * tokens_D
    variance = count / (count - 1) * np.square(beside_D).sum() / tokens_D.sum() ** 2
    return TextError(error=float(np.sqrt(variance)), documents=count)
