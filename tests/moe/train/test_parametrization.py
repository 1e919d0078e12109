"""Under mup what a step changes does not hang on the width: the coordinate check (2203.03466, D.1).

Adam's steps over one batch, at the base width and at 8 times that: how far hidden states, logits
and the scores of routers move from where they began.
"""

from __future__ import annotations

import pytest
import torch

from moe.config import ConfigError, ModelConfig, MoEConfig, OptimConfig, TrainConfig, TrialConfig
from moe.identity import cell_hash
from moe.model.transformer import MoETransformer
from moe.train.optim import build_optimizer, set_learning_rate
from search_spaces.overlay import overlay

BASE, WIDEST, STEPS = 32, 256, 4
FIELDS = {
    "dense": {"moe.num_experts": 0},
    "mixture": {"moe.shared_experts": 1, "moe.noisy_top_k": True},
    "llama": {
        "model.norm": "rmsnorm",
        "model.activation": "swiglu",
        "model.position": "rope",
        "model.tied_embeddings": False,
        "model.bias": False,
    },
}


def config_of(width: int, parametrization: str, fields: dict, heads: str = "number") -> TrialConfig:
    num_heads = width // 8 if heads == "number" else 4
    config = TrialConfig(
        model=ModelConfig(
            num_layers=2, d_model=width, num_heads=num_heads, d_ff=4 * width, context_length=16
        ),
        moe=MoEConfig(num_experts=4, top_k=2, gate="switch"),
        optim=OptimConfig(
            learning_rate=4e-3,
            parametrization=parametrization,
            base_d_model=BASE,
            base_d_head=0 if heads == "number" else 8,
        ),
        train=TrainConfig(batch_tokens=256, micro_batch_tokens=256),
    )
    return overlay(config, fields)


@torch.no_grad()
def coordinates(model: MoETransformer, ids_BS: torch.Tensor) -> dict[str, torch.Tensor]:
    model.eval()
    streams = []
    hooks = [b.register_forward_hook(lambda *a: streams.append(a[-1][0])) for b in model.blocks]
    output = model(ids_BS, ids_BS)
    for hook in hooks:
        hook.remove()
    found = {"stream": streams[-1], "logits": model.logits(ids_BS)}
    if output.routing:
        found["scores"] = output.routing[-1].logits
    return found


def moved(config: TrialConfig) -> dict[str, float]:
    """Root mean square of the change of each coordinate over the steps."""
    generator = torch.Generator().manual_seed(0)
    ids_BS = torch.randint(0, 257, (16, 17), generator=generator)
    torch.manual_seed(0)
    model = MoETransformer(config)
    optimizer = build_optimizer(model, config.optim)
    before = coordinates(model, ids_BS[:, :-1])
    model.train()
    for _ in range(STEPS):
        set_learning_rate(optimizer, config.optim.learning_rate)
        model(ids_BS[:, :-1], ids_BS[:, 1:]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = coordinates(model, ids_BS[:, :-1])
    return {name: (after[name] - before[name]).square().mean().sqrt().item() for name in before}


def growth(parametrization: str, fields: dict, heads: str) -> dict[str, float]:
    """Of each coordinate the change at the widest over that at the base."""
    narrow, wide = (
        moved(config_of(width, parametrization, fields, heads)) for width in (BASE, WIDEST)
    )
    return {name: wide[name] / narrow[name] for name in narrow}


@pytest.mark.parametrize(
    ("kind", "heads"), [("dense", "number"), ("mixture", "width"), ("llama", "number")]
)
def test_a_step_moves_activations_alike_at_every_width(kind, heads):
    """Eight times the width: 4 to 15 times the change under the standard parametrization."""
    standard, mup = (growth(name, FIELDS[kind], heads) for name in ("standard", "mup"))
    assert min(standard.values()) > 3
    assert all(1 / 4 < value < 1.5 for value in mup.values()), mup
    assert mup["stream"] > 2 / 3


def at(width: int, **optim: object) -> TrialConfig:
    config = config_of(width, "mup", FIELDS["mixture"])
    return overlay(config, {f"optim.{name}": value for name, value in optim.items()})


def test_at_the_base_it_is_the_standard_parametrization():
    """The same run, and so the same identity; at another width neither."""
    mup, standard = at(BASE), at(BASE, parametrization="standard")
    assert cell_hash(mup) == cell_hash(standard) == cell_hash(at(BASE, base_d_head=8))
    assert cell_hash(at(2 * BASE)) != cell_hash(at(2 * BASE, parametrization="standard"))
    assert cell_hash(at(BASE, base_d_head=4)) != cell_hash(mup)
    ours, theirs = (MoETransformer(config) for config in (mup, standard))
    sizes, same = (
        [len(g["params"]) for g in build_optimizer(model, mup.optim).param_groups]
        for model in (ours, theirs)
    )
    assert sizes == same
    ids_BS = torch.randint(0, 257, (2, 16), generator=torch.Generator().manual_seed(0))
    for model in (ours, theirs):
        torch.manual_seed(0)
        model(ids_BS, ids_BS).loss.backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)


def test_scales_rates_and_decay_follow_the_width():
    """r = 4: inner matrices begin half as wide, routers a quarter; both have a quarter of the rate
    and four times the decay; the rest, embeddings and an own head among it, stays."""
    config = overlay(at(4 * BASE, weight_decay=0.2), {"model.tied_embeddings": False})
    model = MoETransformer(config)
    plain = MoETransformer(overlay(config, {"optim.parametrization": "standard"}))
    growing = set()
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        if "embedding" in name or "norm" in name or "bias" in name or name == "head.weight":
            torch.testing.assert_close(p, q, rtol=0, atol=0)
            continue
        growing.add(name)
        torch.testing.assert_close(p, q * (0.25 if ".router." in name else 0.5))
    optimizer = build_optimizer(model, config.optim)
    set_learning_rate(optimizer, 0.8)
    of = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    for name, p in model.named_parameters():
        decay = 0.2 if name == "head.weight" else 0.0
        assert of[id(p)] == ((0.2, 0.8) if name in growing else (0.8, decay)), name
    kept = optimizer.state_dict()
    again = build_optimizer(model, config.optim)
    again.load_state_dict(kept)
    set_learning_rate(again, 0.4)
    assert [group["lr"] for group in again.param_groups] == [0.4, 0.4, 0.1]


def test_logits_are_divided_and_attention_by_the_width_of_a_head():
    config = config_of(4 * BASE, "mup", FIELDS["dense"], heads="width")
    assert config.attention_scale == pytest.approx(8**0.5 / 32)
    model = MoETransformer(config).eval()
    seen = []
    model.final_norm.register_forward_hook(lambda *a: seen.append(a[-1]))
    ids_BS = torch.randint(0, 257, (2, 16), generator=torch.Generator().manual_seed(0))
    logits_BSV = model.logits(ids_BS)
    torch.testing.assert_close(logits_BSV, seen[0] @ model.head_weight.T / 4)
    attention = model.blocks[0].attention
    x_BSD = torch.randn(2, 16, 4 * BASE)
    q, k, v = attention.heads(x_BSD)
    scores = (q @ k.transpose(2, 3) * 8**0.5 / 32).masked_fill(
        torch.ones(16, 16).triu(1).bool(), -torch.inf
    )
    y_BSD = attention.project((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x_BSD), y_BSD)


def test_muon_is_refused():
    with pytest.raises(ConfigError, match="rates of AdamW's updates"):
        OptimConfig(parametrization="mup", name="muon")
