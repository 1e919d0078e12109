"""Runs a trained model over a tokenized probe, and keeps which experts were chosen.

Shapes: B sequences of a batch, S their length, T tokens of the probe, M layers, K experts chosen,
N experts, D d_model, U routed units of a batch.

A sequence holds one document, or a window of one that is longer than the context; documents never
share a sequence. Nothing is padded: a batch holds sequences of one length, so that no padding can
reach the mean that a sequence is routed by.

A random router draws for each number that the caller passes. The sequences are dealt to these
numbers by chance: a number for each batch would tie the draw to length and order, and those to the
label (seen: an NMI of six times the null for untrained choices).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moe.analysis.analyze import Choices
from moe.config import TrialConfig
from moe.model.seeding import named_generator
from moe.model.transformer import MoETransformer
from moe.probes.alignment import TokenizedProbe
from moe.train.checkpoint import FINAL, load_checkpoint
from moe.train.evaluate import autocast
from moe.train.run_folder import DamagedError, Storage

BATCH_TOKENS = 8192
NUM_DRAWS = 32  # of a random router's weights


def load_final(run: Path | str) -> MoETransformer:
    """The trained model of a run's folder (a path or URI), in evaluation mode, on the CPU.

    Raises ValueError if the run has not left its final weights, or they are damaged.
    """
    storage = Storage.at(run)
    try:
        checkpoint = load_checkpoint(storage.location(FINAL))
    except (DamagedError, OSError) as error:
        raise ValueError(
            f"an analysis reads the final weights of a finished run; {storage}/{FINAL} does not "
            f"hold them: {error}. Finish the run, or give the folder of one that is."
        ) from None
    model = MoETransformer(checkpoint.config)
    model.load_state_dict(checkpoint.model)
    return model.eval()


@torch.no_grad()
def choose(
    model: MoETransformer,
    probe: TokenizedProbe,
    *,
    label_values: tuple[str, ...] = (),
    device: str = "cpu",
    batch_tokens: int = BATCH_TOKENS,
) -> Choices:
    """The experts of every token of the probe, in every MoE block.

    At sequence unit all tokens of a sequence have its experts; a sequence shorter than the prefix
    is routed by all it has.
    `label_values` are the values of the router's label column in the corpus that the model was
    trained on; a label router alone needs them.

    Beside them stands the baseline: what a linear router, drawn once and never trained, chooses
    from the same hidden states at the same unit.

    Raises ValueError for a dense model, tokens outside the vocabulary, or a label router whose
    label the documents lack.
    """
    config = model.config
    if not config.moe_layers:
        raise ValueError(
            "an analysis of experts needs a model that has some; received moe.num_experts=0. "
            "Leave dense cells out."
        )
    if config.moe.experts_choose:
        raise ValueError(
            "an analysis of experts follows what tokens choose; received moe.selection=expert, "
            "where a token's experts hang on the tokens beside it. Leave such cells out."
        )
    if (largest := int(probe.token_T.max())) >= config.data.vocab_size:
        raise ValueError(
            f"a probe is tokenized as the model's corpus was, with ids below "
            f"{config.data.vocab_size}; received the id {largest}. Use that tokenizer."
        )
    model = model.to(device).eval()
    start_S, length_S = _windows(probe.document_T, config.model.context_length)
    label_S = _router_labels(config, probe, probe.document_T[start_S], label_values)
    shape = (len(config.moe_layers), len(probe.token_T), config.moe.active_experts)
    dtype = np.int16 if config.moe.total_experts < 2**15 else np.int32
    expert_MTK, baseline_MTK = np.empty(shape, dtype), np.empty(shape, dtype)
    with _RandomLinear(model) as random_linear:
        for number, batch in _batches(length_S, _draws(config, len(length_S)), batch_tokens):
            length = length_S[batch[0]]
            token_BS = start_S[batch, None] + np.arange(length)
            ids_BS = torch.from_numpy(probe.token_T[token_BS]).to(device)
            label_B = None if label_S is None else torch.from_numpy(label_S[batch]).to(device)
            with autocast(config, device):
                _, decisions = model.hidden(ids_BS, label_B=label_B, step=number)
            for m, decision in enumerate(decisions):
                random_UK = random_linear.choose(m, decision.unit)
                for kept_MTK, index_UK in (
                    (expert_MTK, decision.expert_index),
                    (baseline_MTK, random_UK),
                ):
                    kept_MTK[m, token_BS.ravel()] = _of_tokens(index_UK, token_BS.size)
    return Choices(
        expert_MTK=expert_MTK,
        baseline_MTK=baseline_MTK,
        layers=config.moe_layers,
        num_experts=config.moe.total_experts,
        routing_unit=decisions[0].unit,
        token_T=probe.token_T,
        label_T=probe.label_T,
        labels=probe.labels,
        labelled_unit=probe.labelled_unit,
        unit_T=probe.unit_T,
        document_T=probe.document_T,
        sequence_T=np.repeat(np.arange(len(length_S)), length_S),
        language_T=_languages(probe),
    )


def _languages(probe: TokenizedProbe) -> np.ndarray | None:
    """That of each token's document; None where some have none, or where it is the label."""
    given = [attributes.get("language", "") for attributes in probe.attributes]
    if not all(given) or set(given) == set(probe.labels):
        return None
    return np.unique(given, return_inverse=True)[1][probe.document_T]


def _windows(document_T: np.ndarray, context_length: int) -> tuple[np.ndarray, np.ndarray]:
    """First token and length of each sequence, in the order of the tokens."""
    new_T = np.flatnonzero(np.diff(document_T, prepend=-1))
    first_T = np.repeat(new_T, np.diff(new_T, append=len(document_T)))
    start_S = np.flatnonzero((np.arange(len(document_T)) - first_T) % context_length == 0)
    return start_S, np.diff(start_S, append=len(document_T))


def _draws(config: TrialConfig, num_sequences: int) -> np.ndarray:
    """The number that each sequence is run under; only a router that redraws heeds it."""
    if not config.moe.router_kind.redraws:
        return np.zeros(num_sequences, dtype=np.int64)
    return np.random.default_rng(0).integers(NUM_DRAWS, size=num_sequences)


def _batches(
    length_S: np.ndarray, draw_S: np.ndarray, batch_tokens: int
) -> Iterator[tuple[int, np.ndarray]]:
    """A number, and sequences of one length with that number: as many as fit into `batch_tokens`,
    and at least one."""
    order_S = np.lexsort((draw_S, length_S))
    changes = np.diff(length_S[order_S]) | np.diff(draw_S[order_S])
    for alike in np.split(order_S, np.flatnonzero(changes) + 1):
        size = max(1, batch_tokens // int(length_S[alike[0]]))
        for start in range(0, len(alike), size):
            yield int(draw_S[alike[0]]), alike[start : start + size]


def _of_tokens(index_UK: Tensor, num_tokens: int) -> np.ndarray:
    return index_UK.repeat_interleave(num_tokens // len(index_UK), dim=0).cpu().numpy()


def _router_labels(
    config: TrialConfig,
    probe: TokenizedProbe,
    document_S: np.ndarray,
    label_values: tuple[str, ...],
) -> np.ndarray | None:
    if not config.moe.follows_labels:
        return None
    column = config.moe.label_column
    index_of = {value: i for i, value in enumerate(label_values)}
    given = [attributes.get(column) for attributes in probe.attributes]
    if unknown := [value for value in given if value not in index_of]:
        raise ValueError(
            f"moe.router={config.moe.router} routes by {column!r}, so every document of the "
            f"probe needs one of its values ({', '.join(label_values) or 'none were passed'}); "
            f"received {unknown[0]!r}. Use a probe that has them, or leave this cell out."
        )
    return np.array([index_of[value] for value in given], dtype=np.int64)[document_S]


class _RandomLinear:
    """A random linear router beside each block's own, on the same input, without any effect."""

    def __init__(self, model: MoETransformer) -> None:
        self.layers = model.moe_layers()
        moe, d_model = model.config.moe, model.config.model.d_model
        self.top_k = moe.active_experts
        self.prefix_length = moe.prefix_length if moe.uses_prefix else None
        self.decides = [layer.router is not None for layer in self.layers]
        self.weight_MND = [
            torch.randn(moe.total_experts, d_model, generator=named_generator(0, "baseline", m))
            for m in range(len(self.layers))
        ]
        self.input_MBSD: list[Tensor] = [torch.empty(0)] * len(self.layers)

    def __enter__(self) -> _RandomLinear:
        self._hooks = [
            layer.register_forward_pre_hook(self._keeper(m)) for m, layer in enumerate(self.layers)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keeper(self, m: int):
        def keep(_: torch.nn.Module, inputs: tuple) -> None:
            self.input_MBSD[m] = inputs[0]

        return keep

    def choose(self, m: int, unit: str) -> Tensor:
        """[U, K]; a block that follows the first one's decision follows its baseline too."""
        m = m if self.decides[m] else 0
        x_BSD = self.input_MBSD[m].float()
        is_token = unit == "token"
        x_UD = x_BSD.flatten(0, 1) if is_token else x_BSD[:, : self.prefix_length].mean(1)
        return F.linear(x_UD, self.weight_MND[m].to(x_UD.device)).topk(self.top_k).indices
