"""Rows that are made here, as a data set of `datasets` (importing this module imports it)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets

Rows = Callable[[], Iterator[dict[str, Any]]]


class RowBuilder(datasets.GeneratorBasedBuilder):
    """Streams what `rows()` yields; unlike `IterableDataset.from_generator` it takes a cache folder
    (the library puts a lock file there), so that nothing is written to the user's home."""

    def __init__(self, rows: Rows, cache_dir: Path) -> None:
        self._rows = rows
        super().__init__(cache_dir=str(cache_dir))

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(datasets.Split.TRAIN, gen_kwargs={})]

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(self._rows())


def stream(rows: Rows, cache_dir: Path) -> datasets.IterableDataset:
    """A data set that calls `rows()` each time it is read from its start."""
    return RowBuilder(rows, cache_dir).as_streaming_dataset(split=datasets.Split.TRAIN)
