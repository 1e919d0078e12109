"""`hub:NAME[,CONFIG]` on a local folder in the Hub's layout, and without a network."""

from __future__ import annotations

import logging
import shutil
import socket
import time
from threading import Thread

import pytest

from moe.config import DataConfig
from moe.data.corpus import open_corpus
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore

from .conftest import make_rows, write_jsonl, write_parquet

CARD = """\
---
configs:
- config_name: all
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: test
    path: data/test-*.parquet
- config_name: held
  data_files:
  - split: test
    path: data/test-*.parquet
- config_name: odd
  data_files:
  - split: one
    path: data/train-*.parquet
  - split: two
    path: data/test-*.parquet
dataset_info:
- config_name: all
  features:
  - name: text
    dtype: string
  - name: language
    dtype: string
  - name: kind
    dtype:
      class_label:
        names:
          '0': prose
          '1': code
- config_name: held
  features:
  - name: text
    dtype: string
  - name: language
    dtype: string
  - name: kind
    dtype: int64
---
# A small data set
"""


def rows(count, seed):
    return [
        {"text": row["text"], "language": row["language"], "kind": (0, 1, -1)[i % 3]}
        for i, row in enumerate(make_rows(count, seed))
    ]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "small"
    write_parquet(root / "data" / "train-00000-of-00002.parquet", rows(40, 0))
    write_parquet(root / "data" / "train-00001-of-00002.parquet", rows(40, 1))
    write_parquet(root / "data" / "test-00000-of-00001.parquet", rows(10, 2))
    (root / "README.md").write_text(CARD)
    return root


def refusal(spec):
    with pytest.raises(ValueError, match=r"\w") as caught:
        open_corpus(spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_training_split_of_a_config(folder):
    documents = list(open_corpus(f"hub:{folder},all").documents())
    assert [row["text"] for row in documents] == [
        row["text"] for row in make_rows(40, 0) + make_rows(40, 1)
    ]


def test_class_labels_get_their_names(folder):
    corpus = open_corpus(f"hub:{folder},all")
    assert corpus.label_columns == {"language": ("de", "en"), "kind": ("", "code", "prose")}
    assert [row["kind"] for row in corpus.documents()][:3] == ["prose", "code", None]


def test_several_configs_follow_each_other_and_are_labels(folder):
    corpus = open_corpus(f"hub:{folder},all+held")
    alone = [open_corpus(f"hub:{folder},{name}") for name in ("all", "held")]
    texts = [[row["text"] for row in part.documents()] for part in alone]
    assert [row["text"] for row in corpus.documents()] == texts[0] + texts[1]
    assert corpus.label_columns["config"] == ("all", "held")
    assert corpus.provenance["configs"] == ["all", "held"]
    digests = {corpus.digest, open_corpus(f"hub:{folder},held+all").digest}
    assert len(digests | {part.digest for part in alone}) == 4


def test_several_configs_can_be_prepared(folder, tmp_path):
    config = DataConfig(corpus=f"hub:{folder},all+held", holdout_fraction=0.2)
    store = TokenStore.open(prepare(config, tmp_path / "tokens"))
    assert store.label_values("config") == ("all", "held")
    assert sum(split["documents"] for split in store.meta["splits"].values()) == 90


@pytest.mark.parametrize("configs", ["all+all", "all+", "+", "all+nothere"])
def test_configs_are_different_ones_that_exist(folder, configs):
    assert "config" in refusal(f"hub:{folder},{configs}")


def test_a_column_named_config_would_hide_the_label(tmp_path):
    (tmp_path / "both").mkdir()
    for name in ("a", "b"):
        rows = [{"text": f"{name} {i}", "config": "c"} for i in range(5)]
        write_jsonl(tmp_path / "both" / f"{name}.jsonl", rows)
    (tmp_path / "both" / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: a\n  data_files: a.jsonl\n"
        "- config_name: b\n  data_files: b.jsonl\n---\n"
    )
    assert "rename the column" in refusal(f"hub:{tmp_path}/both,a+b")


def test_the_only_split_is_taken(folder):
    assert len(list(open_corpus(f"hub:{folder},held").documents())) == 10


def test_a_folder_without_a_card(tmp_path):
    (tmp_path / "plain").mkdir()
    write_jsonl(tmp_path / "plain" / "train.jsonl", make_rows(5))
    assert list(open_corpus(f"hub:{tmp_path}/plain").documents()) == make_rows(5)


def test_it_can_be_prepared(folder, tmp_path):
    config = DataConfig(corpus=f"hub:{folder},all", holdout_fraction=0.2)
    store = TokenStore.open(prepare(config, tmp_path / "tokens"))
    assert store.label_values("kind") == ("", "code", "prose")
    assert sum(split["documents"] for split in store.meta["splits"].values()) == 80


def test_the_digest_is_of_the_content(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    digest = open_corpus(f"hub:{folder},all").digest
    assert digest == open_corpus(f"hub:{tmp_path}/elsewhere,all").digest
    assert digest != open_corpus(f"hub:{folder},held").digest
    write_parquet(folder / "data" / "train-00001-of-00002.parquet", rows(40, 3))
    assert digest != open_corpus(f"hub:{folder},all").digest


def test_the_library_is_left_as_it_was(folder):
    import datasets
    from huggingface_hub import constants

    before = (
        constants.HF_HUB_CACHE,
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS,
        datasets.are_progress_bars_disabled(),
        logging.getLogger("datasets").level,
    )
    next(open_corpus(f"hub:{folder},all").documents())
    assert before == (
        constants.HF_HUB_CACHE,
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS,
        datasets.are_progress_bars_disabled(),
        logging.getLogger("datasets").level,
    )


def test_a_config_must_be_chosen_and_exist(folder):
    assert "['all', 'held', 'odd']" in refusal(f"hub:{folder}")
    assert "'nope' not found" in refusal(f"hub:{folder},nope")


def test_a_training_split_is_needed(folder):
    assert "has one, two" in refusal(f"hub:{folder},odd")


def test_no_text_column(tmp_path):
    write_parquet(tmp_path / "a" / "train.parquet", [{"content": "x", "summary": "y"}])
    assert "has the columns content (text), summary (text)" in refusal(f"hub:{tmp_path}/a")


def test_a_folder_that_holds_no_data_set(tmp_path):
    assert "must load as a data set" in refusal(f"hub:{tmp_path}")
    (tmp_path / "train.parquet").write_bytes(b"no parquet at all")
    assert "must load as a data set" in refusal(f"hub:{tmp_path}")


def test_offline_is_said_at_once(monkeypatch):
    from huggingface_hub import constants

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    start = time.monotonic()
    message = refusal("hub:someone/texts")
    assert time.monotonic() - start < 5
    assert "was not reached" in message
    assert message.endswith("give its folder: hub:FOLDER.")


def test_a_hub_that_never_answers_is_given_up(monkeypatch):
    from huggingface_hub import constants

    from moe.data.sources import hub

    monkeypatch.setattr(hub, "PROBE_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert "was not reached" in refusal("hub:someone/texts")
        assert time.monotonic() - start < 5


def test_a_data_set_that_does_not_exist(monkeypatch):
    from huggingface_hub import constants

    def answer(server):
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 404 Not Found\r\nX-Error-Code: RepoNotFound\r\n"
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        thread = Thread(target=answer, args=(server,))
        thread.start()
        assert "'someone/texts' is neither" in refusal("hub:someone/texts")
        thread.join()


def test_a_name_that_no_data_set_can_have():
    assert "'a/b/c/d' is neither" in refusal("hub:a/b/c/d")
