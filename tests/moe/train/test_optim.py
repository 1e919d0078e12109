from __future__ import annotations

import copy
import itertools

import pytest
import torch

from moe.config import OptimConfig
from moe.model.transformer import MoETransformer
from moe.train.optim import build_optimizer, learning_rate


def test_schedule_rises_linearly_then_falls_along_a_cosine():
    config = OptimConfig(learning_rate=1.0, warmup_steps=4, min_learning_rate_fraction=0.1)
    rates = [learning_rate(config, step, 14) for step in range(1, 15)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[8] == pytest.approx(0.55)  # half of the way from 1 to 0.1
    assert rates[-1] == pytest.approx(0.1)
    assert rates[3:] == sorted(rates[3:], reverse=True)


def rates_of(schedule, num_steps=20, **fields):
    config = OptimConfig(learning_rate=1.0, schedule=schedule, warmup_steps=4, **fields)
    return [learning_rate(config, step, num_steps) for step in range(1, num_steps + 1)]


def test_a_line_falls_by_the_same_at_every_step():
    rates = rates_of("linear", min_learning_rate_fraction=0.2)
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert [a - b for a, b in itertools.pairwise(rates[3:])] == pytest.approx([0.05] * 16)
    assert rates[-1] == pytest.approx(0.2)


def test_wsd_stays_and_then_falls_along_a_line():
    rates = rates_of("wsd", decay_fraction=0.25, min_learning_rate_fraction=0.0)
    assert rates[3:15] == [1.0] * 12
    assert rates[15:] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    whole = rates_of("wsd", decay_fraction=1.0)
    assert whole == rates_of("linear")


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize(("warmup", "num_steps"), [(0, 1), (5, 5), (9, 3), (0, 7)])
def test_schedule_has_a_positive_rate_at_every_step(warmup, num_steps, schedule):
    config = OptimConfig(learning_rate=0.5, warmup_steps=warmup, schedule=schedule)
    rates = [learning_rate(config, step, num_steps) for step in range(1, num_steps + 1)]
    assert all(0 < rate <= 0.5 for rate in rates)


def test_matrices_alone_are_decayed(make_config):
    config = make_config(num_experts=4, top_k=2)
    model = MoETransformer(config)
    decayed, exempt = build_optimizer(model, config.optim).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == config.optim.weight_decay
    assert exempt["weight_decay"] == 0
    assert {names[p].rsplit(".", 1)[1] for p in decayed["params"]} == {
        "weight",
        "weight_in",
        "weight_out",
    }
    exempt_names = {names[p] for p in exempt["params"]}
    assert {"token_embedding.weight", "blocks.0.ffn.experts.bias_in"} <= exempt_names
    assert all("norm" in n or "embedding" in n or "bias" in n for n in exempt_names)
    assert len(decayed["params"]) + len(exempt["params"]) == len(names)


BLOCKS = [
    {"num_experts": 3, "top_k": 2, "shared_experts": 1},
    {"num_experts": 3, "top_k": 2, "activation": "swiglu", "bias": False, "num_kv_heads": 1},
    {"activation": "swiglu", "tied_embeddings": False, "qk_norm": "head", "norm": "rmsnorm"},
]


def own_matrices(model):
    """The matrices of the blocks by hand: copies, each a parameter of its own, with their place."""
    found = []
    for name, p in model.named_parameters():
        if not name.startswith("blocks.") or "norm" in name or "bias" in name:
            continue
        swiglu = model.config.model.activation == "swiglu"
        if "qkv" in name:
            d, d_kv = model.config.model.d_model, (p.shape[0] - p.shape[1]) // 2
            places = [slice(0, d), slice(d, d + d_kv), slice(d + d_kv, d + 2 * d_kv)]
        elif "expand" in name and swiglu:
            half = len(p) // 2
            places = [slice(0, half), slice(half, 2 * half)]
        elif "weight_in" in name and swiglu:
            half = p.shape[-1] // 2
            halves = slice(0, half), slice(half, 2 * half)
            places = [(n, slice(None), h) for n in range(len(p)) for h in halves]
        elif p.ndim == 3:
            places = list(range(len(p)))
        else:
            places = [slice(None)]
        found += [(name, place, torch.nn.Parameter(p[place].detach().clone())) for place in places]
    return found


@pytest.mark.parametrize("fields", BLOCKS, ids=str)
def test_muon_is_torchs_over_every_single_matrix(make_config, fields):
    config = make_config(name="muon", weight_decay=0.3, **fields)
    model = MoETransformer(config)
    other = copy.deepcopy(model)
    optimizer = build_optimizer(model, config.optim)
    matrices = own_matrices(other)
    single = torch.optim.Muon(
        [matrix for *_, matrix in matrices],
        lr=config.optim.learning_rate,
        weight_decay=0.3,
        adjust_lr_fn="match_rms_adamw",
    )
    generator = torch.Generator().manual_seed(0)
    in_muon = {name for name, *_ in matrices}
    rest = [(n, p) for n, p in other.named_parameters() if n not in in_muon]
    adamw = torch.optim.AdamW(
        [
            {"params": [p for n, p in rest if n == "head.weight"], "weight_decay": 0.3},
            {"params": [p for n, p in rest if n != "head.weight"], "weight_decay": 0.0},
        ],
        lr=config.optim.learning_rate,
        betas=(0.9, 0.95),
    )
    assert any(".weight_in" in name for name in in_muon) == ("num_experts" in fields)
    assert sum(view.numel() for view in optimizer.views) == sum(m.numel() for *_, m in matrices)
    for _ in range(3):
        # From the same weights each time: Muon rounds to bfloat16, which makes more of a last bit.
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            for name, place, matrix in matrices:
                matrix.copy_(other.get_parameter(name)[place])
        ids_BS = torch.randint(0, 257, (4, 16), generator=generator)
        for each in (model, other):
            each(ids_BS, ids_BS).loss.backward()
        before = copy.deepcopy(model.state_dict())
        optimizer.step()
        optimizer.zero_grad()
        assert all(p.grad is None for p in model.parameters())
        gradients = {name: p.grad for name, p in other.named_parameters()}
        for name, place, matrix in matrices:
            matrix.grad = gradients[name][place].clone()
        single.step()
        adamw.step()
        with torch.no_grad():
            for name, place, matrix in matrices:
                other.get_parameter(name)[place] = matrix
        other.zero_grad()
        for name, value in other.state_dict().items():
            # An update is about a fifth of the rate, 1e-3, in each element.
            torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=2e-5, msg=name)
        moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
        assert set(moved) == {n for n, _ in model.named_parameters()}


def test_each_trained_parameter_has_one_optimiser(make_config):
    config = make_config(name="muon", num_experts=4, top_k=2)
    model = MoETransformer(config)
    optimizer = build_optimizer(model, config.optim)
    muon = {id(weight) for weight, _ in optimizer.stacked}
    adamw = {id(p) for group in optimizer.adamw.param_groups for p in group["params"]}
    assert not muon & adamw
    assert muon | adamw == {id(p) for p in model.parameters()}
    names = {n for n, p in model.named_parameters() if id(p) in muon}
    assert {n.split(".", 2)[2] for n in names} == {
        "attention.qkv.weight",
        "attention.project.weight",
        "ffn.experts.weight_in",
        "ffn.experts.weight_out",
        "ffn.router.weight",
    }
    for group in optimizer.param_groups:
        group["lr"] = 0.25
    assert optimizer.muon.param_groups[0]["lr"] == optimizer.adamw.param_groups[1]["lr"] == 0.25
