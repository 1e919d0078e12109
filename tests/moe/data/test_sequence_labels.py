"""Labels that nobody follows ride along; only those that something follows keep sequences apart."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from moe.data.corpus import open_corpus
from moe.data.digest import ContentDigest
from moe.data.labels import LabelSurvey
from moe.data.layout import FORMAT_VERSION
from moe.data.prepare import data_digest, prepare
from moe.data.token_store import TokenStore
from moe.probes.probe_sources import open_probe

from .conftest import make_rows, write_jsonl, write_parquet


def version_1_digest(config, corpus):
    """The digest of the version that kept the values of every label column apart."""
    digest = ContentDigest("tokens")
    parts = (str(FORMAT_VERSION), corpus.digest, "byte", "257", repr(config.holdout_fraction))
    digest.add(*parts)
    return digest.hexdigest()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Documents of which nearly each has a combination of labels of its own."""
    rows = make_rows(300, words=22)
    for i, row in enumerate(rows):
        row |= {"year": str(2010 + i % 14), "site": f"site{i % 11}", "licence": "abc"[i % 3]}
    return write_jsonl(tmp_path_factory.mktemp("many") / "many.jsonl", rows)


def test_labels_that_nobody_follows_cost_no_text(many, data, tmp_path):
    corpus = f"files:{many}"
    free = TokenStore.open(prepare(data(corpus=corpus), tmp_path))
    assert free.dropped_share("train", 128) < 128 / 30_000
    columns = "domain+language+licence+site+year"
    apart = TokenStore.open(prepare(data(corpus=corpus, sequence_labels=columns), tmp_path))
    assert apart.dropped_share("train", 128) > 0.25
    one = TokenStore.open(prepare(data(corpus=corpus, sequence_labels="language"), tmp_path))
    assert one.sequence_labels == ("language",)
    assert one.dropped_share("train", 128) < 2 * 129 / 30_000
    tokens = {s.meta["splits"]["train"]["tokens"] for s in (free, apart, one)}
    assert len(tokens) == 1


@pytest.mark.parametrize("followed", ["", "language", "language+site"])
def test_every_document_keeps_all_its_labels(many, data, tmp_path, followed):
    config = data(corpus=f"files:{many}", sequence_labels=followed)
    store = TokenStore.open(prepare(config, tmp_path))
    expected = {row["text"]: row for row in open_corpus(config.corpus).documents()}
    seen = 0
    for split in ("train", "val"):
        for ids, labels in store.documents(split):
            row = expected[store.decode(ids).decode()]
            assert labels == {name: row[name] for name in store.label_columns}
            seen += 1
    assert seen == 300
    counts = Counter(row["domain"] for row in expected.values())
    probe = open_probe("corpus:domain", store)
    assert {document.label for document in probe.documents} == set(counts)


def test_sequences_hold_one_value_of_a_followed_label(many, data, tmp_path):
    path = prepare(data(corpus=f"files:{many}", sequence_labels="language"), tmp_path)
    store = TokenStore.open(path)
    total = store.num_sequences("train", 32)
    batch = store.batch(seed=0, step=0, num_sequences=total, context_length=32)
    assert list(batch.labels) == ["language"]
    of_language = {"de": b"", "en": b""}
    for ids, labels in store.documents("train"):
        of_language[labels["language"]] += store.decode(ids) + b"\xff"
    for ids, language in zip(batch.ids_BS, batch.labels["language"], strict=True):
        text = b"".join(b"\xff" if i == 256 else bytes([i]) for i in ids)
        assert text in of_language[store.label_values("language")[language]]


def test_a_label_that_sequences_mix_is_refused_to_a_router(many, data, tmp_path):
    store = TokenStore.open(prepare(data(corpus=f"files:{many}"), tmp_path))
    with pytest.raises(ValueError, match=r"data\.sequence_labels=site"):
        store.require_sequence_label("site")
    with pytest.raises(ValueError, match="received 'nope'"):
        store.require_sequence_label("nope")


def test_the_digest_is_that_of_version_1_where_the_tokens_are(many, data, tmp_path):
    def both(**fields):
        config = data(**fields)
        corpus = open_corpus(config.corpus)
        return data_digest(config, corpus), version_1_digest(config, corpus)

    plain = write_jsonl(tmp_path / "plain.jsonl", [{"text": f"t {i}", "n": i} for i in range(50)])
    table = write_parquet(
        tmp_path / "unique.parquet", [{"text": f"t {i}", "id": str(i)} for i in range(50)]
    )
    one = write_jsonl(tmp_path / "one.jsonl", [r | {"domain": 1} for r in make_rows(50)])
    same = [
        {"corpus": "stdlib"},
        {"corpus": "stdlib", "sequence_labels": "topic"},
        {"corpus": f"files:{plain}"},
        {"corpus": f"files:{table}"},
        {"corpus": f"files:{one}", "sequence_labels": "language"},
        {"corpus": f"files:{many}", "sequence_labels": "domain+language+licence+site+year"},
    ]
    for fields in same:
        now, before = both(**fields)
        assert now == before, fields
    different = [both(corpus=f"files:{one}"), both(corpus=f"files:{many}")]
    different.append(both(corpus=f"files:{many}", sequence_labels="language"))
    assert all(now != before for now, before in different)
    assert len({now for now, _ in different}) == 3


def test_tokens_of_version_1_are_read(many, data, tmp_path):
    """They hold every label as a sequence label and have no file of labels."""
    columns = "domain+language+licence+site+year"
    path = prepare(data(corpus=f"files:{many}", sequence_labels=columns), tmp_path)
    store = TokenStore.open(path)
    assert "sequence_labels" not in store.meta
    assert store.sequence_labels == store.label_columns == tuple(columns.split("+"))
    assert not list(path.glob("*-labels.arrow"))


def test_a_file_of_labels_of_another_length_is_damage(many, data, tmp_path):
    path = prepare(data(corpus=f"files:{many}"), tmp_path)
    store = TokenStore.open(path)
    table = pa.table({name: np.zeros(3, np.int32) for name in store.label_columns})
    with pa.ipc.new_file(str(path / "val-labels.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match="does not hold the documents"):
        next(store.documents("val"))


def test_sequence_labels_that_the_corpus_does_not_have(data, tmp_path):
    with pytest.raises(ValueError, match="received 'mood', which is none of its columns"):
        prepare(data(sequence_labels="mood"), tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def survey(rows, **fields):
    read = []

    def documents():
        for row in rows:
            read.append(row)
            yield {"text": "x", **row}

    return LabelSurvey(documents(), **{"columns": None, "limit": None} | fields), read


def test_a_survey_reads_only_what_the_question_needs():
    rows = [{"id": str(i), "kind": "ab"[i % 2]} for i in range(9000)]
    found, read = survey(rows, columns=("id", "kind"))
    assert found.beside({"id", "kind"}) == set()
    assert not read
    assert not found.has("language")
    assert not read
    assert found.beside({"kind"}) == set()  # more than a thousand ids: no label
    assert len(read) == 2000
    assert found.names() == ("kind",)
    assert len(read) == 9000


def test_a_survey_without_a_schema_reads_everything():
    found, read = survey([{}] * 2500 + [{"late": "a"}] * 5)
    assert found.names() == ("late",)
    assert len(read) == 2505


def test_a_survey_from_far_away_ends_at_its_limit():
    found, read = survey([{"kind": "a"}] * 9000, columns=("kind",), limit=3000)
    assert found.has("kind")
    assert len(read) == 3000
