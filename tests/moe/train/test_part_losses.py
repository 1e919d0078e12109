"""A run on a mixture tells the loss of each part of its held-out text."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest
import torch

from moe.config import DataConfig
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from moe.metrics import VAL_LOSS, describe, loss_of_part, metric_named
from moe.train.command import main
from moe.train.distributed import World
from moe.train.evaluate import EvaluationSet
from moe.train.trainer import Trainer


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Prepared tokens of words and digits, two to one."""
    folder = tmp_path_factory.mktemp("mixed")
    draw = random.Random(0)
    kinds = {"words": ["expert", "router", "token"], "digits": [str(i) for i in range(10, 99)]}
    for kind, choices in kinds.items():
        lines = [json.dumps({"text": " ".join(draw.choices(choices, k=60))}) for _ in range(80)]
        (folder / f"{kind}.jsonl").write_text("\n".join(lines))
    spec = f"mix:files:{folder}/words.jsonl=2,files:{folder}/digits.jsonl=1"
    data = DataConfig(corpus=spec, holdout_fraction=0.2)
    return dataclasses.replace(data, digest=(path := prepare(data, folder / "tokens")).name), path


@pytest.mark.parametrize("router", ["learned", "random"])
def test_each_part_has_the_loss_of_its_own_sequences(mixed, make_config, router):
    data, path = mixed
    store = TokenStore.open(path)
    config = dataclasses.replace(
        make_config(num_experts=4, top_k=2, router=router, eval_tokens=960), data=data
    )
    trainer = Trainer(config, store, World())
    found = EvaluationSet(config, store, World()).evaluate(trainer.model).metrics
    batches = list(store.eval_batches(16, 960, 1))  # one sequence at a time: the naive way
    if router == "learned":
        naive: dict[str, list[float]] = {}
        trainer.model.eval()
        with torch.no_grad():
            for batch in batches:
                ids, targets = (
                    torch.from_numpy(np.array(x)) for x in (batch.ids_BS, batch.targets_BS)
                )
                output = trainer.model(ids, targets, label_B=None, step=0)
                part = store.label_values("part")[int(batch.labels["part"][0])]
                naive.setdefault(part, []).append(float(output.loss_sum) / float(output.count))
        for part, losses in naive.items():
            assert found[loss_of_part(part)] == pytest.approx(np.mean(losses), rel=1e-5)
    share = np.mean([batch.labels["part"][0] for batch in batches])  # of the second part
    of_parts = [found[loss_of_part(part)] for part in store.label_values("part")]
    whole = (1 - share) * of_parts[0] + share * of_parts[1]
    assert found[VAL_LOSS] == pytest.approx(whole, rel=1e-6)
    assert len([key for key in found if key.startswith(loss_of_part(""))]) == 2


def test_a_corpus_that_is_no_mixture_has_no_such_key(store, make_config):
    config = make_config()
    trainer = Trainer(config, store, World())
    found = EvaluationSet(config, store, World()).evaluate(trainer.model).metrics
    assert not [key for key in found if key.startswith(loss_of_part(""))]


def test_the_command_tells_the_loss_of_each_part(mixed, make_config, tmp_path, capsys):
    data, path = mixed
    config = dataclasses.replace(make_config(), data=data)
    (tmp_path / "config.json").write_text(config.to_json())
    out = tmp_path / "out"
    assert main([str(tmp_path / "config.json"), "--tokens", str(path), "--out", str(out)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line in lines:
        losses = [line[loss_of_part(part)] for part in ("words.jsonl", "digits.jsonl")]
        assert min(losses) <= line[VAL_LOSS] <= max(losses)
    # Three words are easier than ninety numbers.
    assert lines[-1][loss_of_part("words.jsonl")] < lines[-1][loss_of_part("digits.jsonl")]
    saved = json.loads((out / "result.json").read_text())["metrics"]
    assert saved[loss_of_part("words.jsonl")] == lines[-1][loss_of_part("words.jsonl")]


def test_a_part_is_a_metric_like_others():
    known = metric_named(loss_of_part("words.jsonl"), "a test needs a metric")
    assert known.name == loss_of_part("words.jsonl")
    assert (known.unit, known.better) == ("nats/token", "lower")
    assert known.is_loss
    assert describe(VAL_LOSS).name == VAL_LOSS
    for name in ("val/loss/part:", "nothing"):
        with pytest.raises(ValueError, match="a test needs a metric"):
            metric_named(name, "a test needs a metric")
