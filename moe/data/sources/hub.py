"""Data sets of the Hugging Face Hub, or of a local folder in its layout, through `datasets`."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moe.data.digest import ContentDigest
from moe.data.sources.arrow_files import BATCH_ROWS

PROBE_TIMEOUT_S = 5.0
SURVEY_DOCUMENTS = 10_000  # of a remote data set, read to learn which of its columns are labels
CONFIG_COLUMN = "config"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class HubDataset:
    """The corpus `hub:NAME[,CONFIG]`: its split `train`, or its only split.

    A remote data set is pinned to the commit that is found first, and streamed: nothing of it is
    kept on disk. Of Parquet, `datasets` holds a whole row group in memory; the Hub's are small, and
    a local file with larger ones can be read as `files:GLOB`.
    """

    name: str
    config: str | None

    sequence_labels = ()

    def with_text_column(self, column: str) -> HubDataset:
        return self

    @property
    def survey_limit(self) -> int | None:
        return None if self._is_local else SURVEY_DOCUMENTS

    def label_candidates(self) -> tuple[str, ...] | None:
        """Strings and classes among the features, where the data set tells them beforehand."""
        with _opened(self, None) as (builder, _):
            features = builder.info.features
        if not features:
            return None
        return tuple(
            name
            for name, kind in features.items()
            if hasattr(kind, "int2str") or getattr(kind, "dtype", "").endswith("string")
        )

    def digest(self) -> str:
        """Over the content of the files; over the commit where the files are remote."""
        digest = ContentDigest("hub")
        with _opened(self, None) as (builder, split):
            digest.add(builder.name, str(builder.info.features))
            if not self._is_local:
                digest.add(self._commit, self.config or "", split)
                return digest.hexdigest()
            for name in builder.config.data_files[split]:
                with Path(name).open("rb") as file:
                    digest.add_file("file", iter(lambda file=file: file.read(_BLOCK_BYTES), b""))
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        return {"kind": "hub"} | ({} if self._is_local else {"commit": self._commit})

    def rows(self, scratch: Path | None = None) -> Iterator[dict[str, Any]]:
        with _opened(self, scratch) as (builder, split):
            try:
                dataset = builder.as_streaming_dataset(split=split)
            except Exception as error:
                raise self._unreadable(error) from None
            features = dataset.features or {}
            named = {name: kind for name, kind in features.items() if hasattr(kind, "int2str")}
            rows = iter(dataset)
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except Exception as error:
                    raise self._unreadable(error) from None
                for column, kind in named.items():
                    value = row[column]
                    row[column] = None if value in (None, -1) else kind.int2str(value)
                yield row

    @cached_property
    def _is_local(self) -> bool:
        return os.path.isdir(self._path)

    @cached_property
    def _path(self) -> str:
        return os.path.expanduser(self.name)

    @cached_property
    def _commit(self) -> str:
        """The newest commit of a remote data set; also a quick answer to whether it is in reach."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            return HfApi().dataset_info(self.name, timeout=PROBE_TIMEOUT_S).sha
        except (HfHubHTTPError, HFValidationError) as error:
            raise ValueError(
                f"hub:NAME is a data set of the Hub or a local folder in its layout; {self.name!r} "
                f"is neither ({type(error).__name__}). Check the name, and log in if it is gated."
            ) from None
        except Exception as error:  # (what no network looks like, the client decides)
            raise ValueError(
                f"hub:{self.name} is no local folder, and the Hugging Face Hub was not reached "
                f"({type(error).__name__}: {_one_line(error)}). Download the data set where there "
                "is a network, and give its folder: hub:FOLDER."
            ) from None

    def _unreadable(self, error: Exception) -> ValueError:
        return ValueError(
            f"hub:NAME[,CONFIG] must load as a data set; {self.name!r} with the config "
            f"{self.config!r} does not: {_one_line(error)} Check name, config, files and card."
        )


@dataclass(frozen=True)
class HubConfigs:
    """The corpus `hub:NAME,CONFIG+CONFIG...`: configs of one data set, one after the other.

    Which config a document is from is its label `config`: Wikipedia's configs are its languages.
    """

    name: str
    configs: tuple[str, ...]

    sequence_labels = (CONFIG_COLUMN,)

    def with_text_column(self, column: str) -> HubConfigs:
        return self

    @property
    def survey_limit(self) -> int | None:
        return next(iter(self._parts.values())).survey_limit

    def label_candidates(self) -> tuple[str, ...] | None:
        columns = {CONFIG_COLUMN}
        for part in self._parts.values():
            found = part.label_candidates()
            if found is None:
                return None
            columns |= set(found)
        return tuple(sorted(columns))

    def __post_init__(self) -> None:
        if "" in self.configs or len(set(self.configs)) != len(self.configs):
            raise ValueError(
                "hub:NAME,CONFIG+CONFIG names different configs, each once; received "
                f"{'+'.join(self.configs)!r}. Correct the list."
            )

    @cached_property
    def _parts(self) -> dict[str, HubDataset]:
        return {config: HubDataset(self.name, config) for config in self.configs}

    def digest(self) -> str:
        """Over those of the parts, with their names, which are labels."""
        digest = ContentDigest("hub-configs")
        for config, part in self._parts.items():
            digest.add(config, part.digest())
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        first = next(iter(self._parts.values()))
        return {**first.provenance(), "configs": list(self.configs)}

    def rows(self, scratch: Path | None = None) -> Iterator[dict[str, Any]]:
        for config, part in self._parts.items():
            for row in part.rows(scratch):
                if CONFIG_COLUMN in row:
                    raise ValueError(
                        f"of several configs a document is labelled with its own, as "
                        f"{CONFIG_COLUMN!r}; {self.name!r} has a column of that name. Read one "
                        "config, or rename the column in a copy."
                    )
                yield row | {CONFIG_COLUMN: config}


@contextmanager
def _opened(corpus: HubDataset, scratch: Path | None) -> Iterator[tuple[Any, str]]:
    """The builder of `datasets` and the split to read; what it writes is gone at the end."""
    import datasets
    import huggingface_hub.constants

    revision = None if corpus._is_local else corpus._commit
    with (
        tempfile.TemporaryDirectory(dir=scratch) as cache,
        _replaced(huggingface_hub.constants, "HF_HUB_CACHE", cache),
        _replaced(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False),
        _quiet(datasets),
    ):
        try:
            builder = datasets.load_dataset_builder(
                corpus._path, corpus.config, cache_dir=cache, revision=revision
            )
        except Exception as error:  # (whatever a card or a folder can be wrong in)
            raise corpus._unreadable(error) from None
        splits = [str(name) for name in builder.config.data_files or builder.info.splits or ()]
        if "train" not in splits and len(splits) != 1:
            raise ValueError(
                f"hub:NAME needs a split 'train', or just one; {corpus.name!r} has "
                f"{', '.join(splits) or 'none'}. Use a config or a folder that has it."
            )
        if builder.name == "parquet":
            builder.config.batch_size = BATCH_ROWS
        yield builder, "train" if "train" in splits else splits[0]


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars and no log lines: what goes wrong is raised as one message."""
    logger = logging.getLogger("datasets")
    level, no_bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not no_bars:
            datasets.enable_progress_bars()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
