"""Weights of a mixture that starts from a dense model (2212.05055).

Shapes:  N experts   D d_model   F width of an expert and of the dense FFN   P columns, F or 2F
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from moe.model.transformer import MoETransformer

# Ours, and of the dense FFN what each expert is a copy of; matrices of experts are transposed.
_COPIES = {
    "experts.weight_in": "expand.weight",
    "experts.bias_in": "expand.bias",
    "experts.weight_out": "project.weight",
    "experts.bias_out": "project.bias",
}


def upcycle(model: MoETransformer, dense: Mapping[str, Tensor]) -> None:
    """Gives `model`, as it was initialised, the weights `dense` of a dense model (its state dict).

    Every expert becomes the dense FFN; routers stay as they began, so with gates that sum to one
    the mixture computes what the dense model did. Raises ValueError where a weight has no place.
    """
    state = model.state_dict()
    left = set(dense)
    for layer in range(model.config.model.num_layers):
        for ours, theirs in _COPIES.items():
            name, source = f"blocks.{layer}.ffn.{ours}", f"blocks.{layer}.ffn.{theirs}"
            if name in state and source in dense:
                expert = dense[source].t() if dense[source].ndim == 2 else dense[source]
                state[name] = expert.expand_as(state[name]).clone()
                left.discard(source)
    for name in set(dense) & set(state):
        state[name] = dense[name]
        left.discard(name)
    if left:
        raise ValueError(
            "every weight of a dense model has a place in the mixture that starts from it; "
            f"received {', '.join(sorted(left))}. Name another dense trial."
        )
    model.load_state_dict(state)
