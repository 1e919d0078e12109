"""Prepares a corpus: tokenised once per data digest, into files that every worker memory-maps.

Safe when several processes prepare the same digest at once: one works, the others wait for it. A
preparation that is killed leaves only a hidden folder, which the next one removes.
"""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa

from moe.config import DataConfig
from moe.data.corpus import Corpus, open_corpus
from moe.data.digest import ContentDigest, held_out_position, split_of
from moe.data.labels import TEXT_COLUMN
from moe.data.layout import FORMAT_VERSION, VOCABULARY_FILE, verify, write_meta
from moe.data.spill import Progress, Row, Spill
from moe.data.tokenizer import (
    BPE_SAMPLE_BYTES,
    Tokenizer,
    load_tokenizer,
    tokenizer_identity,
    train_bpe,
)


def sequence_labels(config: DataConfig, corpus: Corpus) -> tuple[str, ...]:
    """Columns whose values no sequence mixes: the config's, and the source's own."""
    return tuple(sorted({*config.sequence_label_columns, *corpus.source.sequence_labels}))


def data_digest(config: DataConfig, corpus: Corpus) -> str:
    """Identity of the prepared tokens: corpus, tokenizer, split and format, without tokenising.

    Version 1 kept the values of every label column apart. Where that comes to the same tokens,
    since there is no label column beside `sequence_labels`, the digest is that of version 1.

    Raises ValueError if the tokenizer's file cannot be read or data.vocab_size does not fit it.
    """
    digest = ContentDigest("tokens")
    digest.add(
        str(FORMAT_VERSION),
        corpus.digest,
        tokenizer_identity(config),
        str(config.vocab_size),
        repr(config.holdout_fraction),
    )
    if config.test_fraction:
        digest.add("test", repr(config.test_fraction))
    if set(corpus.text_columns) != {TEXT_COLUMN}:
        digest.add("text column", *corpus.text_columns)
    kept_apart = sequence_labels(config, corpus)
    if corpus.labels.beside(kept_apart):
        digest.add("sequence labels", *kept_apart)
    return digest.hexdigest()


def prepare(config: DataConfig, root: Path | str, *, progress: Progress | None = None) -> Path:
    """Makes `root/<data digest>` if it is not there, and returns it; a damaged one is made anew.

    Args:
        config: if its `digest` is set, a corpus that no longer has it is refused; if that digest
            is already prepared, the corpus is not read at all.
        root: folder of prepared tokens, made if missing.
        progress: called now and then with the documents and bytes of text done so far.

    Raises:
        ValueError: the corpus or the tokenizer cannot be had, the corpus has changed, a split
            would be empty, or `root` cannot be written. Nothing is left behind.
    """
    root = Path(root)
    if config.digest and _is_intact(root / config.digest):
        return root / config.digest
    corpus = open_corpus(config.corpus, config.text_column)
    digest = data_digest(config, corpus)
    if config.digest not in ("", digest):
        raise ValueError(
            f"the corpus must be the one that the study was resolved with (digest {config.digest});"
            f" {config.corpus!r} now has the digest {digest}. Restore it, or resolve the study "
            "again (it is another launch)."
        )
    folder = root / digest
    if _is_intact(folder):
        return folder
    tokenizer = None if config.tokenizer == "bpe" else load_tokenizer(config)
    with _writable(root), _exclusive(root, digest):
        if not _is_intact(folder):  # another process may have made it while this one waited
            _remove_stale(root, digest)
            work = root / f".{digest}.tmp"
            try:
                work.mkdir()
                _build(work, digest, config, corpus, tokenizer, progress)
                _replace(folder, work, root / f".{digest}.old")
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return folder


def _build(
    folder: Path,
    digest: str,
    config: DataConfig,
    corpus: Corpus,
    tokenizer: Tokenizer | None,
    progress: Progress | None,
) -> None:
    scratch = folder / "scratch"
    scratch.mkdir()
    documents = corpus.dataset(scratch)
    if tokenizer is None:
        tokenizer = train_bpe(_bpe_sample(documents, config), config.vocab_size)
    spill = Spill(scratch / "spill", tokenizer, config)
    spill.write(documents, progress)
    arranged = spill.arrange(folder, sequence_labels(config, corpus))
    fractions = f"data.holdout_fraction={config.holdout_fraction}"
    if config.test_fraction:
        fractions += f" and data.test_fraction={config.test_fraction}"
    for split in spill.splits:
        if not arranged["splits"][split]["documents"]:
            raise ValueError(
                "every split needs a document, chosen by the hash of its content; with "
                f"{fractions} the {split} split of {config.corpus!r} "
                f"({spill.labels.num_documents} documents) has none. Change "
                f"data.{'test' if split == 'test' else 'holdout'}_fraction, or use a corpus of "
                "more documents."
            )
    for column in config.sequence_label_columns:
        if column not in arranged["labels"]:
            why = arranged["columns_left_out"].get(column, "is none of its columns")
            raise ValueError(
                "data.sequence_labels names label columns of the corpus; received "
                f"{column!r}, which {why}. There are {', '.join(arranged['labels']) or 'none'}."
            )
    shutil.rmtree(scratch)
    tokenizer.save(folder)
    _write_vocabulary(folder, tokenizer)
    meta = {
        "format_version": FORMAT_VERSION,
        "digest": digest,
        "corpus": corpus.provenance,
        "holdout_fraction": config.holdout_fraction,
        **({"test_fraction": config.test_fraction} if config.test_fraction else {}),
        "tokenizer": {
            "spec": config.tokenizer,
            "identity": tokenizer_identity(config),
            "end_of_document": tokenizer.end_of_document,
            "versions": _versions("tokenizers", "tiktoken"),
        },
        "vocab_size": config.vocab_size,
    }
    write_meta(folder, meta | arranged)


def _bpe_sample(documents: Iterable[Row], config: DataConfig) -> list[str]:
    """Training documents with the smallest hashes, up to BPE_SAMPLE_BYTES: spread over the whole
    corpus, and the same whatever the order of its documents."""
    kept: list[tuple[float, int, str]] = []
    size = 0
    for row in documents:
        data = row[TEXT_COLUMN].encode(errors="replace")
        position = held_out_position(data)
        if split_of(position, config) != 0:
            continue
        heapq.heappush(kept, (-position, len(data), row[TEXT_COLUMN]))
        size += len(data)
        while size > BPE_SAMPLE_BYTES and len(kept) > 1:
            size -= heapq.heappop(kept)[1]
    return [text[:BPE_SAMPLE_BYTES] for _, _, text in sorted(kept, reverse=True)]


def _write_vocabulary(folder: Path, tokenizer: Tokenizer) -> None:
    table = pa.table({"token": pa.array(tokenizer.tokens, type=pa.binary())})
    with pa.ipc.new_file(str(folder / VOCABULARY_FILE), table.schema) as writer:
        writer.write_table(table)


def _versions(*packages: str) -> dict[str, str]:
    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _is_intact(folder: Path) -> bool:
    try:
        verify(folder)
    except (ValueError, OSError):
        return False
    return True


@contextmanager
def _writable(root: Path) -> Iterator[None]:
    """Makes `root`, and takes back what was made if the preparation fails."""
    missing = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError):
            raise ValueError(
                f"prepared tokens need a folder that can be written and has room; {root} does not "
                f"do ({error.strerror or error}). Free space, or use another home."
            ) from error
        raise


@contextmanager
def _exclusive(root: Path, digest: str, *, wait: bool = True) -> Iterator[None]:
    """One process at a time for a digest. The lock file is removed while it is held: who waits for
    it then finds its name gone, and takes the new one (filelock checks)."""
    from filelock import FileLock

    path = root / f".{digest}.lock"
    with FileLock(path, timeout=-1 if wait else 0):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _remove_stale(root: Path, held: str) -> None:
    """Folders of preparations that were killed: their digest's lock is free, or held by us."""
    from filelock import Timeout

    for path in [*root.glob(".*.tmp"), *root.glob(".*.old")]:
        digest = path.name.split(".")[1]
        if digest == held:
            shutil.rmtree(path)
            continue
        with suppress(Timeout), _exclusive(root, digest, wait=False):
            shutil.rmtree(path, ignore_errors=True)


def _replace(folder: Path, work: Path, old: Path) -> None:
    """Puts `work` in place of a damaged `folder`; who has the old files mapped keeps them."""
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
