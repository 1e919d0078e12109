"""One split of prepared tokens, in the pages of its file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from moe.data.layout import DamagedTokens


class MappedSplit:
    """One split's file: where its segments lie in the mapped pages.

    G segments. Raises DamagedTokens where the file is not what `segments` of the meta say.
    """

    def __init__(self, path: Path, segments: list[dict[str, Any]], dtype: np.dtype) -> None:
        try:
            mapped = pa.memory_map(str(path)).read_buffer()
            reader = pa.ipc.open_file(mapped)
            columns = [reader.get_batch(i).column(0) for i in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            raise DamagedTokens(path, f"is not the Arrow file that was written ({error})") from None
        if [len(c) for c in columns] != [s["tokens"] for s in segments]:
            raise DamagedTokens(path, "does not hold the segments that were written")
        # All segments in one view of the file, so that a batch is gathered from any of them at once
        self.tokens = np.frombuffer(mapped, dtype=dtype, count=mapped.size // dtype.itemsize)
        starts = [(c.buffers()[1].address - mapped.address) // dtype.itemsize for c in columns]
        self.start_G = np.array(starts, dtype=np.int64)
        self.length_G = np.array([len(c) for c in columns], dtype=np.int64)
        labels = [segment["labels"] for segment in segments]
        self.label_GC = np.array(labels, dtype=np.int64).reshape(len(segments), -1)

    @lru_cache(maxsize=8)  # noqa: B019  (lives as long as the store, which a process opens once)
    def first_sequences(self, context_length: int) -> np.ndarray:
        """Index of each segment's first sequence, and at the end their number. [G + 1]"""
        per_segment = np.maximum(self.length_G - 1, 0) // context_length
        return np.concatenate([[0], np.cumsum(per_segment)])

    @lru_cache(maxsize=1)  # noqa: B019
    def document_ends(self, end_of_document: int) -> np.ndarray:
        """Places of the tokens that end a document. [D]"""
        segments = zip(self.start_G, self.length_G, strict=True)
        return np.concatenate(
            [
                start + np.flatnonzero(self.tokens[start : start + length] == end_of_document)
                for start, length in segments
            ]
        )
