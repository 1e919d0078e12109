"""How much memory a worker of a run needs at its peak, told from the config without building it.

Counted are the weights, their gradients, the optimiser's moments, and what the forward pass keeps
for the backward pass, operation by operation as `moe.model` is written. Beside these a step needs
room for a moment: gradients of activations, and at the head several tensors of a micro-batch's
logits. The passes are followed stage by stage, since what is kept is freed while gradients come.
tests/moe/train/test_memory.py holds the estimate to what torch allocates, and
benchmarks/peak_memory.py to the resident memory of processes.

Not counted are the libraries that any process loads: some hundred MB of the host; on a GPU the CUDA
context, half a GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from moe.accounting import account
from moe.config import TrialConfig

_LONG = 8  # bytes of an index
_FLOAT = 4  # of weights, gradients and moments, whatever the precision of the run
# The busiest expert's share of a micro-batch, over an even one: what a fresh router comes to.
_BUSIEST = 2.0
# Resident over allocated, of glibc's malloc: five shapes have 1.12 to 1.18 (benchmarks/peak_memory)
_HOST_ALLOCATOR = 1.15


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one worker. `activations` is the most that is there beside the other three. They are
    not all at their most at once: `allocated` is the most at any time, and `peak` what the process
    (on a CPU, what its allocator cannot use again included) or the GPU has at the most for it."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    allocated: int
    peak: int


@dataclass(kw_only=True)
class _Stage:
    """A part of the forward pass, in bytes. `kept`: until its own backward pass; `forward` and
    `backward`: for a moment, beside what is kept; `gradient`: of its weights."""

    kept: float = 0
    forward: float = 0
    backward: float = 0
    gradient: float = 0


def estimate(
    config: TrialConfig, *, device: str = "cpu", workers: int = 1, shard: bool = False
) -> Memory:
    """Peak memory of one of `workers` data-parallel workers on a device (cpu or cuda). With `shard`
    each has a part of weights, gradients and moments, and gathers a block at a time."""
    model = _Passes(config, device)
    stages = list(model.stages())
    gathered = 0.0
    if shard and workers > 1:
        gathered = _gathered(stages, on_gpu=model.device != "cpu")
    else:
        shard = False
    parts = workers if shard else 1
    weights = _FLOAT * account(config).params_total // parts
    gradients = round(sum(stage.gradient for stage in stages)) // parts
    moments = model.moments() // parts
    held = weights + moments + model.evaluation_set(workers)
    micro_batches = config.train.batch_tokens // config.train.micro_batch_tokens // workers
    # Several workers reduce gradients in buckets that stay, several micro-batches add them up.
    stays = workers > 1 or micro_batches > 1
    most = sum(stage.kept for stage in stages)
    peak = held + gradients  # while the optimiser works
    kept = 0.0
    for stage in stages:
        kept += stage.kept
        needed = kept + stage.forward + gathered
        peak = max(peak, held + needed + (gradients if stays else 0))
        most = max(most, needed)
    came = 0.0
    for stage in reversed(stages):
        there = (gradients if stays else came) + (0 if shard else stage.gradient)
        needed = kept + stage.backward + gathered
        peak = max(peak, held + needed + there)
        most = max(most, needed)
        kept -= stage.kept
        came += stage.gradient / parts
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=moments,
        activations=round(most),
        allocated=round(peak),
        peak=round(peak * (_HOST_ALLOCATOR if device == "cpu" else 1)),
    )


def _gathered(stages: list[_Stage], *, on_gpu: bool) -> float:
    """Bytes of what a sharded step has whole: weights and gradients outside of the blocks; of a
    block the weights, on a GPU those of the one that is gathered next, and its gradients, which are
    copied to be reduced."""
    first, *of_blocks, norm, head = stages
    outside = first.gradient + norm.gradient + head.gradient
    pairs = zip(of_blocks[::2], of_blocks[1::2], strict=True)
    block = max(attention.gradient + ffn.gradient for attention, ffn in pairs)
    return 2 * outside + (4 if on_gpu else 3) * block


class _Passes:
    """The forward pass of one micro-batch as stages.

    T positions, D d_model, V vocabulary, A assignments of positions to experts; `a` bytes of an
    activation in the precision of the run. The residual stream is float32 in all of them.
    """

    def __init__(self, config: TrialConfig, device: str) -> None:
        self.config, self.device = config, device
        model = config.model
        self.low = config.train.precision == "bf16"
        self.a = 2 if self.low else _FLOAT
        self.T = config.train.micro_batch_tokens
        self.D = model.d_model
        self.stream = _FLOAT * self.T * self.D
        self.columns = 2 if model.activation == "swiglu" else 1
        self.noise = (1 if device == "cuda" else _FLOAT) if model.dropout else 0

    def stages(self) -> Iterator[_Stage]:
        config, model = self.config, self.config.model
        rows = self.config.data.vocab_size
        positions = model.context_length if model.position == "learned" else 0
        embedded = (rows + positions) * self.D * _FLOAT
        yield _Stage(
            kept=_LONG * 2 * self.T + self.noise * self.T * self.D,
            forward=2 * self.stream,
            # The gradient of a tied weight that the head made waits here for the other.
            backward=self.stream + (rows * self.D * _FLOAT if model.tied_embeddings else 0),
            gradient=0 if model.tied_embeddings else embedded,
        )
        for layer in range(model.num_layers):
            yield self._attention()
            yield self._mixture() if layer in config.moe_layers else self._ffn(config.d_ff_dense)
        yield self._norm()
        yield self._head(embedded if model.tied_embeddings else rows * self.D * _FLOAT)

    def _norm(self) -> _Stage:
        """Keeps its input, which is the residual stream, and its output for what follows; in low
        precision that is a copy of it."""
        kept = self.stream + _FLOAT * 2 * self.T + self.a * self.T * self.D
        if self.config.model.norm == "rmsnorm" and self.device == "cpu":
            kept += self.stream  # the normalised, before its weights
        return _Stage(
            kept=kept,
            forward=2 * self.stream,
            backward=3 * self.stream,
            gradient=2 * self.D * _FLOAT,
        )

    def _linear(self, *weights: int) -> tuple[float, float]:
        """Bytes of low-precision copies of the weights, kept for the backward pass, and of their
        gradients."""
        total = sum(weights)
        return (self.a * total if self.low else 0), _FLOAT * total

    def _attention(self) -> _Stage:
        model, T, D, a = self.config.model, self.T, self.D, self.a
        heads = D + 2 * model.kv_heads * model.d_head  # columns of queries, keys and values
        copies, gradient = self._linear(D * heads, D * D)
        stage = self._norm()
        stage.kept += a * T * (heads + D) + _FLOAT * T * model.num_heads + copies
        stage.kept += self.noise * T * D
        stage.gradient += gradient + _FLOAT * (heads + D) * model.bias
        turned = model.position == "rope" or model.qk_norm != "none"
        if turned:  # queries and keys are made anew, and the values' keep the product alive
            stage.kept += a * T * (heads - (heads - D) / 2)
        if model.qk_norm != "none":
            stage.kept += _FLOAT * T * (heads - (heads - D) / 2) * (2 if self.low else 1)
        stage.forward += a * T * 2 * heads
        stage.backward += a * T * (2 * heads + D)
        if model.dropout and self.device == "cpu":  # no kernel of the CPU drops: matrices are made
            scores = T * model.num_heads * model.context_length
            stage.kept += scores * (2 * a + self.noise)
            stage.forward += scores * a * 2
            stage.backward += scores * a * 2
        return stage

    def _ffn(self, width: int) -> _Stage:
        stage, inner = self._norm(), self._inner_ffn(width)
        stage.kept += inner.kept + self.noise * self.T * self.D
        stage.forward += inner.forward
        stage.backward += inner.backward
        stage.gradient += inner.gradient
        return stage

    def _inner_ffn(self, width: int) -> _Stage:
        """Without the norm before it."""
        T, D, a, columns = self.T, self.D, self.a, self.columns
        copies, gradient = self._linear(columns * D * width, width * D)
        hidden = columns + 1 + (1 if columns == 2 else 0)  # before and after; silu of the gates
        return _Stage(
            kept=a * T * width * hidden + copies,
            forward=a * T * D,
            backward=a * T * (width * (columns + 1) + D),
            gradient=gradient + _FLOAT * (columns * width + D) * self.config.model.bias,
        )

    def _mixture(self) -> _Stage:
        config, moe, T, D, a = self.config, self.config.moe, self.T, self.D, self.a
        total = moe.total_experts
        width = config.d_expert_on_gpu if self._grouped else config.d_expert
        A = T * moe.active_experts
        per_expert = (self.columns + 1) * D * config.d_expert
        copies, gradient = self._linear(total * per_expert)
        stage = self._norm()
        stage.kept += copies + a * A * width * (self.columns + 1) + self._routing()
        stage.gradient += gradient
        if config.model.bias:
            stage.gradient += _FLOAT * total * (self.columns * config.d_expert + D)
        if self.low:  # the router reads the float32 output of the norm, the experts a copy
            stage.kept += self.stream
        stage.kept += self.noise * T * D
        if self._grouped:
            stage.kept += a * A * (2 * D + (total if config.model.bias else 0))
            stage.kept += a * A * width * (1 if self.columns == 2 else 0)
            stage.forward += a * A * (D + self.columns * width)
            stage.backward += a * A * (2 * D + (self.columns + 1) * width)
        else:
            keeps_output = width >= 4 * D and moe.router_kind.scores
            stage.kept += a * A * D if keeps_output and not moe.routes_sequences else 0
            busiest = min(T, _BUSIEST * A / total)
            buffers = width + (self.columns * width if self.columns > 1 else 0)
            stage.forward += a * ((0 if keeps_output else A * D) + busiest * D)
            stage.backward += a * (A * D + busiest * (buffers + 3 * D))
        if self.low:
            stage.backward += 2 * total * per_expert  # gradients, before they become float32
        if moe.shared_experts:
            shared = self._inner_ffn(moe.shared_experts * config.d_expert)
            stage.kept += shared.kept
            stage.backward = max(stage.backward, shared.backward + 3 * self.stream)
            stage.gradient += shared.gradient
        if moe.router_kind.trains:
            stage.gradient += _FLOAT * total * D * (2 if moe.noisy_top_k else 1)
        return stage

    @property
    def _grouped(self) -> bool:
        return self.device == "cuda" and self.low

    def _routing(self) -> float:
        """Scores and what is made of them, and the order of the assignments."""
        config, moe = self.config, self.config.moe
        units = self.T // config.model.context_length if moe.routes_sequences else self.T
        chosen = moe.total_experts if moe.experts_choose else moe.active_experts
        order = _LONG * units * (4 * chosen + 1)
        if not moe.router_kind.scores:
            return order
        return order + units * _FLOAT * (4 * moe.total_experts + 4 * chosen)

    def _head(self, gradient: float) -> _Stage:
        """Logits, their logarithmic softmax in float32, and its gradient."""
        config = self.config
        counted = 1 - config.train.loss_start / config.model.context_length
        logits = counted * self.T * config.data.vocab_size
        copies, _ = self._linear(config.data.vocab_size * self.D)
        low = self.a if self.low else 0
        return _Stage(
            kept=_FLOAT * logits + copies + (self.stream * counted if counted < 1 else 0),
            forward=(_FLOAT + low) * logits,
            backward=max(
                2 * _FLOAT * logits,
                self.a * logits + self.stream + (2 * gradient / _FLOAT if self.low else 0),
            ),
            gradient=gradient,
        )

    def moments(self) -> int:
        """AdamW keeps two of each trained weight; Muon one of each matrix of the blocks."""
        trained = _FLOAT * account(self.config).params_total
        if not self.config.moe.router_kind.trains:
            trained -= _FLOAT * account(self.config).params_router
        if self.config.optim.name != "muon":
            return 2 * trained
        return 2 * trained - self._matrices()

    def _matrices(self) -> int:
        """Bytes of the matrices of the blocks."""
        config, model, moe = self.config, self.config.model, self.config.moe
        D, mixtures = self.D, len(self.config.moe_layers)
        attention = 2 * D * D + 2 * D * model.kv_heads * model.d_head
        of_width = (self.columns + 1) * D
        widths = (model.num_layers - mixtures) * config.d_ff_dense
        if mixtures:
            widths += mixtures * (moe.total_experts + moe.shared_experts) * config.d_expert
        routers = account(config).params_router if moe.router_kind.trains else 0
        return _FLOAT * (model.num_layers * attention + of_width * widths + routers)

    def evaluation_set(self, workers: int) -> int:
        """Token ids and targets of the held-out text, which stay on the device."""
        context = self.config.model.context_length
        tokens = math.ceil(self.config.train.eval_tokens / context) * context
        return 2 * _LONG * tokens // workers
