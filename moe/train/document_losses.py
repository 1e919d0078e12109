"""The losses of the documents that a run was judged on: what its difference from another hangs on.

Needs numpy and pyarrow only. D documents.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moe.data.layout import Split


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentLosses:
    """Of the documents that the held-out sequences begin in: their numbers in the split, the summed
    loss in nats, and the tokens that it is of."""

    split: Split
    document_D: np.ndarray
    loss_sum_D: np.ndarray
    tokens_D: np.ndarray

    def to_parquet(self) -> bytes:
        columns = {
            "document": self.document_D.astype(np.int32),
            "tokens": self.tokens_D.astype(np.int32),
            "loss_sum": self.loss_sum_D,
        }
        table = pa.table(columns).replace_schema_metadata({"split": self.split})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> DocumentLosses | None:
        """None where there is no such file, or it is damaged."""
        try:
            table = pq.read_table(path)
            split = (table.schema.metadata or {})[b"split"].decode()
            names = ("document", "loss_sum", "tokens")
            document_D, loss_sum_D, tokens_D = (table.column(name).to_numpy() for name in names)
        except (OSError, pa.ArrowException, KeyError):
            return None
        return cls(split=split, document_D=document_D, loss_sum_D=loss_sum_D, tokens_D=tokens_D)
