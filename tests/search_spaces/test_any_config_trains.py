"""Every configuration that is not refused trains: draws over all axes together, two steps each."""

from __future__ import annotations

import dataclasses
import io

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe.accounting import account
from moe.config import TrialConfig
from moe.model.transformer import MoETransformer
from moe.train.evaluate import autocast
from moe.train.optim import build_optimizer, learning_rate, set_learning_rate
from search_spaces.axes import describe_axes
from search_spaces.domains import NOT_AN_AXIS
from search_spaces.overlay import flatten

# Not drawn, since no weight and no gradient hangs on them; or as the name of a run that was trained
# (tests/driver/test_dense_runs.py has one).
NOT_DRAWN = {
    *NOT_AN_AXIS,
    *("data.corpus", "data.tokenizer", "data.holdout_fraction", "data.sequence_labels"),
    "data.test_fraction",
    *("moe.label_column", "train.num_steps", "train.eval_every", "train.eval_tokens"),
    *("train.max_loss", "optim.beta1", "optim.beta2", "optim.min_learning_rate_fraction"),
    "moe.upcycled_from",
}


def step(model, optimizer, config: TrialConfig, number: int) -> tuple[float, dict[str, bytes]]:
    """One optimiser step; the loss, and the gradient's bytes by parameter."""
    context = config.model.context_length
    generator = torch.Generator().manual_seed(number)
    ids_BS = torch.randint(0, config.data.vocab_size, (4, context + 1), generator=generator)
    label_B = torch.arange(4)
    rate = learning_rate(config.optim, number, config.train.num_steps)
    set_learning_rate(optimizer, rate)
    torch.manual_seed(number)  # dropout
    model.train()
    model.begin_step()
    with autocast(config, "cpu"):
        output = model(ids_BS[:, :-1], ids_BS[:, 1:], label_B=label_B, step=number)
    (output.loss + output.aux_loss).backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        gradients[name] = parameter.grad.numpy().tobytes()
    if config.optim.grad_clip > 0:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    model.end_step()
    return output.loss.item(), gradients


def saved(state: object) -> object:
    """A state as a checkpoint keeps it."""
    stream = io.BytesIO()
    torch.save(state, stream)
    return torch.load(io.BytesIO(stream.getvalue()), weights_only=True)


def train_and_resume(config: TrialConfig) -> None:
    """Two steps; the second again, from what a checkpoint keeps of the first, to the bit."""
    if config.optim.learning_rate > 0.01:  # a rate at which a loss may leave the finite numbers
        optim = dataclasses.replace(config.optim, learning_rate=0.01)
        config = dataclasses.replace(config, optim=optim)
    model = MoETransformer(config)
    counted = account(config)
    stored = sum(t.numel() for n, t in model.state_dict().items() if ".router." in n)
    assert counted.params_router == stored
    frozen = stored if config.moe.router == "frozen" and not config.moe.is_dense else 0
    assert counted.params_total == sum(p.numel() for p in model.parameters()) + frozen
    optimizer = build_optimizer(model, config.optim)
    first, _ = step(model, optimizer, config, 1)
    kept = saved({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    second = step(model, optimizer, config, 2)
    assert all(map(torch.isfinite, map(torch.tensor, (first, second[0]))))
    again = MoETransformer(config)
    resumed = build_optimizer(again, config.optim)
    again.load_state_dict(kept["model"])
    resumed.load_state_dict(kept["optimizer"])
    assert step(again, resumed, config, 2) == second
    for name, value in model.state_dict().items():
        assert value.numpy().tobytes() == again.state_dict()[name].numpy().tobytes(), name


def test_any_config_trains_and_every_axis_is_drawn():
    """Every axis, or one that a later version adds would go untried."""
    seen: dict[str, set[object]] = {}

    @settings(
        deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck)
    )
    @given(config=st.from_type(TrialConfig))
    def draw(config: TrialConfig) -> None:
        for path, value in flatten(config).items():
            seen.setdefault(path, set()).add(value)
        train_and_resume(config)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        draw()
    finally:
        torch.set_num_threads(threads)
    assert set(seen) == {axis.path for axis in describe_axes()}
    assert {path for path, values in seen.items() if len(values) == 1} <= NOT_DRAWN
