"""From a stream of documents to token files grouped by label, in bounded memory.

First the tokens of all documents are written one after the other as they come (the spill); only a
few bytes a document stay in memory. Then each split's documents are laid out by their combination
of sequence labels, in segments of whole documents: a sequence is cut from one segment, so it never
mixes those. Other labels ride along, document by document, in a file of their own; so do the bytes
that each token stands for, of held-out text whose tokens do not spell it.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from moe.config import DataConfig
from moe.data.digest import held_out_position, split_of
from moe.data.labels import TEXT_COLUMN, LabelTable
from moe.data.layout import BYTES_DTYPE, SPLITS, bytes_file, labels_file, split_file, token_dtype
from moe.data.tokenizer import Tokenizer, encode_with_bytes

SEGMENT_TOKENS = 1 << 24  # a longer group of documents is several segments
_BUNDLE_DOCUMENTS = 256
_BUNDLE_CHARS = 1 << 18

Row = dict[str, Any]
_Encoded = tuple[np.ndarray, np.ndarray | None, int, int]  # tokens, bytes of each, of all, split
Progress = Callable[[int, int], None]


class Spill:
    """All tokens in the order of the stream, in one raw file, and where each document lies."""

    def __init__(self, path: Path, tokenizer: Tokenizer, config: DataConfig) -> None:
        self.path = path
        self.labels = LabelTable()
        self.splits = SPLITS if config.test_fraction else SPLITS[:2]
        self.bytes_of_split = dict.fromkeys(self.splits, 0)
        self.dtype = token_dtype(len(tokenizer.tokens))
        self._sizes_path = path.with_suffix(".bytes") if tokenizer.normalises else None
        self._tokenizer = tokenizer
        self._config = config
        self._lengths = array("q")
        self._split = bytearray()

    def write(self, documents: Iterable[Row], progress: Progress | None) -> None:
        """Tokenises on every core that this process may use.

        `progress` is called with the documents and bytes of text so far.
        """
        with ExitStack() as stack:
            file = stack.enter_context(self.path.open("wb"))
            sizes_file = self._sizes_path and stack.enter_context(self._sizes_path.open("wb"))
            for bundle, encoded in self._in_order(_bundles(documents)):
                for row, (tokens, sizes, text_bytes, split) in zip(bundle, encoded, strict=True):
                    file.write(tokens)
                    if sizes_file:
                        sizes_file.write(sizes)
                    self.labels.add(row)
                    self._lengths.append(len(tokens))
                    self._split.append(split)
                    self.bytes_of_split[SPLITS[split]] += text_bytes
                if progress is not None:
                    progress(len(self._lengths), sum(self.bytes_of_split.values()))

    def arrange(self, folder: Path, sequence_labels: Collection[str] = ()) -> dict[str, Any]:
        """Writes the splits' files; returns the meta of labels and splits.

        Of `sequence_labels` those count that are labels of this corpus.
        """
        columns, all_codes = self.labels.finish()
        codes = {name: code_D for name, code_D in all_codes.items() if name in sequence_labels}
        riding = {name: code_D for name, code_D in all_codes.items() if name not in codes}
        length_D = np.frombuffer(self._lengths, dtype=np.int64)
        start_D = np.cumsum(length_D) - length_D
        split_D = np.frombuffer(self._split, dtype=np.uint8)
        group_D = _groups(list(codes.values()), len(length_D))
        splits = {}
        for number, split in enumerate(self.splits):
            (members,) = np.nonzero(split_D == number)
            members = members[np.argsort(group_D[members], kind="stable")]
            chosen_G = list(_segments(members, group_D, length_D))
            segments = [
                {
                    "documents": len(chosen),
                    "tokens": int(length_D[chosen].sum()),
                    "labels": [int(code_D[chosen[0]]) for code_D in codes.values()],
                }
                for chosen in chosen_G
            ]
            lie = [(start_D[chosen], length_D[chosen]) for chosen in chosen_G]
            _write_split(folder / split_file(split), self.path, lie, self.dtype, "tokens")
            if self._sizes_path and split != "train":
                file = folder / bytes_file(split)
                _write_split(file, self._sizes_path, lie, BYTES_DTYPE, "bytes")
            if riding:
                _write_labels(folder / labels_file(split), riding, members)
            splits[split] = {
                "documents": len(members),
                "tokens": int(length_D[members].sum()),
                "text_bytes": self.bytes_of_split[split],
                "segments": segments,
            }
        return {
            "labels": {name: list(values) for name, values in columns.items()},
            **({"sequence_labels": list(codes)} if riding else {}),
            "columns_left_out": self.labels.left_out,
            "splits": splits,
        }

    def _in_order(self, bundles: Iterator[list[Row]]) -> Iterator[tuple[list[Row], list[_Encoded]]]:
        threads = _num_cores()
        waiting: deque[tuple[list[Row], Future[list[_Encoded]]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for bundle in bundles:
                texts = [row[TEXT_COLUMN] for row in bundle]
                waiting.append((bundle, pool.submit(self._encode, texts)))
                if len(waiting) > 2 * threads:
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()

    def _encode(self, texts: list[str]) -> list[_Encoded]:
        end = np.array([self._tokenizer.end_of_document], dtype=self.dtype)
        encoded = []
        for text in texts:
            try:
                data = text.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    "text must be valid Unicode; a document has half of a surrogate pair: "
                    f"{text[:60]!r}. Mend it (a JSON escape of one half, such as \\ud83d)."
                ) from None
            sizes = None
            if self._sizes_path:
                ids, sizes = encode_with_bytes(self._tokenizer, text)
                sizes = np.append(sizes, 0).astype(BYTES_DTYPE)
            else:
                ids = self._tokenizer.encode(text)
            split = split_of(held_out_position(data), self._config)
            encoded.append((np.concatenate([ids, end]), sizes, len(data), split))
        return encoded


def _bundles(documents: Iterable[Row]) -> Iterator[list[Row]]:
    bundle: list[Row] = []
    chars = 0
    for row in documents:
        bundle.append(row)
        chars += len(row[TEXT_COLUMN])
        if len(bundle) == _BUNDLE_DOCUMENTS or chars >= _BUNDLE_CHARS:
            yield bundle
            bundle, chars = [], 0
    if bundle:
        yield bundle


def _groups(codes: list[np.ndarray], num_documents: int) -> np.ndarray:
    """A number for each document's combination of labels, in the order of the sorted labels."""
    group_D = np.zeros(num_documents, dtype=np.int64)
    for code_D in codes:
        _, group_D = np.unique(group_D * (code_D.max() + 1) + code_D, return_inverse=True)
    return group_D


def _segments(
    members: np.ndarray, group_D: np.ndarray, length_D: np.ndarray
) -> Iterator[np.ndarray]:
    """Cuts documents that are sorted by group where the group ends or a segment is full."""
    if not len(members):
        return
    group, end = group_D[members], np.cumsum(length_D[members])
    (starts,) = np.nonzero(np.diff(group, prepend=-1))
    for first, stop in zip(starts, [*starts[1:], len(members)], strict=True):
        before = end[first] - length_D[members[first]]
        full = (end[first:stop] - before - 1) // SEGMENT_TOKENS
        (cuts,) = np.nonzero(np.diff(full))
        yield from np.split(members[first:stop], cuts + 1)


def _write_split(
    path: Path,
    spilled: Path,
    lie: list[tuple[np.ndarray, np.ndarray]],
    dtype: np.dtype,
    name: str,
) -> None:
    """A batch for each segment, whose documents lie in the spill at (starts, lengths)."""
    schema = pa.schema([pa.field(name, pa.from_numpy_dtype(dtype), nullable=False)])
    with spilled.open("rb", buffering=0) as spill, pa.ipc.new_file(str(path), schema) as writer:
        for start, length in lie:
            values = _gather(spill, start, length, dtype)
            writer.write_batch(pa.record_batch([pa.array(values)], schema=schema))


def _write_labels(path: Path, riding: dict[str, np.ndarray], members: np.ndarray) -> None:
    table = pa.table({name: code_D[members] for name, code_D in riding.items()})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def _gather(spill: Any, start: np.ndarray, length: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Reads documents into one array; neighbours in the spill are read together."""
    tokens = np.empty(int(length.sum()), dtype=dtype)
    target = memoryview(tokens).cast("B")
    (breaks,) = np.nonzero(start[1:] != (start + length)[:-1])
    firsts = np.concatenate([[0], breaks + 1])
    sizes = np.add.reduceat(length, firsts) * dtype.itemsize
    at = 0
    for offset, size in zip(start[firsts] * dtype.itemsize, sizes, strict=True):
        spill.seek(offset)
        stop = at + size
        while at < stop:
            read = spill.readinto(target[at:stop])
            assert read, "the spill is shorter than its table of documents"
            at += read
    return tokens


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
