"""A third split: documents that neither training nor any choice sees."""

from __future__ import annotations

import numpy as np
import pytest

from moe.data.corpus import open_corpus
from moe.data.prepare import data_digest, prepare
from moe.data.token_store import TokenStore


def texts(store, split):
    return {store.decode(ids).decode() for ids, _ in store.documents(split)}


def test_documents_are_in_one_split_each_and_evaluation_keeps_its_own(data, tmp_path):
    two = TokenStore.open(prepare(data(), tmp_path))
    three = TokenStore.open(prepare(data(test_fraction=0.1), tmp_path))
    assert two.splits == ("train", "val")
    assert three.splits == ("train", "val", "test")
    assert texts(two, "val") == texts(three, "val")
    test, train = texts(three, "test"), texts(three, "train")
    assert len(test) > 10
    assert not test & train
    assert not test & texts(three, "val")
    assert test | train == texts(two, "train")
    assert len(test) + len(train) + len(texts(three, "val")) == 200


def test_it_is_another_digest_and_none_is_the_old_one(data):
    corpus = open_corpus(data().corpus)
    old = data_digest(data(), corpus)
    assert data_digest(data(test_fraction=0.0), corpus) == old
    assert len({old, *(data_digest(data(test_fraction=x), corpus) for x in (0.05, 0.1))}) == 3


def test_its_sequences_are_those_of_its_documents(data, tmp_path):
    store = TokenStore.open(prepare(data(test_fraction=0.1), tmp_path))
    batches = list(store.eval_batches(16, 10**6, 8, split="test"))
    assert sum(len(batch.ids_BS) for batch in batches) == store.num_sequences("test", 16)
    for batch in batches:
        assert np.array_equal(batch.bytes_BS, store.token_bytes[batch.targets_BS])
    whole = " ".join(texts(store, "test"))
    spelled = store.decode(batches[0].ids_BS[0][:8])
    assert spelled.decode(errors="ignore") in whole


def test_a_test_split_without_a_document_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"the test split of .* has none. Change data.test_fract"):
        prepare(data(test_fraction=1e-6), tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()
    with pytest.raises(ValueError, match=r"text to train on beside data\.holdout_fraction"):
        data(test_fraction=0.8)
