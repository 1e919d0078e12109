"""The best experts by their scores, the lower index first where scores are equal; and groups."""

from __future__ import annotations

import math

import pytest
import torch

from moe.config import ConfigError
from moe.model.balance import sequence_loss
from moe.model.router import FrozenRouter, LearnedRouter, RouterContext, Routing, gate_weights
from moe.model.selection import choose, within_groups
from moe.model.transformer import MoETransformer


def context():
    return RouterContext(ids_BS=torch.zeros(2, 8, dtype=torch.int64), label_B=None, step=0)


def router_of(config, kind=LearnedRouter):
    router = kind(config, 0)
    torch.nn.init.normal_(router.weight)
    return router


def by_hand(scores, k):
    return sorted(range(len(scores)), key=lambda e: (-scores[e], e))[:k]


@pytest.mark.parametrize("k", [1, 2, 16, 17, 24])
@pytest.mark.parametrize("ties", [False, True])
def test_the_best_are_chosen_and_equal_scores_go_by_index(k, ties):
    score_UN = torch.randint(0, 3, (200, 24)).float() if ties else torch.randn(200, 24)
    expected = [by_hand(row, k) for row in score_UN.tolist()]
    assert choose(score_UN, k).tolist() == expected


def test_minus_infinity_is_chosen_last():
    score_UN = torch.full((1, 4), -torch.inf)
    score_UN[0, 2] = 0
    assert choose(score_UN, 2).tolist()[0][0] == 2


@pytest.mark.parametrize(("groups", "chosen"), [(4, 1), (4, 2), (2, 1), (8, 3)])
def test_a_limited_choice_stays_within_the_best_groups(groups, chosen):
    score_UN = torch.randn(100, 8)
    limited_UN = within_groups(score_UN, groups, chosen)
    size = 8 // groups
    for scores, limited in zip(score_UN.tolist(), limited_UN.tolist(), strict=True):
        parts = [scores[g * size : (g + 1) * size] for g in range(groups)]
        worth = [sum(sorted(part, reverse=True)[:2]) for part in parts]
        kept = set(by_hand(worth, chosen))
        expected = [s if e // size in kept else -math.inf for e, s in enumerate(scores)]
        assert limited == expected


def test_the_router_chooses_within_groups_and_weighs_as_without(make_config):
    fields = {"num_experts": 8, "top_k": 2, "gate": "switch", "expert_groups": 4}
    router = router_of(make_config(chosen_groups=1, **fields))
    routing = router(torch.randn(2, 8, 8), context())
    assert torch.equal(routing.expert_index[:, 0] // 2, routing.expert_index[:, 1] // 2)
    torch.testing.assert_close(routing.gate, routing.probs.gather(1, routing.expert_index))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"expert_groups": 3, "chosen_groups": 1}, "part the experts"),
        ({"expert_groups": 2, "chosen_groups": 3}, "part the experts"),
        ({"expert_groups": 8, "chosen_groups": 1}, "must hold all the experts"),
        ({"gate_scale": 0.0}, "above 0"),
        ({"router_jitter": 1.0}, "below 1"),
        ({"balance": "sequence", "routing_unit": "sequence"}, "within a sequence"),
        ({"top_k": 1, "gate": "sigmoid_topk"}, "not normalised over the chosen"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(make_config, fields, said):
    with pytest.raises(ConfigError, match=said):
        make_config(**{"num_experts": 8, "top_k": 2, **fields})


def test_sigmoid_gates_over_the_chosen_with_a_factor(make_config):
    """DeepSeek-V3's (2412.19437, equations 13 to 16): s_i / sum_chosen s_j, times a factor."""
    logits = [0.3, -1.2, 2.0, 0.7]
    s = [1 / (1 + math.exp(-z)) for z in logits]
    logits_UN = torch.tensor([logits])
    got = gate_weights("sigmoid_topk", logits_UN, logits_UN.softmax(-1), torch.tensor([[2, 3]]))
    torch.testing.assert_close(got, torch.tensor([[s[2], s[3]]]) / (s[2] + s[3]))
    config = make_config(num_experts=4, top_k=2, gate="sigmoid_topk", gate_scale=2.5)
    routing = router_of(config)(torch.randn(2, 8, 8), context())
    torch.testing.assert_close(routing.gate.sum(-1), torch.full((16,), 2.5))


def test_cosine_scores_do_not_depend_on_lengths(make_config):
    config = make_config(num_experts=4, top_k=2, score="cosine", score_temperature=0.5)
    router, x_BSD = router_of(config), torch.randn(2, 8, 8)
    routing = router(x_BSD, context())
    torch.testing.assert_close(routing.logits, router(7 * x_BSD, context()).logits)
    x_TD = x_BSD.flatten(0, 1)
    for t in range(16):
        for e in range(4):
            cosine = torch.cosine_similarity(x_TD[t], router.weight[e], dim=0)
            torch.testing.assert_close(routing.logits[t, e], cosine / 0.5)


def test_jitter_is_noise_of_training_alone(make_config):
    router = router_of(make_config(num_experts=4, top_k=2, router_jitter=0.1), FrozenRouter)
    plain = router_of(make_config(num_experts=4, top_k=2), FrozenRouter)
    plain.weight.copy_(router.weight)
    x_BSD = torch.randn(2, 8, 8)
    assert torch.equal(router.eval()(x_BSD, context()).logits, plain(x_BSD, context()).logits)
    noisy_BSD = router.train()._noisy(x_BSD) / x_BSD
    assert 0.9 <= noisy_BSD.min() < noisy_BSD.max() <= 1.1
    torch.manual_seed(1)
    first = router(x_BSD, context()).logits
    assert not torch.equal(first, router(x_BSD, context()).logits)
    torch.manual_seed(1)
    assert torch.equal(first, router(x_BSD, context()).logits), "a resumed run draws the same"


def test_scores_in_the_precision_of_the_run_are_rounded(make_config):
    x_BSD = torch.randn(2, 8, 8)
    config = make_config(num_experts=4, top_k=2, router_precision="run")
    router = router_of(config)
    exact = router(x_BSD, context()).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = router(x_BSD, context()).logits
    assert rounded.dtype == torch.float32
    expected = torch.nn.functional.linear(x_BSD.flatten(0, 1).bfloat16(), router.weight.bfloat16())
    assert torch.equal(rounded, expected.float())
    assert not torch.equal(rounded, exact)


def test_sequence_loss_is_its_formula_and_trains_the_router(make_config):
    """2412.19437, equations 17 to 20, token by token."""
    index_UK = torch.tensor([[0, 1], [0, 2], [0, 3], [3, 2], [3, 1], [3, 0]])
    probs_UN = torch.randn(6, 4).softmax(-1)
    routing = Routing(
        unit="token", expert_index=index_UK, gate=probs_UN[:, :2], counts_N=None, probs=probs_UN
    )
    expected = 0.0
    for rows in (range(3), range(3, 6)):
        for e in range(4):
            f = 4 / (2 * 3) * sum(e in index_UK[t].tolist() for t in rows)
            p = sum(probs_UN[t, e].item() for t in rows) / 3
            expected += f * p / 2
    assert sequence_loss(routing, 3).item() == pytest.approx(expected, rel=1e-5)

    config = make_config(num_experts=4, top_k=2, balance="sequence", balance_coefficient=0.3)
    model = MoETransformer(config)
    ids_BS = torch.randint(0, 257, (2, 8))
    output = model(ids_BS, ids_BS)
    torch.testing.assert_close(output.aux_loss.detach(), 0.3 * output.balance_loss)
    (gradient,) = torch.autograd.grad(output.aux_loss, model.blocks[0].ffn.router.weight)
    assert gradient.abs().max() > 0
