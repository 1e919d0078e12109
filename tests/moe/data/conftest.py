"""Small corpora, made here, in every format that `files:` and `hub:` read."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moe.config import DataConfig

Row = dict[str, object]
SENTENCE = (
    "router sends a token to two of four experts while the dense layer reads them all "
    "naïve Straße façade perché 日本 x=1 it's don't 42 and"
)


def make_rows(count: int, seed: int = 0, words: int = 60) -> list[Row]:
    """Documents in two languages and three domains, each with a number of its own."""
    draw, vocabulary = random.Random(seed), SENTENCE.split()
    return [
        {
            "text": f"document {seed}.{i}: " + " ".join(draw.choices(vocabulary, k=words)),
            "language": ("en", "de")[i % 2],
            "domain": ("code", "law", "news")[draw.randrange(3)],
        }
        for i in range(count)
    ]


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="session")
def jsonl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred documents as JSON lines."""
    return write_jsonl(tmp_path_factory.mktemp("jsonl") / "documents.jsonl", make_rows(200))


@pytest.fixture(scope="session")
def data(jsonl: Path) -> Callable[..., DataConfig]:
    """A config of that corpus, a fifth of it held out, with fields replaced."""

    def make(**fields: object) -> DataConfig:
        return DataConfig(**{"corpus": f"files:{jsonl}", "holdout_fraction": 0.2} | fields)

    return make
