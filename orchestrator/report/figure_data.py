"""What the figures of a launch show: from its records, routing arrays and rows, as arrays.

Complete trials alone count, of one code digest, as for the verdicts. What is missing is not made
up: a trial without some array is not among the seeds of that figure.

S seeds, E evaluations, M MoE blocks, N experts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moe.train.run_folder import ROUTING_FILE
from orchestrator.base.home import Home
from orchestrator.report.judge import counted
from orchestrator.report.statistics import mean_interval, paired_differences
from orchestrator.stores.trial_record import TrialRecord

if TYPE_CHECKING:
    from orchestrator.report.records import LaunchRecords

MOST_SAMPLED = 12  # cells of a sampled study that are shown, the best first
_BALANCE = "moe.balance"

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class CellTrials:
    """One configuration with a complete trial a seed, in order of seed."""

    name: str
    trials: list[TrialRecord]

    @property
    def corpus_digest(self) -> str | None:
        """See `TrialRecord.corpus_digest`."""
        return self.trials[0].corpus_digest

    @property
    def violates(self) -> bool:
        """Whether it violates a constraint of its study."""
        return any(record.violates for record in self.trials)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One cell over training; `low_E` and `high_E` are None at one seed."""

    cell: str
    n: int
    x_E: np.ndarray
    mean_E: np.ndarray
    low_E: np.ndarray | None
    high_E: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One cell's row: a value a seed, their mean, and its interval (None at one seed)."""

    cell: str
    values: Sequence[float]
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Load:
    """One cell's shares of assignments, experts in order of rank. `layers` names the blocks."""

    cell: str
    layers: Sequence[int]
    x_E: np.ndarray
    load_SEMN: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Specialization:
    """One cell's NMI, the band of its permutation null, and what a random router shows.

    `above_SM`: whether a seed's NMI is above the 97.5% of its own null: the band goes over the
    nulls of all seeds, and may hold a seed that is above its own."""

    cell: str
    layers: Sequence[int]
    nmi_SM: np.ndarray
    null_low_M: np.ndarray
    null_high_M: np.ndarray
    random_M: np.ndarray | None
    above_SM: np.ndarray


def complete_cells(launch: LaunchRecords) -> list[CellTrials]:
    """In the order in which cells were asked for; of a sampled study the best, best first, of each
    corpus.

    Of a name that has stood for two configurations, the newest.
    """
    records = counted(launch.trials)
    newest = {record.cell: record.cell_hash for record in records}
    groups: dict[str, dict[int, TrialRecord]] = {}
    for record in records:
        if record.cell_hash == newest[record.cell]:
            groups.setdefault(record.cell, {})[record.seed] = record
    cells = [
        CellTrials(name=name, trials=[of[seed] for seed in sorted(of)])
        for name, of in groups.items()
    ]
    if launch.info.attributes.get("sampled"):
        cost = launch.measure.cost
        cells.sort(key=lambda cell: (cell.violates, cost(np.mean([r.value for r in cell.trials]))))
        corpora = list(dict.fromkeys(cell.corpus_digest for cell in cells))
        cells.sort(key=lambda cell: corpora.index(cell.corpus_digest))
        most = max(1, MOST_SAMPLED // max(1, len(corpora)))
        by_corpus = ([c for c in cells if c.corpus_digest == digest][:most] for digest in corpora)
        cells = list(chain.from_iterable(by_corpus))
    return cells


def curve_of(cell: CellTrials, x_per_step: float, is_loss: bool) -> Curve | None:
    """Over the steps that all seeds have; of a loss the perplexity, and that of its mean."""
    trials = [r for r in cell.trials if r.curve]
    steps = sorted(set.intersection(*(set(r.curve) for r in trials))) if trials else []
    if not steps:
        return None
    value_SE = np.array([[r.curve[step] for step in steps] for r in trials])
    shown = np.exp if is_loss else np.asarray
    several = len(trials) > 1
    return Curve(
        cell=cell.name,
        n=len(trials),
        x_E=np.array(steps) * x_per_step,
        mean_E=shown(value_SE.mean(axis=0)),
        low_E=shown(value_SE.min(axis=0)) if several else None,
        high_E=shown(value_SE.max(axis=0)) if several else None,
    )


def interval_of(cell: CellTrials) -> Interval:
    return _interval(cell.name, [r.final for r in cell.trials])


def differences_of(cells: Sequence[CellTrials], reference: str | None) -> list[Interval]:
    """Each cell minus the reference at the seeds that both have, on the reference's corpus; none
    without a reference."""
    own = next((cell.corpus_digest for cell in cells if cell.name == reference), None)
    cells = [cell for cell in cells if cell.corpus_digest == own]
    values = {cell.name: {r.seed: r.final for r in cell.trials} for cell in cells}
    if reference not in values:
        return []
    found = {
        name: list(paired_differences(of_cell, values[reference]).values())
        for name, of_cell in values.items()
        if name != reference
    }
    return [_interval(name, differences) for name, differences in found.items() if differences]


def load_of(cell: CellTrials, home: Home, x_per_step: float) -> Load | None:
    """Shares of assignments by rank of expert, of the seeds whose routing arrays are in the home.

    Expert 0 of one seed has nothing to do with expert 0 of another, so that a mean over expert
    numbers would show an even load where every seed has collapsed onto other experts. The mean is
    over ranks instead: an expert's rank is by its load over all evaluations, in its seed and layer.
    """
    found = [
        array for r in cell.trials if (array := _read_load(_routing_file(home, r))) is not None
    ]
    if not found:
        return None
    steps, layers, shape = found[0][0], found[0][1], found[0][2].shape
    load_SEMN = np.stack([load for _, _, load in found if load.shape == shape])
    rank_SMN = np.argsort(-load_SEMN.mean(axis=1), axis=2, kind="stable")
    return Load(
        cell=cell.name,
        layers=layers,
        x_E=np.array(steps) * x_per_step,
        load_SEMN=np.take_along_axis(load_SEMN, rank_SMN[:, None], axis=3),
    )


def balance_pairs(
    cells: Sequence[CellTrials], *, tuned: Collection[str] = ()
) -> list[tuple[str, str]]:
    """Cells that differ in their balance loss and in nothing else, but for paths that were `tuned`
    for each; the one without comes first."""

    def rest(cell: CellTrials) -> dict[str, Any]:
        own = {"corpus_digest": cell.corpus_digest}
        params = {k: v for k, v in cell.trials[0].params.items() if k not in tuned}
        return own | {k: v for k, v in params.items() if not k.startswith(_BALANCE)}

    def kind(cell: CellTrials) -> str | None:
        return cell.trials[0].params.get(_BALANCE)

    return [
        (a.name, b.name)
        for a in cells
        if kind(a) == "none"
        for b in cells
        if kind(b) not in (None, "none") and rest(a) == rest(b)
    ]


def specializations(cells: Sequence[CellTrials], rows: Rows) -> list[Specialization]:
    """One entry a cell that was analysed on one probe, in the order of the cells.

    The null band spans the bands of all seeds.
    """
    panels = []
    for cell in cells:
        by_seed: dict[int, dict[int, Mapping[str, Any]]] = {}
        for row in rows:
            if row["cell"] == cell.name and row["layer"] is not None:
                by_seed.setdefault(row["seed"], {})[row["layer"]] = row
        seeds = [by_seed[r.seed] for r in cell.trials if r.seed in by_seed]
        if not seeds:
            continue
        layers = sorted(set.intersection(*map(set, seeds)))
        column = {
            key: np.array(
                [[_number(of[layer].get(key)) for layer in layers] for of in seeds], dtype=float
            )
            for key in ("nmi", "nmi_null_low", "nmi_null_high", "nmi_random_router")
        }
        needed = np.stack([column[key] for key in ("nmi", "nmi_null_low", "nmi_null_high")])
        kept = np.isfinite(needed).all(axis=(0, 2))
        if not layers or not kept.any():
            continue
        random_M = column["nmi_random_router"][kept].mean(axis=0)
        panels.append(
            Specialization(
                cell=cell.name,
                layers=layers,
                nmi_SM=column["nmi"][kept],
                null_low_M=column["nmi_null_low"][kept].min(axis=0),
                null_high_M=column["nmi_null_high"][kept].max(axis=0),
                above_SM=column["nmi"][kept] > column["nmi_null_high"][kept],
                random_M=random_M if np.isfinite(random_M).all() else None,
            )
        )
    return panels


def tokens_per_step(trials: Sequence[TrialRecord], home: Home) -> float | None:
    """Of a cell. A reused trial trained no token here, but its config may be in the home."""
    for record in trials:
        if record.batch_tokens:
            return float(record.batch_tokens)
        if record.tokens and record.curve:
            return record.tokens / max(record.curve)
        try:
            folder = home.run_folder(record.config_hash, record.code_digest)
            config = json.loads((folder / "config.json").read_text())
            return float(config["train"]["batch_tokens"])
        except (OSError, ValueError, KeyError):
            continue
    return None


def _interval(name: str, values: list[float]) -> Interval:
    found = mean_interval(values)
    return Interval(cell=name, values=values, mean=found.mean, low=found.low, high=found.high)


def _number(value: Any) -> float:
    return math.nan if value is None else value


def _routing_file(home: Home, record: TrialRecord) -> Path:
    return home.run_folder(record.config_hash, record.code_digest) / ROUTING_FILE


def _read_load(path: Path) -> tuple[list[int], list[int], np.ndarray] | None:
    """Steps, layers and load [E, M, N]; None where there are none, or the file is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["step", "layer", "expert", "load"])
    except (OSError, pa.ArrowException):
        return None
    step, layer, expert, load = (column.to_numpy() for column in table.columns)
    (steps, e), (layers, m) = (np.unique(x, return_inverse=True) for x in (step, layer))
    load_EMN = np.full((len(steps), len(layers), int(expert.max(initial=-1)) + 1), np.nan)
    load_EMN[e, m, expert] = load
    if load_EMN.size == 0 or not np.isfinite(load_EMN).all():
        return None
    return steps.tolist(), layers.tolist(), load_EMN
