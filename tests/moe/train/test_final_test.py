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
from moe.train.run_folder import Storage
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
    assert last[names.TEST_PERPLEXITY] == pytest.approx(np.exp(last[names.TEST_LOSS]))


def test_tokens_without_the_split_are_refused(make_config, store, tmp_path):
    config = make_config()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, test_fraction=0.1))
    with pytest.raises(ValueError, match="asks for tokens with a test split; received tokens"):
        train(config, store, report=lambda *_: None, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
