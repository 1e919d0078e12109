"""Prepared tokens, memory-mapped: batches for training and a fixed evaluation set.

Needs numpy and pyarrow only. Several workers on one machine share the pages of the same files.

Shapes: B sequences, S = context_length, V = vocab_size. A sequence is S + 1 tokens of one segment
(its sequence labels are therefore one combination); the next begins S tokens later, so that each
token but a segment's first is a target once. What is left at a segment's end is dropped
(`dropped_share`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from moe.data.batch import Batch, EvaluationBatch
from moe.data.layout import (
    BYTES_DTYPE,
    SPLITS,
    VOCABULARY_FILE,
    DamagedTokens,
    Split,
    bytes_file,
    labels_file,
    read_meta,
    split_file,
    token_dtype,
    verify,
)
from moe.data.mapped_split import MappedSplit
from moe.data.shuffle import permute

_BLOCK = 1 << 12  # sequences whose order is worked out together: for a few, numpy's calls dominate

__all__ = ["Batch", "DamagedTokens", "EvaluationBatch", "TokenStore", "verify"]


@lru_cache(maxsize=4)
def _shuffled(n: int, key: tuple[int, int], block: int) -> np.ndarray:
    """Places block*_BLOCK and on of the permutation of 0..n-1, up to a block's or its end."""
    places = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, n))
    return permute(places, n=n, key=key)


@dataclass(frozen=True, kw_only=True)
class TokenStore:
    """A folder of prepared tokens that is open for reading.

    `meta` holds corpus (spec, digest, versions), tokenizer, vocab_size, the label columns with
    their values, and of each split documents, tokens, bytes of text and segments. No sequence mixes
    the values of `sequence_labels`; the other label columns are known document by document.
    """

    path: Path
    digest: str
    meta: dict[str, Any]
    _splits: dict[str, MappedSplit]
    _bytes: dict[str, MappedSplit]  # of held-out splits, where tokens do not spell the text

    @classmethod
    def open(cls, path: Path | str) -> TokenStore:
        """Maps the files. Cheap: sizes and structure are checked here, every byte by `verify`.

        Raises:
            ValueError: `path` holds no prepared tokens, or of another format version.
            DamagedTokens: (a ValueError) a file is not as it was written; the message names it.
        """
        path = Path(path)
        meta = read_meta(path)
        dtype = token_dtype(meta["vocab_size"])
        splits = {
            split: MappedSplit(path / split_file(split), meta["splits"][split]["segments"], dtype)
            for split in SPLITS
            if split in meta["splits"]
        }
        of_bytes = {
            split: MappedSplit(path / name, meta["splits"][split]["segments"], BYTES_DTYPE)
            for split in splits
            if (name := bytes_file(split)) in meta["files"]
        }
        return cls(path=path, digest=meta["digest"], meta=meta, _splits=splits, _bytes=of_bytes)

    @property
    def vocab_size(self) -> int:
        return self.meta["vocab_size"]

    @property
    def end_of_document(self) -> int:
        return self.meta["tokenizer"]["end_of_document"]

    @property
    def label_columns(self) -> tuple[str, ...]:
        return tuple(self.meta["labels"])

    @property
    def sequence_labels(self) -> tuple[str, ...]:
        """Label columns of which a sequence has one value."""
        return tuple(self.meta.get("sequence_labels", self.meta["labels"]))

    def require_sequence_label(self, column: str) -> None:
        """Raises ValueError unless every sequence has one value of this column."""
        self.label_values(column)
        if column not in self.sequence_labels:
            raise ValueError(
                "a router follows a label of which a sequence has one value; these tokens were "
                f"prepared for {', '.join(self.sequence_labels) or 'none'}, received {column!r}. "
                f"Prepare them with data.sequence_labels={column}."
            )

    def label_values(self, column: str) -> tuple[str, ...]:
        """Values of a label column in the order of their ids ("" stands for no label)."""
        if column not in self.meta["labels"]:
            why = self.meta["columns_left_out"].get(column)
            raise ValueError(
                f"a label column of this corpus is one of {', '.join(self.label_columns) or 'none'}"
                f"; received {column!r}" + (f" (it {why})" if why else "") + ". Choose another."
            )
        return tuple(self.meta["labels"][column])

    @property
    def splits(self) -> tuple[Split, ...]:
        """Train and val, and test where data.test_fraction asked for one."""
        return tuple(self._splits)

    def num_sequences(self, split: Split, context_length: int) -> int:
        return int(self._splits[split].first_sequences(context_length)[-1])

    def dropped_share(self, split: Split, context_length: int) -> float:
        """Share of a split's tokens that are in no sequence, because their segment ends."""
        tokens = int(self._splits[split].length_G.sum())
        return 1 - self.num_sequences(split, context_length) * context_length / tokens

    def batch(
        self,
        *,
        seed: int,
        step: int,
        num_sequences: int,
        context_length: int,
        start: int = 0,
        stop: int | None = None,
    ) -> Batch:
        """Sequences start:stop of the `num_sequences` of optimiser step `step` (from 0).

        A pure function of its arguments. Within an epoch every sequence comes once, in an order
        that `seed` and the epoch decide; the slices of a step are those of the whole.

        Raises ValueError if the training split has no sequence of this length.
        """
        total = self._checked_num_sequences("train", context_length)
        stop = num_sequences if stop is None else stop
        assert 0 <= start <= stop <= num_sequences
        at, end = step * num_sequences + start, step * num_sequences + stop
        pieces = [np.empty(0, dtype=np.int64)]
        while at < end:
            epoch, place = divmod(at, total)
            block, inside = divmod(place, _BLOCK)
            pieces.append(_shuffled(total, (seed, epoch), block)[inside : inside + end - at])
            at += len(pieces[-1])
        return self._sequences("train", np.concatenate(pieces), context_length)

    def evaluation(
        self, *, context_length: int, num_tokens: int, split: Split = "val"
    ) -> np.ndarray:
        """Indices of the held-out sequences of an evaluation, evenly spread over the split.

        `num_tokens // context_length` of them, or all if there are fewer. Raises ValueError if
        that is less than one.
        """
        total = self._checked_num_sequences(split, context_length)
        if num_tokens < context_length:
            raise ValueError(
                f"an evaluation holds at least one sequence of {context_length} tokens; received "
                f"{num_tokens} tokens. Raise train.eval_tokens."
            )
        chosen = min(num_tokens // context_length, total)
        return np.arange(chosen) * total // chosen

    def eval_batches(
        self,
        context_length: int,
        num_tokens: int,
        sequences_per_batch: int,
        split: Split = "val",
    ) -> Iterator[EvaluationBatch]:
        """The fixed evaluation set, the same for every seed and cell; see `evaluation`."""
        index = self.evaluation(context_length=context_length, num_tokens=num_tokens, split=split)
        return (
            self._evaluated(split, index[i : i + sequences_per_batch], context_length)
            for i in range(0, len(index), sequences_per_batch)
        )

    def _evaluated(self, split: Split, index_B: np.ndarray, context_length: int) -> EvaluationBatch:
        batch = self._sequences(split, index_B, context_length)
        if (of_bytes := self._bytes.get(split)) is None:
            bytes_BS = self.token_bytes[batch.targets_BS]
        else:
            _, rows_BS1 = _rows(of_bytes, index_B, context_length)
            bytes_BS = rows_BS1[:, 1:]
        return EvaluationBatch(
            ids_BS=batch.ids_BS,
            targets_BS=batch.targets_BS,
            labels=batch.labels,
            bytes_BS=bytes_BS,
            document_B=self._documents_of(split, index_B, context_length),
        )

    def _documents_of(self, split: Split, index_B: np.ndarray, context_length: int) -> np.ndarray:
        """The document that each sequence begins in: as many as have ended before it. [B]"""
        _, at_B = _starts(self._splits[split], index_B, context_length)
        ends = self._splits[split].document_ends(self.end_of_document)
        return np.searchsorted(ends, at_B, side="left")

    def documents(self, split: Split) -> Iterator[tuple[np.ndarray, dict[str, str]]]:
        """Each document's ids (without the end of document; a view of the file) and its labels."""
        mapped = self._splits[split]
        riding = self._riding_labels(split)
        document = 0
        for start, length, labels in zip(
            mapped.start_G, mapped.length_G, mapped.label_GC, strict=True
        ):
            tokens = mapped.tokens[start : start + length]
            named = {
                column: self.label_values(column)[label]
                for column, label in zip(self.sequence_labels, labels, strict=True)
            }
            begin = 0
            for end in np.flatnonzero(tokens == self.end_of_document):
                own = {
                    column: self.label_values(column)[code_D[document]]
                    for column, code_D in riding.items()
                }
                yield tokens[begin:end], named | own
                begin = end + 1
                document += 1

    def _riding_labels(self, split: Split) -> dict[str, np.ndarray]:
        """Of the labels that sequences may mix, each document's index into its values. [D]"""
        riding = [name for name in self.label_columns if name not in self.sequence_labels]
        if not riding:
            return {}
        path = self.path / labels_file(split)
        try:
            with pa.memory_map(str(path)) as file:
                table = pa.ipc.open_file(file).read_all()
            codes = {name: table.column(name).to_numpy() for name in riding}
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DamagedTokens(path, f"is not the Arrow file that was written ({error})") from None
        if table.num_rows != self.meta["splits"][split]["documents"]:
            raise DamagedTokens(path, "does not hold the documents that were written")
        return codes

    @cached_property
    def vocabulary(self) -> tuple[bytes, ...]:
        """The bytes of each token id; none for the end of document."""
        path = self.path / VOCABULARY_FILE
        try:
            with pa.memory_map(str(path)) as file:
                tokens = pa.ipc.open_file(file).read_all().column("token").to_pylist()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DamagedTokens(path, f"is not the Arrow file that was written ({error})") from None
        return tuple(tokens)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Bytes that each token id spells (int64 [V], 0 for the end of document)."""
        return np.array([len(token) for token in self.vocabulary], dtype=np.int64)

    def decode(self, ids: np.ndarray) -> bytes:
        """The text of ids, as UTF-8 that may begin or end inside a character."""
        return b"".join(self.vocabulary[i] for i in ids)

    def _checked_num_sequences(self, split: Split, context_length: int) -> int:
        if total := self.num_sequences(split, context_length):
            return total
        longest = int(self._splits[split].length_G.max(initial=0))
        raise ValueError(
            f"the {split} split must hold a sequence of model.context_length + 1 tokens with the "
            f"same labels; with a context of {context_length} it holds none (the longest stretch "
            f"has {longest} tokens). Lower model.context_length, raise "
            f"data.{'test' if split == 'test' else 'holdout'}_fraction or use more text."
        )

    def _sequences(self, split: Split, index_B: np.ndarray, context_length: int) -> Batch:
        mapped = self._splits[split]
        segment_B, row_BS1 = _rows(mapped, index_B, context_length)
        return Batch(
            ids_BS=row_BS1[:, :-1],
            targets_BS=row_BS1[:, 1:],
            labels={
                column: mapped.label_GC[segment_B, i]
                for i, column in enumerate(self.sequence_labels)
            },
        )


def _rows(
    mapped: MappedSplit, index_B: np.ndarray, context_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each sequence its segment [B], and its S + 1 values [B, S + 1], int64."""
    segment_B, at_B = _starts(mapped, index_B, context_length)
    # Row by row into one array: twice to twenty times as fast as one indexed read
    row_BS1 = np.empty((len(at_B), context_length + 1), dtype=np.int64)
    for row_S1, at in zip(row_BS1, at_B.tolist(), strict=True):
        row_S1[:] = mapped.tokens[at : at + context_length + 1]
    return segment_B, row_BS1


def _starts(
    mapped: MappedSplit, index_B: np.ndarray, context_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each sequence its segment, and the place of its first token in the mapped file. [B]"""
    first_G = mapped.first_sequences(context_length)
    segment_B = np.searchsorted(first_G, index_B, side="right") - 1
    return segment_B, mapped.start_G[segment_B] + (index_B - first_G[segment_B]) * context_length
