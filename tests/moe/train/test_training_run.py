"""One run on one worker: what it learns, reports, refuses and leaves."""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from moe import metrics as names
from moe.metrics import METRICS
from moe.model.transformer import MoETransformer
from moe.train.checkpoint import load_checkpoint
from moe.train.distributed import World
from moe.train.step_log import GRAD_NORM, LOSS
from moe.train.trainer import Trainer
from moe.train.training_run import DivergenceError, train

ALONE = World()


@pytest.fixture
def run(store, tmp_path):
    """Trains into a folder of its own name; the reports end up in `run.reports`."""

    def run(config, name="run", stop_at=None, **options):
        run.reports = []

        def report(metrics, checkpoint):
            run.reports.append((metrics, checkpoint))
            return metrics["step"] == stop_at

        return train(config, store, report=report, out=tmp_path / name, **options)

    return run


def test_loss_falls_on_learnable_text(run, make_config):
    result = run(make_config(num_experts=4, top_k=2, num_steps=60, eval_every=20))
    losses = [entry[names.VAL_LOSS] for entry in result.curve]
    assert losses[0] < math.log(257)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 2.6
    assert result.metrics[names.TRAIN_LOSS] < result.metrics[names.TRAIN_LOSS_LAST_100]


@pytest.mark.parametrize(
    "fields", [{}, {"capacity_factor": 0.5}, {"selection": "expert", "gate": "switch"}], ids=str
)
def test_reported_metrics_are_the_named_ones(run, make_config, fields):
    config = make_config(num_experts=4, top_k=2, **fields)
    result = run(config)
    known = {metric.name for metric in METRICS if metric.is_measured(config)}
    known -= {names.SATURATION, names.VAL_LOSS_OF_PART}
    always = {names.STEP, names.TOKENS, names.TIMESTAMP_MS}
    assert [set(entry) for entry in result.curve] == [known | always] * 3
    assert [metrics for metrics, _ in run.reports] == result.curve
    assert [entry["step"] for entry in result.curve] == [4, 8, 12]
    assert result.tokens == result.metrics["tokens"] == 12 * 128
    last = result.metrics
    assert last[names.VAL_PERPLEXITY] == pytest.approx(math.exp(last[names.VAL_LOSS]))
    assert all(math.isfinite(value) for value in last.values())
    assert result.status == "complete"
    assert result.checkpoint.name == "final"


def test_dense_run_has_no_router_metrics(run, make_config):
    result = run(make_config())
    assert not [name for name in result.metrics if name.startswith("router/")]
    assert result.routing is None
    assert result.late_metrics == []


def test_evaluation_is_the_loss_over_the_fixed_set(run, make_config, store):
    """Against cross-entropy by hand, with the weights that the run left."""
    config = make_config(loss_start=5, dropout=0.3, eval_tokens=336)
    result = run(config)
    model = MoETransformer(config).eval()
    model.load_state_dict(load_checkpoint(result.checkpoint).model)
    loss_sum = count = num_bytes = 0
    for batch in store.eval_batches(16, 336, 1):
        logits = model.logits(torch.from_numpy(batch.ids_BS))[:, 5:]
        targets = torch.from_numpy(batch.targets_BS)[:, 5:]
        loss_sum += F.cross_entropy(logits.mT, targets, reduction="sum").item()
        count += targets.numel()
        num_bytes += store.token_bytes[batch.targets_BS[:, 5:]].sum()
    assert count == 21 * 11
    assert result.metrics[names.VAL_LOSS] == pytest.approx(loss_sum / count, rel=1e-5)
    expected_bits = loss_sum / math.log(2) / num_bytes
    assert result.metrics[names.VAL_BITS_PER_BYTE] == pytest.approx(expected_bits, rel=1e-5)


def test_evaluating_and_saving_do_not_change_training(run, make_config, compare):
    config = make_config(num_experts=4, top_k=2, dropout=0.2, eval_every=12)
    often = dataclasses.replace(config, train=dataclasses.replace(config.train, eval_every=1))
    state = torch.get_rng_state()
    few = load_checkpoint(run(config, "few").checkpoint).model
    many = load_checkpoint(run(often, "many", checkpoint_every=3).checkpoint).model
    assert compare.weights(few, many)
    assert torch.equal(torch.get_rng_state(), state)
    asked = run(config, "asked", evaluate_at=(5, 7, 12))
    assert compare.weights(few, load_checkpoint(asked.checkpoint).model)
    assert [entry["step"] for entry in asked.curve] == [5, 7, 12]


def test_same_config_gives_the_same_bits_and_another_seed_does_not(run, make_config, compare):
    config = make_config(num_experts=4, router="random", top_k=2, dropout=0.1)
    torch.manual_seed(1)
    first = run(config, "first")
    torch.manual_seed(2)
    second = run(config, "second")
    other = run(make_config(num_experts=4, router="random", top_k=2, dropout=0.1, seed=1), "other")
    weights = [load_checkpoint(r.checkpoint).model for r in (first, second, other)]
    assert compare.weights(weights[0], weights[1])
    assert compare.clockless(first.curve) == compare.clockless(second.curve)
    assert not compare.weights(weights[0], weights[2])


@pytest.mark.parametrize("grad_clip", [0.0, 0.1])
def test_accumulated_micro_batches_equal_one_large_batch(make_config, store, grad_clip):
    trainers = []
    for micro_batch_tokens in (128, 32):
        config = make_config(
            num_experts=4, top_k=2, micro_batch_tokens=micro_batch_tokens, grad_clip=grad_clip
        )
        trainers.append(Trainer(config, store, ALONE))
        for step in range(1, 4):
            trainers[-1].train_step(step)
    loss_and_norm = slice(LOSS, GRAD_NORM + 1)  # the balance loss is of a micro-batch
    whole, parts = (trainer.log.read(1, 3)[:, loss_and_norm] for trainer in trainers)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    for (name, a), b in zip(
        trainers[0].model.named_parameters(), trainers[1].model.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("balance", ["none", "switch"])
def test_frozen_router_is_untouched_and_has_no_optimiser_state(make_config, store, balance):
    config = make_config(num_experts=4, top_k=2, router="frozen", balance=balance)
    trainer = Trainer(config, store, ALONE)
    routers = {k: v.clone() for k, v in trainer.model.state_dict().items() if "router" in k}
    for step in range(1, 6):
        trainer.train_step(step)
    after = trainer.model.state_dict()
    assert len(routers) == 2
    assert all(torch.equal(after[name], before) for name, before in routers.items())
    with_state = {id(parameter) for parameter in trainer.optimizer.state}
    assert with_state == {id(parameter) for parameter in trainer.model.parameters()}
    assert not any("router" in name for name, _ in trainer.model.named_parameters())


def test_loss_free_bias_moves_in_training_alone_and_is_recorded(run, make_config):
    config = make_config(num_experts=4, top_k=2, balance="loss_free", balance_coefficient=0.01)
    result = run(config)
    rows = pq.read_table(result.routing).to_pylist()
    assert {row["step"] for row in rows} == {4, 8, 12}
    for row in rows:
        steps_up = row["bias"] / 0.01  # one step of 0.01 up, down or not at all each time
        assert steps_up == pytest.approx(round(steps_up), abs=1e-3)
        assert abs(steps_up) <= row["step"] + 1e-3
    assert any(row["bias"] for row in rows)


@pytest.mark.parametrize(
    "fields",
    [
        {"router": "learned"},
        {"router": "learned", "routing_unit": "sequence", "routing_scope": "global"},
        {"router": "learned", "balance": "loss_free", "routing_scope": "global"},
        {"router": "hash"},
        {"router": "label", "top_k": 1},
        {"router": "random", "granularity": 2},
    ],
    ids=str,
)
def test_routing_is_recorded_for_every_router(run, make_config, fields):
    config = make_config(**{"num_experts": 4, "top_k": 2, "num_steps": 4, "eval_every": 2} | fields)
    result = run(config)
    rows = pq.read_table(result.routing).to_pylist()
    experts = config.moe.total_experts
    assert [(r["step"], r["layer"], r["expert"]) for r in rows] == [
        (step, layer, expert) for step in (2, 4) for layer in (0, 1) for expert in range(experts)
    ]
    load_ELN = np.array([row["load"] for row in rows]).reshape(2, 2, experts)
    np.testing.assert_allclose(load_ELN.sum(-1), 1)
    has_scores = config.moe.router in ("learned", "random")
    assert all((row["mean_probability"] is None) != has_scores for row in rows)
    assert (names.CONFIDENCE in result.metrics) == has_scores
    assert (names.BALANCE_LOSS in result.metrics) == has_scores
    assert [late["step"] for late in result.late_metrics] == [2, 4]
    assert result.late_metrics[-1][names.SATURATION] == 1
    assert all(
        late["timestamp_ms"] == entry["timestamp_ms"]
        for late, entry in zip(result.late_metrics, result.curve, strict=True)
    )
    if config.moe.router in ("hash", "label"):
        assert result.late_metrics[0][names.SATURATION] == 1


def test_label_router_sends_each_language_to_its_expert(run, make_config, store):
    result = run(make_config(num_experts=4, top_k=1, router="label", num_steps=4))
    last = [row["load"] for row in pq.read_table(result.routing).to_pylist() if row["layer"] == 0]
    label_share = np.zeros(4)
    for batch in store.eval_batches(16, 320, 4):
        label_share += np.bincount(batch.labels["language"], minlength=4)
    np.testing.assert_allclose(last, label_share / label_share.sum())


def test_true_stops_the_run_and_keeps_its_state(run, make_config):
    config = make_config(num_experts=4, top_k=2)
    result = run(config, stop_at=8, checkpoint_every=100)
    assert result.status == "stopped"
    assert [entry["step"] for entry in result.curve] == [4, 8]
    assert result.metrics["step"] == 8
    assert result.late_metrics == []
    assert result.checkpoint.name == "step_00000008"
    assert run(config, stop_at=4, checkpoint_every=100).tokens == 4 * 128
    assert [m["step"] for m, _ in run.reports] == [4]
    assert run(config, checkpoint_every=100).status == "complete"
    assert [m["step"] for m, _ in run.reports] == [4, 8, 12]


def test_true_at_the_last_step_is_still_a_complete_run(run, make_config):
    assert run(make_config(), stop_at=12).status == "complete"
    assert run(make_config(), stop_at=4).status == "complete"  # it was trained: nothing to stop


def test_what_report_raises_comes_out(store, make_config, tmp_path):
    def report(metrics, checkpoint):
        raise SystemExit("the trial was stopped")

    with pytest.raises(SystemExit, match="stopped"):
        train(make_config(), store, report=report, out=tmp_path)


def test_finished_run_is_replayed_and_not_trained(run, make_config, monkeypatch):
    config = make_config(num_experts=4, top_k=2)
    first = run(config)
    told = run.reports
    monkeypatch.setattr(Trainer, "train_step", None)
    (first.routing).unlink()
    assert run(config) == first
    assert [metrics for metrics, _ in run.reports] == [metrics for metrics, _ in told]
    assert first.routing.exists()


def test_folder_of_another_config_is_refused(run, make_config):
    run(make_config(num_steps=2))
    with pytest.raises(ValueError, match="of one config"):
        run(make_config(num_steps=3))


def test_damaged_final_checkpoint_costs_the_steps_since_the_one_before(
    run, make_config, compare, caplog
):
    config = make_config(dropout=0.1)
    first = run(config, checkpoint_every=5)
    weights = load_checkpoint(first.checkpoint).model
    (first.checkpoint / "model.pt").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        again = run(config, checkpoint_every=5)
    assert "passed over a damaged checkpoint" in caplog.text
    assert again.curve == first.curve  # the noted evaluations stand, their timestamps included
    assert compare.weights(load_checkpoint(again.checkpoint).model, weights)


def test_loss_above_the_bound_ends_the_run_with_step_and_reason(run, make_config):
    with pytest.raises(DivergenceError, match=r"step 1: .* above train.max_loss=1") as caught:
        run(make_config(max_loss=1.0))
    assert caught.value.step == 1
    assert caught.value.loss == pytest.approx(math.log(257), abs=0.5)
    assert run.reports == []


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_non_finite_weights_end_the_run_at_that_step(run, make_config, monkeypatch, poison):
    step_as_it_is = Trainer.train_step

    def train_step(self, step):
        if step == 6:
            with torch.no_grad():
                self.model.final_norm.bias[0] = poison
        step_as_it_is(self, step)

    monkeypatch.setattr(Trainer, "train_step", train_step)
    with pytest.raises(DivergenceError, match=r"step 6: the (loss|gradient)") as caught:
        run(make_config(), checkpoint_every=2)
    assert caught.value.step == 6
    assert [metrics["step"] for metrics, _ in run.reports] == [4]


def test_diverged_evaluation_is_not_reported(run, make_config, monkeypatch):
    """The last update may be the one that breaks the weights."""
    step_as_it_is = Trainer.train_step

    def train_step(self, step):
        step_as_it_is(self, step)
        if step == 8:
            with torch.no_grad():
                self.model.final_norm.weight.fill_(math.nan)

    monkeypatch.setattr(Trainer, "train_step", train_step)
    with pytest.raises(DivergenceError, match="step 8: the evaluation loss is nan"):
        run(make_config())
    assert [metrics["step"] for metrics, _ in run.reports] == [4]


def test_bf16_trains(run, make_config):
    config = make_config(num_experts=4, top_k=2, precision="bf16", num_steps=30, eval_every=15)
    result = run(config)
    assert result.curve[1][names.VAL_LOSS] < result.curve[0][names.VAL_LOSS] < math.log(257)
    weights = load_checkpoint(result.checkpoint).model
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("fields", "world", "message"),
    [
        ({}, World(rank=0, size=2), "process group"),
        (
            {"context_length": 10**6, "batch_tokens": 10**6, "micro_batch_tokens": 10**6},
            ALONE,
            "Lower model.context_length",
        ),
        ({"eval_tokens": 8}, ALONE, "train.eval_tokens"),
        (
            {"num_experts": 4, "router": "label", "label_column": "mood"},
            ALONE,
            "language; received 'mood'",
        ),
    ],
)
def test_inputs_that_do_not_go_together_create_nothing(
    store, make_config, tmp_path, fields, world, message
):
    with pytest.raises(ValueError, match=message):
        train(make_config(**fields), store, report=print, out=tmp_path / "run", world=world)
    assert not (tmp_path / "run").exists()


def test_tokens_of_another_digest_are_refused(store, make_config, tmp_path):
    config = make_config()
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, digest="0" * 16))
    with pytest.raises(ValueError, match="received tokens"):
        train(other, store, report=print, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_full_disk_leaves_the_run_as_it_was_and_it_goes_on_later(
    run, make_config, monkeypatch, tmp_path
):
    config = make_config()
    save_as_it_is = torch.save

    def no_space(value, stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(OSError, match="No space left"):
        run(config, checkpoint_every=4)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "claim",
        "config.json",
        "evaluations",
    ]
    monkeypatch.setattr(torch, "save", save_as_it_is)
    assert run(config, checkpoint_every=4).status == "complete"
