"""Names and layout of weights: ours, and those of files on the Hub, either from the other.

Every pair of names is one linear rearrangement (`apart`) and its inverse (`together`), so reading
undoes writing. Shapes:  N experts   D d_model   F width of an expert   P = 2F
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe.config import TrialConfig
from moe.interchange.architectures import Architecture

Parts = Sequence[Tensor]


@dataclass(frozen=True)
class Entry:
    """One tensor of ours, and the tensors that hold it there."""

    ours: str
    theirs: tuple[str, ...]
    apart: Callable[[Tensor], Parts] = lambda whole: [whole]
    together: Callable[[Parts], Tensor] = lambda parts: parts[0]


@dataclass(frozen=True)
class Zeros:
    """A tensor of theirs that none of ours answers to, and that adds nothing where it is zero."""

    theirs: str
    shape: tuple[int, ...]
    what: str


def _transposed(ours: str, theirs: str) -> Entry:
    return Entry(ours, (theirs,), lambda whole: [whole.t()], lambda parts: parts[0].t())


def _stacked(ours: str, theirs: Sequence[str], sizes: Sequence[int]) -> Entry:
    """Rows of several matrices, one above the other."""
    return Entry(ours, tuple(theirs), lambda whole: whole.split(list(sizes)), torch.cat)


def _doubled(ours: str, theirs: str) -> Entry:
    """Their sigmoid of zero halves it again; both are exact in floating point."""
    return Entry(ours, (theirs,), lambda whole: [whole * 2], lambda parts: parts[0] / 2)


def entries(config: TrialConfig, architecture: Architecture) -> list[Entry]:
    """Every tensor of a trained model of `config`."""
    if architecture.model_type == "gpt2":
        return list(_gpt2(config))
    return list(_llama(config, architecture))


def zeros(config: TrialConfig, architecture: Architecture) -> list[Zeros]:
    """What the architecture has beside what our model holds."""
    found: list[Zeros] = []
    d_model, experts = config.model.d_model, config.moe.total_experts
    for layer in config.moe_layers:
        mlp = f"model.layers.{layer}.mlp"
        if architecture.has_sigmoid_router:
            name = f"{mlp}.gate.e_score_correction_bias"
            found.append(Zeros(name, (experts,), "a bias on the choice of experts"))
        if architecture.model_type == "qwen2_moe":
            name = f"{mlp}.shared_expert_gate.weight"
            found.append(Zeros(name, (1, d_model), "a gate on the shared expert"))
        if architecture.has_shared and not config.moe.shared_experts:
            shared, width = f"{mlp}.{_shared_name(architecture)}", config.d_expert
            for part in ("gate_proj", "up_proj"):
                found.append(Zeros(f"{shared}.{part}.weight", (width, d_model), "a shared expert"))
            found.append(Zeros(f"{shared}.down_proj.weight", (d_model, width), "a shared expert"))
    return found


def _gpt2(config: TrialConfig) -> Iterator[Entry]:
    """GPT-2's Conv1D keeps weights as [in, out]."""
    names = {
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.project": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn.expand": "mlp.c_fc",
        "ffn.project": "mlp.c_proj",
    }
    yield Entry("token_embedding.weight", ("transformer.wte.weight",))
    yield Entry("position_embedding.weight", ("transformer.wpe.weight",))
    for i in range(config.model.num_layers):
        for ours, theirs in names.items():
            left, right = f"blocks.{i}.{ours}", f"transformer.h.{i}.{theirs}"
            if ours.endswith("norm"):
                yield Entry(f"{left}.weight", (f"{right}.weight",))
            else:
                yield _transposed(f"{left}.weight", f"{right}.weight")
            yield Entry(f"{left}.bias", (f"{right}.bias",))
    for leaf in ("weight", "bias"):
        yield Entry(f"final_norm.{leaf}", (f"transformer.ln_f.{leaf}",))
    if not config.model.tied_embeddings:
        yield Entry("head.weight", ("lm_head.weight",))


def _llama(config: TrialConfig, architecture: Architecture) -> Iterator[Entry]:
    """LLaMA, and what follows its names."""
    model = config.model
    d_kv = model.kv_heads * model.d_head
    yield Entry("token_embedding.weight", ("model.embed_tokens.weight",))
    for i in range(model.num_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        attention = f"{theirs}.self_attn"
        yield _stacked(
            f"{ours}.attention.qkv.weight",
            [f"{attention}.{letter}_proj.weight" for letter in "qkv"],
            [model.d_model, d_kv, d_kv],
        )
        yield Entry(f"{ours}.attention.project.weight", (f"{attention}.o_proj.weight",))
        if model.qk_norm != "none":
            yield Entry(f"{ours}.attention.query_norm.weight", (f"{attention}.q_norm.weight",))
            yield Entry(f"{ours}.attention.key_norm.weight", (f"{attention}.k_norm.weight",))
        yield Entry(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",))
        yield Entry(f"{ours}.ffn_norm.weight", (f"{theirs}.post_attention_layernorm.weight",))
        if i in config.moe_layers:
            yield from _mixture(config, architecture, ours, theirs)
        else:
            yield from _ffn(f"{ours}.ffn", f"{theirs}.mlp", config.d_ff_dense)
    yield Entry("final_norm.weight", ("model.norm.weight",))
    if not model.tied_embeddings:
        yield Entry("head.weight", ("lm_head.weight",))


def _ffn(ours: str, theirs: str, width: int) -> Iterator[Entry]:
    names = [f"{theirs}.gate_proj.weight", f"{theirs}.up_proj.weight"]
    yield _stacked(f"{ours}.expand.weight", names, [width, width])
    yield Entry(f"{ours}.project.weight", (f"{theirs}.down_proj.weight",))


def _mixture(
    config: TrialConfig, architecture: Architecture, ours: str, theirs: str
) -> Iterator[Entry]:
    is_mixtral = architecture.model_type == "mixtral"
    mlp = f"{theirs}.{'block_sparse_moe' if is_mixtral else 'mlp'}"
    gate, up, down = ("w1", "w3", "w2") if is_mixtral else ("gate_proj", "up_proj", "down_proj")
    experts = [f"{mlp}.experts.{n}" for n in range(config.moe.total_experts)]
    yield Entry(f"{ours}.ffn.router.weight", (f"{mlp}.gate.weight",))
    yield Entry(
        f"{ours}.ffn.experts.weight_in",
        tuple(f"{expert}.{part}.weight" for expert in experts for part in (gate, up)),
        lambda w_NDP: [half for w_DP in w_NDP for half in w_DP.t().chunk(2)],
        lambda parts: torch.stack(
            [torch.cat(pair).t() for pair in zip(parts[::2], parts[1::2], strict=True)]
        ),
    )
    yield Entry(
        f"{ours}.ffn.experts.weight_out",
        tuple(f"{expert}.{down}.weight" for expert in experts),
        lambda w_NFD: [w_FD.t() for w_FD in w_NFD],
        lambda parts: torch.stack([part.t() for part in parts]),
    )
    if config.moe.shared_experts:
        shared = f"{mlp}.{_shared_name(architecture)}"
        width = config.moe.shared_experts * config.d_expert
        expand, project = _ffn(f"{ours}.ffn.shared", shared, width)
        is_gated = architecture.model_type == "qwen2_moe"
        yield from (expand, _doubled(project.ours, project.theirs[0]) if is_gated else project)


def _shared_name(architecture: Architecture) -> str:
    return "shared_expert" if architecture.model_type == "qwen2_moe" else "shared_experts"


def to_theirs(
    config: TrialConfig, architecture: Architecture, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Their tensors, in float32, contiguous and by their names. Raises ValueError where a weight of
    the model has no place there: an export that leaves one out would be another model."""
    known = entries(config, architecture)
    if left := set(weights) - {entry.ours for entry in known}:
        raise ValueError(
            f"every weight has a place in {architecture.name}; received {', '.join(sorted(left))}, "
            "which have none. Export a trial whose model it has."
        )
    named: dict[str, Tensor] = {}
    for entry in known:
        parts = entry.apart(weights[entry.ours].detach().float())
        named |= dict(zip(entry.theirs, parts, strict=True))
    named |= {zero.theirs: torch.zeros(zero.shape) for zero in zeros(config, architecture)}
    return {name: tensor.contiguous().clone() for name, tensor in named.items()}


def to_ours(
    config: TrialConfig,
    architecture: Architecture,
    read: Callable[[str], Tensor | None],
) -> dict[str, Tensor]:
    """Our weights in float32; `read` gives a tensor of theirs by name, None where there is none.

    Raises ValueError where one is missing, or says what our model cannot.
    """
    found: dict[str, Tensor] = {}
    for entry in entries(config, architecture):
        parts = [read(name) for name in entry.theirs]
        if missing := [n for n, part in zip(entry.theirs, parts, strict=True) if part is None]:
            raise ValueError(
                f"a checkpoint of {architecture.name} holds all of its weights; "
                f"{', '.join(missing[:3])} is not in it. Give the whole folder."
            )
        found[entry.ours] = entry.together([part.float() for part in parts]).contiguous()
    for zero in zeros(config, architecture):
        tensor = read(zero.theirs)
        if tensor is not None and bool(tensor.count_nonzero()):
            raise ValueError(
                f"our models have no counterpart of {zero.what}, so {zero.theirs} must be zero; "
                f"received values up to {float(tensor.abs().max()):.3g}. Read another checkpoint."
            )
    return found
