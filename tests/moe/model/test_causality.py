"""What a position may know of later ones, proved by gradients.

The loss at position t is a function of the embeddings. If its gradient with respect to every later
embedding is exactly zero at a point in general position, and the discrete choices at t (which
gradients do not see) stay the same when later tokens are replaced, no later token reaches it.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from moe.model.transformer import MoETransformer

PREFIX = 3
TOKEN = {"num_experts": 4, "top_k": 2, "gate": "switch", "num_layers": 3, "router_init_std": 1.0}
SEQUENCE = TOKEN | {"routing_unit": "sequence"}
PREFIXED = SEQUENCE | {
    "sequence_representation": "prefix",
    "prefix_length": PREFIX,
    "loss_start": PREFIX,
}


def reaches(model: MoETransformer, length: int = 8) -> torch.Tensor:
    """[S, S] bool: entry (t, s) says whether the loss at t has a gradient to embedding s."""
    ids_1S, targets_1S = torch.randint(0, 257, (2, 1, length))
    embedded = []
    hook = model.token_embedding.register_forward_hook(lambda *args: embedded.append(args[-1]))
    logits_SV = model.logits(ids_1S, label_B=torch.tensor([1]))[0]
    hook.remove()
    loss_S = F.cross_entropy(logits_SV, targets_1S[0], reduction="none")
    rows = []
    for loss in loss_S:
        (gradient,) = torch.autograd.grad(loss, embedded, retain_graph=True)
        rows.append(gradient[0].abs().sum(-1) > 0)
    return torch.stack(rows)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        TOKEN,
        TOKEN | {"routing_scope": "global"},
        TOKEN | {"gate": "softmax_topk", "shared_experts": 1},
        TOKEN | {"gate": "sigmoid", "balance": "loss_free"},
        TOKEN | {"router": "random"},
        TOKEN | {"router": "frozen"},
        TOKEN | {"router": "hash"},
        TOKEN | {"router": "label", "top_k": 1},
        TOKEN | {"position": "rope", "num_kv_heads": 1, "qk_norm": "head", "norm": "rmsnorm"},
        {"qk_norm": "full", "tied_embeddings": False},
    ],
    ids=str,
)
def test_token_routing_is_causal(make_config, fields):
    """Label routing too: what it reads is no token of the sequence."""
    reached = reaches(MoETransformer(make_config(**fields)))
    assert torch.equal(reached, torch.ones(8, 8).tril().bool())


@pytest.mark.parametrize("router", ["learned", "frozen", "random"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_prefix_is_causal_from_its_end_on(make_config, router, scope):
    fields = PREFIXED | {"router": router, "routing_scope": scope}
    reached = reaches(MoETransformer(make_config(**fields)))
    causal = torch.ones(8, 8).tril().bool()
    # Positions 0..P-1 share one route read from 0..P-1; the last of them sees no later one either.
    assert torch.equal(reached[PREFIX - 1 :], causal[PREFIX - 1 :])
    assert reached[: PREFIX - 1, :PREFIX].all()
    assert not reached[: PREFIX - 1, PREFIX:].any()


@pytest.mark.parametrize("router", ["learned", "frozen", "random"])
def test_mean_is_not_causal(make_config, router):
    """The leak of 2402.13089's sequence routing: every position hears from every other."""
    assert reaches(MoETransformer(make_config(**SEQUENCE, router=router))).all()


@pytest.mark.parametrize(
    ("fields", "first_safe"), [(TOKEN, 0), (PREFIXED, PREFIX - 1)], ids=["token", "prefix"]
)
def test_replacing_later_tokens_changes_nothing_before(make_config, fields, first_safe):
    model = MoETransformer(make_config(**fields)).double()
    ids_BS = torch.randint(0, 257, (4, 8))
    for t in range(first_safe, 7):
        changed_BS = ids_BS.clone()
        changed_BS[:, t + 1 :] = torch.randint(0, 257, (4, 7 - t))
        before, after = model.logits(ids_BS), model.logits(changed_BS)
        torch.testing.assert_close(after[:, : t + 1], before[:, : t + 1], rtol=0, atol=1e-12)
        assert not torch.allclose(after, before)


def test_mean_moves_the_route_of_earlier_tokens(make_config):
    model = MoETransformer(make_config(**SEQUENCE)).double()
    ids_BS = torch.randint(0, 257, (4, 8))
    changed_BS = ids_BS.clone()
    changed_BS[:, 7] = (ids_BS[:, 7] + 1) % 257
    leak = (model.logits(changed_BS) - model.logits(ids_BS))[:, :7].abs().max()
    assert leak > 1e-6


EXPERT = TOKEN | {"selection": "expert"}
TIGHT = TOKEN | {"capacity_factor": 0.5}


def hears_later(model: MoETransformer, first: int = 0) -> bool:
    """Whether logits at a position from `first` on change when later tokens of its own sequence
    are replaced. Gradients do not see this: what leaks is who is chosen, not with what weight."""
    ids_BS = torch.randint(0, 257, (2, 8))
    before = model.logits(ids_BS, label_B=torch.tensor([0, 1]))
    for b, t in itertools.product(range(2), range(first, 7)):
        changed_BS = ids_BS.clone()
        changed_BS[b, t + 1 :] = torch.randint(0, 257, (7 - t,))
        after = model.logits(changed_BS, label_B=torch.tensor([0, 1]))
        if (after - before)[b, : t + 1].abs().max() > 1e-9:
            return True
    return False


@pytest.mark.parametrize(
    "fields",
    [
        {},
        TOKEN,
        TOKEN | {"noisy_top_k": True},
        TOKEN | {"router": "hash"},
        TOKEN | {"router": "label", "top_k": 1},
        TIGHT,
        TIGHT | {"router": "hash"},
        TIGHT | {"router": "label", "top_k": 1},
        TIGHT | {"dropping": "probability"},
        TOKEN | {"dropping": "probability", "capacity_factor": 2.0},
        EXPERT,
        EXPERT | {"gate": "sigmoid", "routing_scope": "global"},
        EXPERT | {"top_k": 4},
        SEQUENCE,
        PREFIXED,
        PREFIXED | {"capacity_factor": 0.5, "dropping": "probability"},
    ],
    ids=str,
)
def test_the_config_says_whether_later_tokens_are_heard(make_config, fields):
    config = make_config(**fields)
    model = MoETransformer(config).double().eval()
    first = PREFIX - 1 if config.moe.uses_prefix else 0
    assert hears_later(model, first) == config.leaks_future


def test_what_experts_choose_leaks_past_the_gradients(make_config):
    """Gradients alone would call it causal: a gate hangs on its own token."""
    model = MoETransformer(make_config(**EXPERT)).double()
    assert torch.equal(reaches(model), torch.ones(8, 8).tril().bool())


@pytest.mark.parametrize("fields", [SEQUENCE, PREFIXED], ids=["mean", "prefix"])
def test_sequences_of_a_batch_do_not_hear_each_other(make_config, fields):
    model = MoETransformer(make_config(**fields)).double()
    ids_BS = torch.randint(0, 257, (4, 8))
    changed_BS = ids_BS.clone()
    changed_BS[1:] = torch.randint(0, 257, (3, 8))
    torch.testing.assert_close(
        model.logits(changed_BS)[0], model.logits(ids_BS)[0], rtol=0, atol=1e-12
    )
