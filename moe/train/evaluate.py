"""One evaluation: the loss over the fixed held-out set, and the routers on it.

B sequences of a batch, S context, L MoE blocks, N experts, U routed units of the probe, K chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moe import metrics as names
from moe.config import TrialConfig
from moe.data.labels import MIXTURE, PART_COLUMN
from moe.data.layout import Split
from moe.data.token_store import Batch, EvaluationBatch, TokenStore
from moe.model.transformer import MoETransformer
from moe.train.distributed import World, sum_over_ranks
from moe.train.document_losses import DocumentLosses
from moe.train.routing_stats import PROBE_UNITS, RoutingSnapshot, RoutingTotals


@dataclass(frozen=True)
class DeviceBatch:
    """A batch on the device. `label_B` is None unless the router follows labels."""

    ids_BS: Tensor
    targets_BS: Tensor
    label_B: Tensor | None

    @classmethod
    def of(cls, batch: Batch, config: TrialConfig, device: str) -> DeviceBatch:
        def move(values: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(np.ascontiguousarray(values))
            if torch.device(device).type == "cpu":
                return tensor
            return tensor.pin_memory().to(device, non_blocking=True)

        moe = config.moe
        label_B = move(batch.labels[moe.label_column]) if moe.follows_labels else None
        return cls(move(batch.ids_BS), move(batch.targets_BS), label_B)


def autocast(config: TrialConfig, device: str) -> AbstractContextManager:
    return torch.autocast(
        torch.device(device).type,
        dtype=torch.bfloat16,
        enabled=config.train.precision == "bf16",
    )


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, the same on all ranks; `routing` is None for a dense model.
    `documents` are told where that was asked for."""

    metrics: dict[str, float]
    routing: RoutingSnapshot | None
    documents: DocumentLosses | None = None


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A batch of this rank: its number among all, its first sequence's, and its part's."""

    index: int
    first_sequence: int
    part: int
    batch: DeviceBatch


class EvaluationSet:
    """The held-out sequences of a run, moved to the device once.

    Of a mixture no batch holds sequences of two parts, so that each part has a loss of its own.

    Batch i belongs to rank i modulo the number of ranks. Sums over the ranks give each of them the
    same numbers, and a random router draws by the batch's index, so the result does not depend on
    who computed it (its last bits apart, as the order of a sum does).
    """

    def __init__(
        self, config: TrialConfig, store: TokenStore, world: World, split: Split = "val"
    ) -> None:
        """Raises ValueError if the store holds out less than one sequence."""
        self.config = config
        self.world = world
        self.split = split
        self.num_sequences = 0
        self.counted_bytes = 0
        self.parts = parts_of(store)
        self._own: list[_Held] = []
        documents: list[np.ndarray] = []
        context = config.model.context_length
        batches = store.eval_batches(
            context_length=context,
            num_tokens=config.train.eval_tokens,
            sequences_per_batch=config.train.micro_batch_tokens // context,
            split=split,
        )
        for index, (part, batch) in enumerate(_by_part(batches, self.parts)):
            if index % world.size == world.rank:
                self._own.append(
                    _Held(
                        index=index,
                        first_sequence=self.num_sequences,
                        part=part,
                        batch=DeviceBatch.of(batch, config, world.device),
                    )
                )
            documents.append(batch.document_B)
            self.counted_bytes += int(batch.bytes_BS[:, config.train.loss_start :].sum())
            self.num_sequences += len(batch.ids_BS)
        self._document_U = np.concatenate(documents)
        # Workers of a sharded model gather its weights together: all make as many passes.
        most = -(-(index + 1) // world.size)
        self._idle = most - len(self._own) if world.is_sharded else 0

    def evaluate(self, model: MoETransformer, *, by_document: bool = False) -> Evaluation:
        """Dropout off and no generator drawn from, so that evaluating does not change training."""
        model.eval()
        with torch.no_grad():
            evaluation = self._evaluate(model, by_document)
            if self.config.moe_layers and self.config.moe.reads_whole_sequences:
                evaluation.metrics[names.VAL_LOSS_CAUSAL] = self._causal_loss(model)
        model.train()
        return evaluation

    def _causal_loss(self, model: MoETransformer) -> float:
        """The loss with every position routed by the mean up to it."""
        sum_and_count = torch.zeros(2, dtype=torch.float64, device=self.world.device)
        for held in self._own:
            with autocast(self.config, self.world.device):
                output = model(
                    held.batch.ids_BS, held.batch.targets_BS, step=held.index, routes_causally=True
                )
            sum_and_count += torch.stack(
                (output.loss_sum.double(), torch.full_like(output.loss_sum, output.count).double())
            )
        self._idle_passes(model)
        loss_sum, count = sum_over_ranks(sum_and_count, self.world).tolist()
        return loss_sum / count

    def _idle_passes(self, model: MoETransformer) -> None:
        """Forward passes for nothing, as many as other workers have batches more."""
        for _ in range(self._idle):
            ids_BS = torch.zeros(
                (1, self.config.model.context_length), dtype=torch.int64, device=self.world.device
            )
            label_B = ids_BS[:, 0] if self.config.moe.follows_labels else None
            with autocast(self.config, self.world.device):
                model(ids_BS, ids_BS, label_B=label_B)

    def _evaluate(self, model: MoETransformer, by_document: bool) -> Evaluation:
        config, world = self.config, self.world
        # A row a part, and one for all of them
        shape = (1 + len(self.parts), 2)
        loss_sum_and_count = torch.zeros(shape, dtype=torch.float64, device=world.device)
        blocks = len(config.moe_layers)
        totals = RoutingTotals(blocks, config.moe.total_experts, world.device)
        probe_LUK = self._empty_probe()
        loss_sum_U = torch.zeros(self.num_sequences, dtype=torch.float64, device=world.device)
        for held in self._own:
            batch = held.batch
            with autocast(config, world.device):
                output = model(
                    batch.ids_BS,
                    batch.targets_BS,
                    label_B=batch.label_B,
                    step=held.index,
                    by_sequence=by_document,
                )
            if by_document:
                own = slice(held.first_sequence, held.first_sequence + len(batch.ids_BS))
                loss_sum_U[own] = output.loss_sum_B
            for row in {0, held.part}:
                loss_sum_and_count[row, 0] += output.loss_sum
                loss_sum_and_count[row, 1] += output.count
            totals.add(output.routing)
            first_unit = held.first_sequence * self._units_per_sequence
            for probe_UK, block in zip(probe_LUK, output.routing, strict=True):
                window_UK = probe_UK[first_unit : first_unit + len(block.expert_index)]
                window_UK.copy_(block.passed[: len(window_UK)])
        self._idle_passes(model)
        sum_over_ranks(loss_sum_and_count, world)
        (loss_sum, count), *of_parts = loss_sum_and_count.tolist()
        values = {
            names.VAL_LOSS: loss_sum / count,
            names.VAL_PERPLEXITY: names.perplexity(loss_sum / count),
            names.VAL_BITS_PER_BYTE: loss_sum / (math.log(2) * self.counted_bytes),
        }
        values |= {
            names.loss_of_part(name): of_part / number
            for name, (of_part, number) in zip(self.parts, of_parts, strict=True)
            if number  # a part without a held-out sequence has no loss
        }
        documents = None
        if by_document:
            documents = self._documents(sum_over_ranks(loss_sum_U, world).cpu().numpy())
        if not blocks:
            return Evaluation(values, None, documents)
        sum_over_ranks(totals.sums_LW, world)
        sum_over_ranks(probe_LUK, world)
        snapshot = RoutingSnapshot.of(totals, model.router_bias(), probe_LUK)
        return Evaluation(values | snapshot.health(), snapshot, documents)

    def _documents(self, loss_sum_U: np.ndarray) -> DocumentLosses:
        document_D, place_U = np.unique(self._document_U, return_inverse=True)
        counted = self.config.model.context_length - self.config.train.loss_start
        return DocumentLosses(
            split=self.split,
            document_D=document_D,
            loss_sum_D=np.bincount(place_U, weights=loss_sum_U),
            tokens_D=np.bincount(place_U) * counted,
        )

    @property
    def _units_per_sequence(self) -> int:
        return 1 if self.config.moe.routes_sequences else self.config.model.context_length

    def _empty_probe(self) -> Tensor:
        """[L, U, K]: each rank fills in its own units, so that a sum over ranks completes it."""
        num_units = min(PROBE_UNITS, self.num_sequences * self._units_per_sequence)
        moe = self.config.moe
        most = moe.total_experts if moe.experts_choose else moe.active_experts
        shape = (len(self.config.moe_layers), num_units, most)
        return torch.zeros(shape, dtype=torch.int64, device=self.world.device)


def parts_of(store: TokenStore) -> tuple[str, ...]:
    """Names of the parts of a mixture; none of another corpus."""
    is_mixture = store.meta["corpus"].get("kind") == MIXTURE
    told = is_mixture and PART_COLUMN in store.sequence_labels
    return store.label_values(PART_COLUMN) if told else ()


def _by_part(
    batches: Iterable[EvaluationBatch], parts: tuple[str, ...]
) -> Iterator[tuple[int, EvaluationBatch]]:
    """Batches of one part each, with its number from 1; 0 without parts."""
    for batch in batches:
        if not parts:
            yield 0, batch
            continue
        part_B = batch.labels[PART_COLUMN]
        for part in np.unique(part_B):
            rows = part_B == part
            yield (
                int(part) + 1,
                EvaluationBatch(
                    ids_BS=batch.ids_BS[rows],
                    targets_BS=batch.targets_BS[rows],
                    bytes_BS=batch.bytes_BS[rows],
                    document_B=batch.document_B[rows],
                    labels={name: label_B[rows] for name, label_B in batch.labels.items()},
                ),
            )
