"""One MoE layer, forward and backward, against a dense FFN of equal active width and HF's experts.

Measured is what comes after the router: experts that are given indices and gates, with gradients
for the input, the gates and all weights. Baselines:
`dense`       a dense FFN, plain torch under autograd, of width K * d_expert: the limit.
`hf_grouped`  transformers' grouped_mm, `hf_eager` its loop over experts, `hf_batched` its
              batched_mm where that fits in memory (it copies the weights for each assignment).
Under GELU the experts of transformers are Nemotron-H's: two matrices and, which spares them work,
no biases. Under SwiGLU they are Mixtral's, nobody has biases, and a shape's width is two thirds, as
`model.activation` makes it: three matrices of as many parameters.
Seconds are CPU time of the one thread that computes, medians of interleaved repeats. Rows in bytes
are what autograd keeps from forward to backward, weights apart, each storage counted once.
On a GPU the same rows in bfloat16 are timed by CUDA events.

    python benchmarks/layer_speed.py [--repeats 7] [--shapes 0,1,2,3,4] [--units token,sequence]
                                     [--activations gelu,swiglu]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import torch
from common import MIN_REPEATS, Row, medians, print_result, row, tell, thread_s
from torch import Tensor, nn
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from moe.config import ModelConfig
from moe.model.experts import Experts
from moe.model.moe_layer import FeedForward
from moe.model.router import Routing, count_tokens

DENSE_GOAL, DENSE_GOAL_OF_MANY, MANY = 1.10, 1.30, 64
OTHERS_GOAL = 1.0
MEMORY_GOAL = 1.2
BATCHED_LIMIT_BYTES = 4e9


class Shape(NamedTuple):
    d_model: int
    d_expert: int
    num_experts: int
    top_k: int
    tokens: int

    def __str__(self) -> str:
        d, f, n, k, t = self
        return f"d{d}-f{f}-N{n}-K{k}-T{t}"


SHAPES = (
    Shape(256, 1024, 4, 2, 2048),
    Shape(256, 1024, 16, 2, 2048),
    Shape(256, 256, 64, 8, 2048),
    Shape(384, 1536, 8, 1, 2048),
    Shape(768, 3072, 4, 2, 1024),
)
UNITS = ("token", "sequence")
LOADS = ("balanced", "collapsed")
ACTIVATIONS = ("gelu", "swiglu")


def choose(shape: Shape, load: str, units: int) -> Tensor:
    """[U, K], experts of each unit. Balanced: as even as can be, in a mixed order."""
    if load == "collapsed":
        return torch.arange(shape.top_k).expand(units, -1).contiguous()
    start_U = torch.randperm(units)[:, None] * shape.top_k
    return (start_U + torch.arange(shape.top_k)) % shape.num_experts


class Case:
    """One shape, unit and load: the same input, choice and output gradient for every kind."""

    def __init__(
        self,
        shape: Shape,
        unit: str,
        load: str,
        activation: str,
        context: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        torch.manual_seed(0)
        self.model = ModelConfig(
            d_model=shape.d_model,
            num_heads=1,
            d_ff=shape.d_expert,
            activation=activation,
            bias=activation == "gelu",
        )
        shape = shape._replace(d_expert=self.model.d_ff_of_activation)
        self.shape, self.unit, self.load = shape, unit, load
        self.device, self.dtype = device, dtype
        rows = 1 if unit == "token" else context
        index_UK = choose(shape, load, shape.tokens // rows).to(device)
        gate_UK = torch.rand(index_UK.shape, device=device).softmax(1)
        self.index_TK = index_UK.repeat_interleave(rows, 0)
        self.gate_TK = gate_UK.repeat_interleave(rows, 0).to(dtype).requires_grad_()
        sequences = (shape.tokens // context, context, shape.d_model)
        self.x_BSD = torch.randn(sequences, device=device, dtype=dtype).requires_grad_()
        self.dy_BSD = torch.randn(sequences, device=device, dtype=dtype)
        self.routing = Routing(
            unit=unit,
            expert_index=index_UK,
            gate=gate_UK.clone().requires_grad_(),
            counts_N=count_tokens(index_UK, shape.num_experts, rows),
        )

    def __str__(self) -> str:
        kind = "" if self.dtype == torch.float32 else " bf16"
        kind += "" if self.model.activation == "gelu" else f" {self.model.activation}"
        return f"{self.shape} {self.unit} {self.load}{kind}"

    def layers(self, batched_limit: float) -> dict[str, Callable[[], Tensor]]:
        """The forward pass of each kind, and its weights in `self.weights`."""
        d, f, n, k, tokens = self.shape
        activation, bias = self.model.activation, self.model.bias
        ours = Experts(num_experts=n, d_model=d, d_expert=f, activation=activation, bias=bias)
        dense = FeedForward(self.model, k * f)
        config = SimpleNamespace(
            n_routed_experts=n,
            num_local_experts=n,
            hidden_size=d,
            moe_intermediate_size=f,
            intermediate_size=f,
            moe_latent_size=None,
            mlp_hidden_act="gelu",
            hidden_act="silu",
            _experts_implementation="eager",
        )
        hf = (NemotronHExperts if activation == "gelu" else MixtralExperts)(config)
        for module in (ours, dense, hf):
            module.to(self.device, self.dtype)
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.02)
        self.weights = [p for m in (ours, dense, hf) for p in m.parameters()]

        def of_hf(implementation: str) -> Tensor:
            config._experts_implementation = implementation
            return hf(self.x_BSD.flatten(0, 1), self.index_TK, self.gate_TK).view_as(self.x_BSD)

        kinds = {
            "ours": lambda: ours(self.x_BSD, self.routing),
            "dense": lambda: dense(self.x_BSD),
            "hf_grouped": lambda: of_hf("grouped_mm"),
            "hf_eager": lambda: of_hf("eager"),
        }
        # The matrices of each assignment, and their gradients.
        matrices = 2 if activation == "gelu" else 3
        if 2 * matrices * tokens * k * d * f * self.x_BSD.element_size() <= batched_limit:
            kinds["hf_batched"] = lambda: of_hf("batched_mm")
        return kinds

    def step(self, forward: Callable[[], Tensor]) -> None:
        for leaf in (*self.weights, self.x_BSD, self.gate_TK, self.routing.gate):
            leaf.grad = None
        forward().backward(self.dy_BSD)

    def saved_bytes(self, forward: Callable[[], Tensor]) -> int:
        weights = {p.untyped_storage().data_ptr() for p in self.weights}
        kept: dict[int, int] = {}
        alive: list[Tensor] = []  # or a freed address would be counted once for two tensors

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            forward()
        return sum(kept.values())


def rows_of(case: Case, options: argparse.Namespace) -> list[Row]:
    kinds = case.layers(options.batched_bytes)
    measure = thread_s if case.device == "cpu" else cuda_s
    seconds = medians(
        {name: lambda f=forward: case.step(f) for name, forward in kinds.items()},
        repeats=options.repeats,
        measure=measure,
    )
    many = case.shape.num_experts >= MANY
    goals = {"dense": DENSE_GOAL_OF_MANY if many else DENSE_GOAL}
    rows = [
        row(
            str(case),
            baseline=name,
            ours=seconds["ours"],
            theirs=theirs,
            unit="s",
            goal=goals.get(name, OTHERS_GOAL),
        )
        for name, theirs in seconds.items()
        if name != "ours"
    ]
    rows.append(
        row(
            str(case),
            baseline="dense",
            ours=case.saved_bytes(kinds["ours"]),
            theirs=case.saved_bytes(kinds["dense"]),
            unit="bytes",
            goal=MEMORY_GOAL,
        )
    )
    tell("  ".join(f"{r['baseline']} {r['unit']} {r['ratio']:.3f}" for r in rows) + f"  {case}")
    return rows


def cuda_s(function: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=MIN_REPEATS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=256, help="tokens of a sequence")
    parser.add_argument("--shapes", default="0,1,2,3,4", help="indices into the issue's five")
    parser.add_argument("--units", default=",".join(UNITS))
    parser.add_argument("--activations", default=",".join(ACTIVATIONS))
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--batched-bytes", type=float, default=BATCHED_LIMIT_BYTES)
    parser.add_argument("--device", help="cpu or cuda alone")
    parser.add_argument("--tiny", action="store_true", help="one shape of no weight, for a test")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shapes = [SHAPES[int(i)] for i in options.shapes.split(",")]
    if options.tiny:
        shapes, options.context = [Shape(8, 16, 4, 2, 32)], 8
    backends = [("cpu", torch.float32)]
    if torch.cuda.is_available():
        backends.append(("cuda", torch.bfloat16))
    backends = [one for one in backends if options.device in (None, one[0])]
    rows = []
    for activation, (device, dtype), shape, unit, load in itertools.product(
        options.activations.split(","),
        backends,
        shapes,
        options.units.split(","),
        options.loads.split(","),
    ):
        case = Case(shape, unit, load, activation, options.context, device, dtype)
        rows += rows_of(case, options)
    print_result("moe_layer", rows, packages=("torch", "transformers"))


if __name__ == "__main__":
    main()
