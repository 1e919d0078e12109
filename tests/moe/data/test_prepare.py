"""Preparing: once per digest, by one process at a time, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe.data import prepare as preparing
from moe.data import spill
from moe.data.corpus import open_corpus
from moe.data.labels import LabelTable
from moe.data.layout import META_FILE
from moe.data.prepare import data_digest, prepare
from moe.data.token_store import TokenStore

from .conftest import make_rows, write_jsonl

SCRIPT = """
import pathlib, sys, time
import datasets
from moe.config import DataConfig
from moe.data.prepare import prepare

corpus, root, here, go, delay = sys.argv[1:]
calls = []

def progress(documents, text_bytes):
    calls.append(documents)
    pathlib.Path(here + ".working").touch()
    time.sleep(float(delay))

pathlib.Path(here).touch()
while not pathlib.Path(go).exists():
    time.sleep(0.01)
path = prepare(DataConfig(corpus=corpus, holdout_fraction=0.2), root, progress=progress)
print(path.name, len(calls))
"""


def start(tmp_path, data, name, delay):
    arguments = [data().corpus, str(tmp_path / "tokens"), str(tmp_path / name)]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments, str(tmp_path / "go"), str(delay)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
    )


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_is_named_by_the_digest(data, tmp_path):
    config = data()
    path = prepare(config, tmp_path)
    assert path == tmp_path / data_digest(config, open_corpus(config.corpus))
    files = ["train-labels", "train", "val-labels", "val", "vocabulary"]
    assert sorted(contents(path)) == ["meta.json", *(f"{name}.arrow" for name in files)]
    assert list(tmp_path.iterdir()) == [path]


def test_meta_says_where_the_tokens_come_from(data, tmp_path):
    config = data()
    meta = TokenStore.open(prepare(config, tmp_path)).meta
    corpus = open_corpus(config.corpus)
    assert meta["corpus"] == corpus.provenance
    assert meta["corpus"]["spec"] == config.corpus
    assert meta["tokenizer"]["spec"] == "byte"
    assert (meta["vocab_size"], meta["holdout_fraction"]) == (257, 0.2)
    assert meta["labels"] == {"domain": ["code", "law", "news"], "language": ["de", "en"]}
    sizes = [len(row["text"].encode()) for row in corpus.documents()]
    splits = meta["splits"].values()
    assert sum(split["documents"] for split in splits) == len(sizes)
    assert sum(split["text_bytes"] for split in splits) == sum(sizes)
    assert sum(split["tokens"] for split in splits) == sum(sizes) + len(sizes)


def test_it_is_prepared_once(data, tmp_path):
    calls = []
    for _ in range(2):
        path = prepare(data(), tmp_path, progress=lambda *done: calls.append(done))
        assert path.parent == tmp_path
    total = sum(len(row["text"].encode()) for row in open_corpus(data().corpus).documents())
    assert calls[-1] == (200, total)
    assert calls == sorted(set(calls))


def test_two_preparations_are_equal_to_the_bit(data, tmp_path):
    for fields in ({}, {"tokenizer": "bpe", "vocab_size": 400}):
        first, second = (prepare(data(**fields), tmp_path / name) for name in "ab")
        assert contents(first) == contents(second)


def test_a_prepared_digest_needs_no_corpus(tmp_path, data, jsonl):
    (tmp_path / "a.jsonl").write_bytes(jsonl.read_bytes())
    config = data(corpus=f"files:{tmp_path}/a.jsonl")
    path = prepare(config, tmp_path / "tokens")
    (tmp_path / "a.jsonl").unlink()
    resolved = data(corpus=f"files:{tmp_path}/a.jsonl", digest=path.name)
    assert prepare(resolved, tmp_path / "tokens") == path


def test_a_corpus_that_changed_since_is_refused(tmp_path, data):
    config = data(digest="0123456789abcdef")
    with pytest.raises(ValueError, match=r"resolved with \(digest 0123456789abcdef\)"):
        prepare(config, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_the_data_digest_has_all_that_decides_the_tokens(data, tmp_path):
    def digest(**fields):
        config = data(**fields)
        return data_digest(config, open_corpus(config.corpus))

    write_jsonl(tmp_path / "other.jsonl", make_rows(200, seed=1))
    different = [
        digest(),
        digest(holdout_fraction=0.1),
        digest(corpus=f"files:{tmp_path}/other.jsonl"),
        digest(tokenizer="gpt2", vocab_size=50257),
        digest(tokenizer="bpe", vocab_size=300),
        digest(tokenizer="bpe", vocab_size=400),
    ]
    assert len(set(different)) == len(different)
    assert digest() == different[0]


def test_two_processes_at_once_do_the_work_once(data, tmp_path):
    processes = [start(tmp_path, data, name, 0.3) for name in ("a", "b")]
    for name in ("a", "b"):
        wait_for(tmp_path / name)
    (tmp_path / "go").touch()
    printed = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed[0][0] == printed[1][0]
    assert sorted(int(calls) > 0 for _, calls in printed) == [False, True]
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == [printed[0][0]]


def test_a_killed_preparation_leaves_nothing_that_counts(data, tmp_path):
    (tmp_path / "go").touch()
    process = start(tmp_path, data, "a", 60)
    wait_for(tmp_path / "a.working")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    root = tmp_path / "tokens"
    digest = data_digest(data(), open_corpus(data().corpus))
    assert (root / f".{digest}.tmp").is_dir()
    assert not (root / digest).exists()
    path = prepare(data(), root)
    assert TokenStore.open(path).digest == digest
    assert list(root.iterdir()) == [path]


def test_what_a_killed_preparation_of_another_digest_left_is_removed(data, tmp_path):
    from filelock import FileLock

    (tmp_path / ".dead.tmp" / "scratch").mkdir(parents=True)
    (tmp_path / ".gone.old").mkdir()
    (tmp_path / ".live.tmp").mkdir()
    with FileLock(tmp_path / ".live.lock"):
        path = prepare(data(), tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {path.name, ".live.tmp", ".live.lock"}


@pytest.mark.parametrize(
    "fields",
    [
        {"corpus": "files:nowhere/*.txt"},
        {"tokenizer": "file:nowhere", "vocab_size": 300},
        {"tokenizer": "bpe", "vocab_size": 100_000},
        {"holdout_fraction": 1e-9},
        {"holdout_fraction": 1 - 1e-9},
    ],
)
def test_a_refused_preparation_leaves_nothing_behind(data, tmp_path, fields):
    with pytest.raises(ValueError, match=r"\w+"):
        prepare(data(**fields), tmp_path / "deep" / "tokens")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_split_says_which_and_what_to_do(data, tmp_path):
    with pytest.raises(
        ValueError, match=r"the val split of .* \(200 documents\) has none\. Change"
    ):
        prepare(data(holdout_fraction=1e-9), tmp_path)


def test_half_a_character_is_refused(data, tmp_path):
    rows = [{"text": "good"}, {"text": "bad \ud83d"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="half of a surrogate pair: 'bad"):
        prepare(data(corpus=f"files:{tmp_path}/a.jsonl"), tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_a_defect_late_in_the_corpus_leaves_nothing_behind(data, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [*make_rows(300), {"text": 1}])
    with pytest.raises(ValueError, match="line 301 of"):
        prepare(data(corpus=f"files:{tmp_path}/a.jsonl"), tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_a_full_disk_is_said_and_leaves_nothing_behind(data, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(preparing, "_write_vocabulary", full)
    with pytest.raises(ValueError, match=r"has room; .* \(No space left on device\)"):
        prepare(data(), tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_a_root_that_is_no_folder(data, tmp_path):
    (tmp_path / "tokens").write_text("a file")
    with pytest.raises(ValueError, match="a folder that can be written"):
        prepare(data(), tmp_path / "tokens")
    assert (tmp_path / "tokens").read_text() == "a file"


@pytest.mark.parametrize(
    "name", ["train.arrow", "val.arrow", "val-labels.arrow", "vocabulary.arrow", META_FILE]
)
def test_damage_is_made_good(data, tmp_path, name):
    path = prepare(data(), tmp_path)
    whole = contents(path)
    for damage in (_flip, _truncate, Path.unlink):
        damage(path / name)
        assert prepare(data(), tmp_path) == path
        assert contents(path) == whole
        assert list(tmp_path.iterdir()) == [path]


def test_bpe_is_trained_on_training_text_from_all_over_the_corpus(data, monkeypatch):
    config = data(holdout_fraction=0.2)
    documents = list(open_corpus(config.corpus).documents())
    everything = preparing._bpe_sample(documents, config)
    texts = [row["text"] for row in documents]
    held_out = set(texts) - set(everything)
    assert 20 < len(held_out) < 60
    monkeypatch.setattr(preparing, "BPE_SAMPLE_BYTES", 10_000)
    sample = preparing._bpe_sample(documents, config)
    assert sample == preparing._bpe_sample(documents[::-1], config)
    assert sample == everything[: len(sample)]
    assert 9_000 < sum(len(text.encode()) for text in sample) <= 10_000
    places = [texts.index(text) for text in sample]
    assert min(places) < 50
    assert max(places) > 150


def test_a_copy_of_a_document_lies_on_the_same_side(data, tmp_path):
    rows = make_rows(100)
    write_jsonl(tmp_path / "a.jsonl", [*rows, *rows[::-1]])
    store = TokenStore.open(prepare(data(corpus=f"files:{tmp_path}/a.jsonl"), tmp_path / "tokens"))
    train, val = (
        [store.decode(ids).decode() for ids, _ in store.documents(split)]
        for split in ("train", "val")
    )
    assert not set(train) & set(val)
    assert sorted(train + val) == sorted(str(row["text"]) for row in [*rows, *rows])
    assert 20 < len(val) < 60


def test_the_split_does_not_depend_on_the_other_documents(data, tmp_path):
    rows = make_rows(100)
    held_out = []
    for name, chosen in (("a", rows), ("b", rows[::2])):
        write_jsonl(tmp_path / f"{name}.jsonl", chosen)
        config = data(corpus=f"files:{tmp_path}/{name}.jsonl")
        store = TokenStore.open(prepare(config, tmp_path / "tokens"))
        held_out.append({store.decode(ids).decode() for ids, _ in store.documents("val")})
    assert held_out[1] == held_out[0] & {row["text"] for row in rows[::2]}


def test_documents_of_any_size_are_written_whole(data, tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "_BUNDLE_CHARS", 500)
    monkeypatch.setattr(spill, "_BUNDLE_DOCUMENTS", 3)
    monkeypatch.setattr(spill, "SEGMENT_TOKENS", 1000)
    rows = [{"text": f"{i} " + "x" * size} for i, size in enumerate([0, 1, 5000, 2, 700] * 20)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    store = TokenStore.open(prepare(data(corpus=f"files:{tmp_path}/a.jsonl"), tmp_path / "tokens"))
    found = [store.decode(d).decode() for s in ("train", "val") for d, _ in store.documents(s)]
    assert sorted(found) == sorted(row["text"] for row in rows)
    segments = store.meta["splits"]["train"]["segments"]
    assert len(segments) > 10
    assert max(segment["tokens"] for segment in segments) < 1000 + 5100


def test_stdlib_is_prepared_in_seconds(tmp_path, data):
    import datasets  # noqa: F401  (its import is not what is timed)

    start = time.process_time()
    path = prepare(data(corpus="stdlib", holdout_fraction=0.05), tmp_path)
    assert time.process_time() - start < 8
    assert "asyncio" in TokenStore.open(path).label_values("topic")


def test_labels_cost_a_few_bytes_a_document():
    table = LabelTable()
    for i in range(1000):
        table.add({"text": "x", "language": "en", "title": str(i)})
    assert table._codes["language"].itemsize == 4


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-8])
