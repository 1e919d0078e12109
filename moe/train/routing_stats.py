"""Router health: what experts get to do on the evaluation set, and how it changed in training.

L MoE blocks, N experts after granularity, K chosen per routed unit, U routed units of the probe,
E evaluations. n_e = assignments to expert e, counted in tokens; f_e = n_e / sum_e n_e;
p_te = router probability of expert e for unit t, softmax over all N.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from moe import metrics as names

if TYPE_CHECKING:
    from moe.model.transformer import Routing

PROBE_UNITS = 512


class RoutingTotals:
    """Sums over one evaluation's batches, on the device, in one tensor that ranks add at once."""

    def __init__(self, num_blocks: int, num_experts: int, device: str) -> None:
        self.num_experts = num_experts
        # Counts, probabilities; largest probability, units with one; choices, those dropped, units,
        # those that no expert serves.
        width = 2 * num_experts + 6
        self.sums_LW = torch.zeros(num_blocks, width, dtype=torch.float64, device=device)

    def add(self, routing: Sequence[Routing]) -> None:
        n = self.num_experts
        for sums_W, block in zip(self.sums_LW, routing, strict=True):
            sums_W[:n] += block.counts_N
            if block.probs is not None:
                sums_W[n : 2 * n] += block.probs.sum(0, dtype=torch.float64)
                sums_W[2 * n] += block.probs.amax(1).sum(dtype=torch.float64)
                sums_W[2 * n + 1] += len(block.probs)
            if block.served_N is not block.counts_N:
                sums_W[2 * n + 2] += block.counts_N.sum()
                sums_W[2 * n + 3] += (block.counts_N - block.served_N).sum()
            if block.kept is not None:
                sums_W[2 * n + 4] += len(block.kept)
                sums_W[2 * n + 5] += len(block.kept) - block.kept.any(1).sum()


@dataclass(frozen=True, kw_only=True)
class RoutingSnapshot:
    """The routers at one evaluation. NaN where a router has no probabilities, or no bias, or where
    every choice takes place. A probe holds -1 where one does not."""

    load_LN: np.ndarray
    probability_LN: np.ndarray
    confidence_L: np.ndarray
    bias_LN: np.ndarray
    probe_LUK: np.ndarray
    dropped_L: np.ndarray
    unserved_L: np.ndarray

    @classmethod
    def of(
        cls, totals: RoutingTotals, bias_LN: Tensor | None, probe_LUK: Tensor
    ) -> RoutingSnapshot:
        """From sums over all batches and ranks. The one place where a device is waited for."""
        n = totals.num_experts
        sums_LW = totals.sums_LW.cpu().numpy()
        counts_LN, units_L1 = sums_LW[:, :n], sums_LW[:, 2 * n + 1 : 2 * n + 2]
        choices_L, dropped_L, limited_L, unserved_L = sums_LW[:, 2 * n + 2 :].T
        units_L1 = np.where(units_L1 > 0, units_L1, np.nan)
        missing_LN = np.full_like(counts_LN, np.nan)
        return cls(
            load_LN=counts_LN / counts_LN.sum(1, keepdims=True),
            probability_LN=sums_LW[:, n : 2 * n] / units_L1,
            confidence_L=sums_LW[:, 2 * n] / units_L1[:, 0],
            bias_LN=missing_LN if bias_LN is None else bias_LN.double().cpu().numpy(),
            probe_LUK=probe_LUK.cpu().numpy().astype(np.int16),
            dropped_L=dropped_L / np.where(choices_L > 0, choices_L, np.nan),
            unserved_L=unserved_L / np.where(limited_L > 0, limited_L, np.nan),
        )

    def health(self) -> dict[str, float]:
        """The scalars of METRICS that there are for any router: confidence where there are
        probabilities (2408.15664), and what is dropped where that may be."""
        num_experts = self.load_LN.shape[1]
        values = {
            names.LOAD_ENTROPY: float(np.mean([_entropy(load_N) for load_N in self.load_LN])),
            names.MAX_VIOLATION: float(np.mean(self.load_LN.max(1) * num_experts - 1)),
            names.DEAD_EXPERTS: float(np.sum(self.load_LN < 1 / (10 * num_experts))),
        }
        if np.isfinite(self.confidence_L).all():
            values[names.CONFIDENCE] = float(np.mean(self.confidence_L))
        for name, share_L in (
            (names.DROPPED, self.dropped_L),
            (names.UNSERVED, self.unserved_L),
        ):
            if np.isfinite(share_L).all():
                values[name] = float(np.mean(share_L))
        return values


def _entropy(load_N: np.ndarray) -> float:
    """-sum f ln f / ln N; a single expert is evenly loaded."""
    if len(load_N) == 1:
        return 1.0
    used = load_N[load_N > 0]
    return float(-(used * np.log(used)).sum() / math.log(len(load_N)))


def saturation(now_LUK: np.ndarray, final_LUK: np.ndarray) -> float:
    """Share of a unit's K choices that it will also make at the end (OLMoE, 2409.02060).

    Mean over blocks and choices; 1 if equal, K/N by chance. The K choices of a unit differ; -1 is
    none. NaN where no unit has any.
    """
    made_LUK = now_LUK >= 0
    if not made_LUK.any():
        return math.nan
    return float((now_LUK[..., :, None] == final_LUK[..., None, :]).any(-1)[made_LUK].mean())


@dataclass(kw_only=True)
class RoutingHistory:
    """All snapshots of a run, for the arrays that are too many for scalar metrics."""

    layers: tuple[int, ...]  # index of each MoE block in the decoder
    steps: list[int] = field(default_factory=list)
    snapshots: list[RoutingSnapshot] = field(default_factory=list)

    def add(self, step: int, snapshot: RoutingSnapshot) -> None:
        self.steps.append(step)
        self.snapshots.append(snapshot)

    def saturations(self) -> dict[int, float]:
        """`saturation` of each evaluation's probe against the last one's, by step; NaN where no
        expert chose any of the probe."""
        return {
            step: saturation(snapshot.probe_LUK, self.snapshots[-1].probe_LUK)
            for step, snapshot in zip(self.steps, self.snapshots, strict=True)
        }

    def to_parquet(self) -> bytes:
        """One row per (step, layer, expert); null where a router has no probability or bias."""
        shape = (len(self.steps), len(self.layers), self.snapshots[0].load_LN.shape[1])
        step, layer, expert = np.indices(shape).reshape(3, -1)

        def column(name: str) -> pa.Array:
            values = np.stack([getattr(snapshot, name) for snapshot in self.snapshots])
            return pa.array(values.reshape(-1), from_pandas=True)  # NaN becomes null

        table = pa.table(
            {
                "step": np.asarray(self.steps, dtype=np.int64)[step],
                "layer": np.asarray(self.layers, dtype=np.int32)[layer],
                "expert": expert.astype(np.int32),
                "load": column("load_LN"),
                "mean_probability": column("probability_LN"),
                "bias": column("bias_LN"),
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        return buffer.getvalue()

    def to_tensors(self) -> dict[str, Tensor]:
        """For a checkpoint: each array stacked over the evaluations."""
        if not self.snapshots:
            return {}
        arrays = {
            name: torch.from_numpy(np.stack([vars(snapshot)[name] for snapshot in self.snapshots]))
            for name in RoutingSnapshot.__dataclass_fields__
        }
        return {"steps": torch.tensor(self.steps)} | arrays

    @classmethod
    def from_tensors(cls, layers: tuple[int, ...], tensors: dict[str, Tensor]) -> RoutingHistory:
        history = cls(layers=layers)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        if tensors:
            missing = np.full(arrays["confidence_L"].shape, np.nan)  # in checkpoints of before
            arrays = {"dropped_L": missing, "unserved_L": missing} | arrays
        for i, step in enumerate(arrays.pop("steps", [])):
            snapshot = RoutingSnapshot(**{name: array[i] for name, array in arrays.items()})
            history.add(int(step), snapshot)
        return history
