"""What a run measures once it has ended, on text that nothing chose by."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from moe import metrics as names
from moe.config import DataConfig
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from moe.model.transformer import MoETransformer
from moe.train.checkpoint import Checkpoints
from moe.train.document_losses import DocumentLosses
from moe.train.run_folder import LOSSES_FILE, Storage
from moe.train.training_run import train

TEST = {names.TEST_LOSS, names.TEST_PERPLEXITY, names.TEST_BITS_PER_BYTE}


@pytest.fixture(scope="module")
def held_back(tokens_dir, tmp_path_factory):
    """The corpus of the other tests, with a test split."""
    corpus = f"files:{tokens_dir.parent.parent}/documents.jsonl"
    data = DataConfig(corpus=corpus, holdout_fraction=0.2, test_fraction=0.15)
    path = prepare(data, tmp_path_factory.mktemp("held_back"))
    return dataclasses.replace(data, digest=path.name), TokenStore.open(path)


def naive_loss(model, batches, **how):
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            ids, targets = (torch.from_numpy(np.array(x)) for x in (batch.ids_BS, batch.targets_BS))
            output = model(ids, targets, **how)
            total, count = total + float(output.loss_sum), count + output.count
    return total / count


def test_the_test_is_measured_once_at_the_end(held_back, make_config, tmp_path):
    data, store = held_back
    fields = {"num_experts": 4, "top_k": 2, "routing_unit": "sequence", "gate": "double_softmax"}
    config = dataclasses.replace(make_config(**fields), data=data)
    result = train(config, store, report=lambda entry, _: None, out=tmp_path / "run")
    causal = {names.VAL_LOSS_CAUSAL}
    assert all(set(entry) >= causal and not set(entry) & TEST for entry in result.curve[:-1])
    last = result.metrics
    assert set(last) >= TEST | causal | {names.TEST_LOSS_CAUSAL}
    assert last[names.TEST_LOSS] != last[names.VAL_LOSS]

    final = Checkpoints(Storage.at(tmp_path / "run"), config).newest()
    model = MoETransformer(config).eval()
    model.load_state_dict(final.model)
    for split, name in (("val", names.VAL_LOSS), ("test", names.TEST_LOSS)):
        batches = list(store.eval_batches(16, 320, 3, split=split))
        assert last[name] == pytest.approx(naive_loss(model, batches), rel=1e-6)
        causally = naive_loss(model, batches, routes_causally=True)
        assert last[names.causal(name)] == pytest.approx(causally, rel=1e-6)
        assert last[names.causal(name)] != last[name]
    losses = DocumentLosses.read(tmp_path / "run" / LOSSES_FILE)
    assert losses.split == "test"
    assert losses.loss_sum_D.sum() / losses.tokens_D.sum() == pytest.approx(last[names.TEST_LOSS])
    first = next(store.eval_batches(16, 320, 1, split="test"))
    texts = [store.decode(ids) for ids, _ in store.documents("test")]
    assert losses.document_D[0] == first.document_B[0]
    assert store.decode(first.ids_BS[0][:4]) in texts[first.document_B[0]]
    assert last[names.TEST_PERPLEXITY] == pytest.approx(np.exp(last[names.TEST_LOSS]))


@pytest.mark.parametrize("sequences", [1, 7])
def test_each_sequence_belongs_to_the_document_that_it_begins_in(held_back, sequences):
    """The naive way: ends of documents before its first token, counted through the split."""
    _, store = held_back
    starts, place = [], 0
    for split_tokens, _ in store.documents("test"):
        starts.append(place)
        place += len(split_tokens) + 1
    segments = [s["tokens"] for s in store.meta["splits"]["test"]["segments"]]
    first, expected = 0, []
    for tokens in segments:
        for i in range((tokens - 1) // 16):
            expected.append(np.searchsorted(starts, first + i * 16, side="right") - 1)
        first += tokens
    found = [
        d
        for batch in store.eval_batches(16, 10**6, sequences, split="test")
        for d in batch.document_B
    ]
    assert len(found) > 20
    assert found == expected


def test_tokens_without_the_split_are_refused(make_config, store, tmp_path):
    config = make_config()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, test_fraction=0.1))
    with pytest.raises(ValueError, match="asks for tokens with a test split; received tokens"):
        train(config, store, report=lambda *_: None, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
