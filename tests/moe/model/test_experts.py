"""The fast paths against loops over tokens: values and every gradient, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from moe.model import experts as module_of_experts
from moe.model.activations import NONLINEARITIES
from moe.model.dispatch import Dispatch, sort_by_expert
from moe.model.experts import Experts
from moe.model.experts_by_loop import LoopedMixture
from moe.model.experts_by_sequence import SequenceMixture
from moe.model.experts_grouped import grouped_mixture
from moe.model.moe_layer import MoELayer
from moe.model.router import RouterContext, Routing, count_tokens

D, F, S = 8, 12, 4  # d_model, d_expert, positions of a sequence


def gelu(value: Tensor) -> Tensor:
    return value * (1 + torch.erf(value / math.sqrt(2))) / 2


def activated(activation: str, pre: Tensor) -> Tensor:
    if activation == "gelu":
        return gelu(pre)
    gate, up = pre[: len(pre) // 2], pre[len(pre) // 2 :]
    return gate / (1 + (-gate).exp()) * up


def naive_mixture(
    x_TD, gate_TK, w_in_NDP, b_in_NP, w_out_NFD, b_out_ND, index_TK, activation="gelu"
) -> Tensor:
    """One token, one expert at a time; biases may be None."""
    y = []
    for x_D, gates, experts in zip(x_TD, gate_TK, index_TK.tolist(), strict=True):
        y_D = torch.zeros_like(x_D)
        for gate, e in zip(gates, experts, strict=True):
            pre_P = x_D @ w_in_NDP[e]
            if b_in_NP is not None:
                pre_P = pre_P + b_in_NP[e]
            out_D = activated(activation, pre_P) @ w_out_NFD[e]
            if b_out_ND is not None:
                out_D = out_D + b_out_ND[e]
            y_D = y_D + gate * out_D
        y.append(y_D)
    return torch.stack(y)


def choose(load: str, num_units: int, top_k: int, num_experts: int) -> Tensor:
    """[U, K]: `random`; `collapsed`, all units on the same experts; `some_empty`."""
    if load == "collapsed":
        return torch.arange(num_experts).flip(0)[:top_k].expand(num_units, -1).contiguous()
    score_UN = torch.rand(num_units, num_experts)
    if load == "some_empty":
        score_UN[:, : num_experts - top_k] -= torch.tensor([[2.0]])
    return score_UN.topk(top_k).indices


def by_expert(mixture):
    def mix(inputs, index_UK, num_experts, rows, activation="gelu", kept_UK=None):
        dispatch = sort_by_expert(index_UK, kept_UK)
        if kept_UK is not None:
            inputs = [inputs[0], inputs[1][kept_UK], *inputs[2:]]
            index_UK = index_UK[kept_UK]
        counts_N = count_tokens(index_UK, num_experts, rows)
        return mixture(*inputs, NONLINEARITIES[activation], dispatch, counts_N)

    return mix


def by_sequence(inputs, index_UK, num_experts, rows, activation="gelu", kept_UK=None):
    return SequenceMixture.apply(*inputs, NONLINEARITIES[activation], index_UK, kept_UK)


def random_inputs(
    index_UK: Tensor, num_experts: int, rows: int, d: int = D, f: int = F, columns: int = 1
):
    """x_URD, gate_UK, w_in_NDP, b_in_NP, w_out_NFD, b_out_ND."""
    n, units, p = num_experts, len(index_UK), columns * f
    shapes = ((units, rows, d), index_UK.shape, (n, d, p), (n, p), (n, f, d), (n, d))
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


CASES = [
    (unit, load, top_k, num_experts, "none")
    for unit in ("token", "sequence")
    for load in ("random", "collapsed", "some_empty")
    for top_k, num_experts in ((1, 1), (1, 4), (2, 4), (4, 4), (3, 16))
] + [
    (unit, "random", top_k, num_experts, dropped)
    for unit in ("token", "sequence")
    for dropped in ("some", "whole units")
    for top_k, num_experts in ((1, 4), (2, 4), (3, 16))
]


@pytest.mark.parametrize(
    ("mixture", "dtype", "width"),
    [
        pytest.param(by_expert(LoopedMixture.apply), torch.float64, F, id="loop"),
        pytest.param(by_expert(LoopedMixture.apply), torch.float64, 4 * D, id="loop-wide"),
        pytest.param(by_sequence, torch.float64, F, id="sequence"),
        # Its kernels know no float64.
        pytest.param(by_expert(grouped_mixture), torch.float32, F, id="grouped"),
    ],
)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize(("unit", "load", "top_k", "num_experts", "dropped"), CASES)
def test_mixture_equals_the_loop_over_tokens(
    mixture, dtype, width, unit, load, top_k, num_experts, activation, bias, dropped
):
    rows = 1 if unit == "token" else S
    index_UK = choose(load, 12 // rows, top_k, num_experts)
    columns = NONLINEARITIES[activation].columns
    made = random_inputs(index_UK, num_experts, rows, f=width, columns=columns)
    inputs = [t.to(dtype).requires_grad_() for t in made]
    if not bias:
        inputs[3] = inputs[5] = None
    with torch.no_grad():
        inputs[1][0] = 0.0  # a closed gate still has a gradient
    kept_UK = {
        "none": None,
        "some": torch.rand(index_UK.shape) < 0.6,
        "whole units": (torch.arange(len(index_UK)) % 3 == 1)[:, None].expand_as(index_UK),
    }[dropped]
    x_URD, gate_UK, *weights = inputs
    if kept_UK is not None:
        gate_UK = gate_UK.where(kept_UK, 0)
    fast = mixture([x_URD, gate_UK, *weights], index_UK, num_experts, rows, activation, kept_UK)
    naive = naive_mixture(
        x_URD.flatten(0, 1),
        gate_UK.repeat_interleave(rows, 0),
        *weights,
        index_UK.repeat_interleave(rows, 0),
        activation,
    ).view_as(fast)
    tolerance = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {}
    torch.testing.assert_close(fast, naive, **tolerance)
    dy_URD = torch.randn_like(fast)
    wanted = [tensor for tensor in inputs if tensor is not None]
    got, expected = (
        torch.autograd.grad(y, wanted, dy_URD, retain_graph=True) for y in (fast, naive)
    )
    names = ("x", "gate", "w_in", "b_in", "w_out", "b_out") if bias else ("x", "gate", "in", "out")
    for name, g, e in zip(names, got, expected, strict=True):
        torch.testing.assert_close(g, e, **tolerance, msg=lambda m, name=name: f"d{name}: {m}")
    passed = index_UK if kept_UK is None else index_UK[kept_UK]
    idle = set(range(num_experts)) - set(passed.flatten().tolist())
    assert all(gradient[e].abs().max() == 0 for gradient in got[2:] for e in idle)
    assert idle or load == "random" or top_k == num_experts
    if dropped == "whole units":
        assert fast[0].abs().max() == got[0][0].abs().max() == 0


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("mixture", [by_expert(LoopedMixture.apply), by_sequence])
def test_backward_twice_over_one_graph_gives_the_same(mixture, activation):
    index_UK = choose("random", 6, 2, 4)
    columns = NONLINEARITIES[activation].columns
    inputs = [t.requires_grad_() for t in random_inputs(index_UK, 4, 1, columns=columns)]
    y = mixture(inputs, index_UK, 4, 1, activation)
    first = torch.autograd.grad(y, inputs, torch.ones_like(y), retain_graph=True)
    second = torch.autograd.grad(y, inputs, torch.ones_like(y))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("mixture", [by_expert(LoopedMixture.apply), by_sequence])
def test_keeps_for_backward_no_more_than_a_dense_ffn_does(mixture, activation):
    """Input, first product and activation of the chosen experts; gates and indices beside them."""
    index_UK = choose("random", 32, 2, 4)
    columns = NONLINEARITIES[activation].columns
    made = random_inputs(index_UK, 4, 1, d=64, f=128, columns=columns)
    inputs = [t.requires_grad_() for t in made]
    weights = {t.data_ptr() for t in inputs[2:]}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mixture(inputs, index_UK, 4, 1, activation)
    dense = 8 * (32 * 64 + (columns + 1) * 32 * 2 * 128)
    assert dense <= sum(kept.values()) <= 1.1 * dense


@pytest.mark.parametrize(
    ("rows", "index", "narrow", "wide"),
    [
        (8, [[0, 1], [2, 3]], True, True),
        (8, [[0, 1], [1, 0]], True, False),
        (8, [[0, 1], [2, 3]] * 2, True, False),
        (8, [[0, 1], [2, 3]] * 3, False, False),
        (8, [[0, 1]] * 3, False, False),
        (1, [[0, 1], [2, 3]], False, False),
    ],
    ids=["each its own", "no more than experts", "two each", "three each", "shared", "tokens"],
)
@pytest.mark.parametrize("is_narrow", [True, False])
def test_few_sequences_for_so_many_experts_go_by_themselves(
    monkeypatch, rows, index, narrow, wide, is_narrow
):
    """Load and width decide, and both ways give the same."""
    whole = narrow if is_narrow else wide
    monkeypatch.setattr(
        module_of_experts, "_NARROW_MULTIPLY_ADDS", rows * 16 * 32 + (1 if is_narrow else 0)
    )
    index_UK = torch.tensor(index)
    module = Experts(num_experts=4, d_model=16, d_expert=32).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x_BSD = torch.randn(len(index), rows, 16, dtype=torch.float64)
    routing = Routing(
        unit="sequence" if rows > 1 else "token",
        expert_index=index_UK,
        gate=torch.rand(len(index), 2, dtype=torch.float64),
        counts_N=count_tokens(index_UK, 4, rows),
    )
    assert module_of_experts.by_sequence(x_BSD, module.weight_in, routing) == whole
    y_BSD = module(x_BSD, routing)
    monkeypatch.setattr(module_of_experts, "by_sequence", lambda *_: rows > 1 and not whole)
    torch.testing.assert_close(module(x_BSD, routing), y_BSD)


def naive_gates(gate: str, z_N: Tensor, experts: list[int]) -> list[Tensor]:
    p_N = z_N.exp() / z_N.exp().sum()
    match gate:
        case "switch":
            return [p_N[e] for e in experts]
        case "softmax_topk":
            return [z_N[e].exp() / sum(z_N[j].exp() for j in experts) for e in experts]
        case "double_softmax":
            return [p_N[e].exp() / sum(p_N[j].exp() for j in experts) for e in experts]
        case "sigmoid":
            return [1 / (1 + (-z_N[e]).exp()) for e in experts]
    raise AssertionError(gate)


def naive_layer(layer: MoELayer, x_BSD: Tensor, activation: str, bias: bool) -> Tensor:
    """Routing and experts, token by token, written from the definitions."""
    moe, router, experts = layer.router.moe, layer.router, layer.experts
    weights = (experts.weight_in, experts.bias_in, experts.weight_out, experts.bias_out)
    y = []
    for x_SD in x_BSD:
        z_SN = x_SD @ router.weight.T
        if moe.routing_unit == "sequence":
            read = moe.prefix_length if moe.uses_prefix else len(x_SD)
            z_SN = z_SN[:read].mean(0).expand(len(x_SD), -1)
        for x_D, z_N in zip(x_SD, z_SN, strict=True):
            ranked = sorted(((z, e) for e, z in enumerate(z_N.tolist())), reverse=True)
            chosen = [e for _, e in ranked[: moe.active_experts]]
            gates = torch.stack(naive_gates(moe.gate, z_N, chosen))
            index_1K = torch.tensor([chosen])
            y_D = naive_mixture(x_D[None], gates[None], *weights, index_1K, activation)[0]
            if layer.shared is not None:
                expand, project = layer.shared.expand, layer.shared.project
                hidden_F = activated(activation, expand.weight @ x_D + (expand.bias if bias else 0))
                y_D = y_D + project.weight @ hidden_F + (project.bias if bias else 0)
            y.append(y_D)
    return torch.stack(y).view_as(x_BSD)


@pytest.mark.parametrize("gate", ["switch", "softmax_topk", "double_softmax", "sigmoid"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"top_k": 3, "num_experts": 5},
        {"granularity": 2, "shared_experts": 1},
        {"granularity": 2, "shared_experts": 1, "activation": "swiglu", "bias": False},
        {"activation": "swiglu"},
        {"router": "frozen"},
        {"routing_unit": "sequence"},
        {"routing_unit": "sequence", "activation": "swiglu", "bias": False},
        {"routing_unit": "sequence", "granularity": 4, "shared_experts": 2},
        {
            "routing_unit": "sequence",
            "sequence_representation": "prefix",
            "prefix_length": 3,
            "loss_start": 3,
        },
    ],
    ids=str,
)
def test_layer_equals_the_loop_over_tokens(make_config, gate, fields):
    config = make_config(**{"num_experts": 4, "top_k": 2, "gate": gate, **fields})
    layer = MoELayer(config, 0).double()
    for tensor in layer.state_dict().values():
        tensor.normal_()
    x_BSD = torch.randn(3, 8, 8, dtype=torch.float64, requires_grad=True)
    ids_BS = torch.zeros(3, 8, dtype=torch.int64)
    context = RouterContext(ids_BS=ids_BS, label_B=None, step=0)
    fast_BSD, _ = layer(x_BSD, context, None)
    naive_BSD = naive_layer(layer, x_BSD, config.model.activation, config.model.bias)
    torch.testing.assert_close(fast_BSD, naive_BSD)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    assert ("router.weight" in names) == (config.moe.router == "learned")
    dy_BSD = torch.randn_like(fast_BSD)
    got = torch.autograd.grad(fast_BSD, (x_BSD, *parameters), dy_BSD)
    expected = torch.autograd.grad(naive_BSD, (x_BSD, *parameters), dy_BSD)
    for name, g, e in zip(("x", *names), got, expected, strict=True):
        torch.testing.assert_close(g, e, msg=lambda m, name=name: f"gradient of {name}: {m}")


@pytest.mark.parametrize("router", ["hash", "label", "random"])
def test_layer_with_routers_without_weights(make_config, router):
    config = make_config(num_experts=4, top_k=1 if router == "label" else 2, router=router)
    layer = MoELayer(config, 0).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x_BSD = torch.randn(3, 8, 8, dtype=torch.float64, requires_grad=True)
    context = RouterContext(
        ids_BS=torch.randint(0, 257, (3, 8)), label_B=torch.tensor([3, 0, 3]), step=0
    )
    fast_BSD, routing = layer(x_BSD, context, None)
    rows = 24 // len(routing.expert_index)
    experts = layer.experts
    naive_TD = naive_mixture(
        x_BSD.flatten(0, 1),
        routing.gate.double().repeat_interleave(rows, 0),
        experts.weight_in,
        experts.bias_in,
        experts.weight_out,
        experts.bias_out,
        routing.expert_index.repeat_interleave(rows, 0),
    )
    torch.testing.assert_close(fast_BSD.flatten(0, 1), naive_TD, rtol=1e-6, atol=1e-6)
    wanted = (x_BSD, *layer.parameters())
    dy_BSD = torch.randn_like(fast_BSD)
    got = torch.autograd.grad(fast_BSD, wanted, dy_BSD, retain_graph=True)
    expected = torch.autograd.grad(naive_TD, wanted, dy_BSD.flatten(0, 1))
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"activation": "swiglu", "bias": False}], ids=str)
@pytest.mark.parametrize("unit", ["token", "sequence"])
def test_bf16_autocast_is_near_float32(make_config, unit, fields):
    layer = MoELayer(make_config(num_experts=4, top_k=2, routing_unit=unit, **fields), 0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x_BSD = torch.randn(2, 8, 8)
    context = RouterContext(ids_BS=torch.zeros(2, 8, dtype=torch.int64), label_B=None, step=0)
    exact, _ = layer(x_BSD, context, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, _ = layer(x_BSD, context, None)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)
    rounded.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize(("d", "f"), [(16, 614), (12, 1229), (16, 16)])
def test_any_width_passes_the_checks_of_the_grouped_kernels(d, f, activation):
    """torch's own, on the meta device: values are not computed, strides are looked at."""
    index_UK = choose("random", 6, 2, 4)
    dispatch, counts_N = sort_by_expert(index_UK), count_tokens(index_UK, 4, 1)
    meta = {"device": "meta", "dtype": torch.bfloat16}
    made = random_inputs(index_UK, 4, 1, d, f, NONLINEARITIES[activation].columns)
    inputs = [t.to(**meta).requires_grad_() for t in made]
    dispatch = Dispatch(*(t.to("meta") for t in dispatch))
    y_URD = grouped_mixture(*inputs, NONLINEARITIES[activation], dispatch, counts_N.to("meta"))
    assert y_URD.shape == inputs[0].shape
    gradients = torch.autograd.grad(y_URD, inputs, torch.empty_like(y_URD))
    assert [g.shape for g in gradients] == [t.shape for t in inputs]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize(("d", "f"), [(64, 128), (64, 123), (60, 123)])
@pytest.mark.parametrize("unit", ["token", "sequence"])
def test_grouped_kernels_on_a_gpu_equal_the_loop(unit, d, f, activation):
    rows = 1 if unit == "token" else 16
    index_UK = choose("some_empty", 64 // rows, 2, 8).cuda()
    inputs = [
        t.to("cuda", torch.bfloat16).requires_grad_()
        for t in random_inputs(index_UK, 8, rows, d, f, NONLINEARITIES[activation].columns)
    ]
    inputs.append(NONLINEARITIES[activation])
    dispatch, counts_N = sort_by_expert(index_UK), count_tokens(index_UK, 8, rows)
    dy = torch.randn_like(inputs[0])
    fast, slow = (f(*inputs, dispatch, counts_N) for f in (grouped_mixture, LoopedMixture.apply))
    torch.testing.assert_close(fast, slow, rtol=0.05, atol=0.5)
    pairs = zip(*(torch.autograd.grad(y, inputs[:6], dy) for y in (fast, slow)), strict=True)
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=0.05, atol=1.0)
