"""Which trials are of the study as it is asked now, and which of a configuration that it had.

A study file may be edited between two runs of one launch: then a cell's name, or a sampled study's
base, has stood for two configurations. Those of before stay in the record. Here they get the name
that tells them apart, "slow (optim.warmup_steps=2)", and nothing is judged by them: neither a claim
or a table, nor the next point of a sampler or a trial that early stopping looks at.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from moe.config import ConfigError, TrialConfig
from moe.identity import told
from orchestrator.base.home import Home
from orchestrator.stores.optuna_launches import BASE, CURRENT
from orchestrator.stores.trial_record import CELL_HASH, CONFIG, TrialRecord

MOST_NAMED = 4
Values = Mapping[str, Any]  # of a config, those that differ from their axis's default


def told_apart(
    records: Iterable[TrialRecord], attributes: Mapping[str, Any], home: Home
) -> list[TrialRecord]:
    """The records of a launch, those of an older configuration under a name of their own.

    `attributes` are the launch's. Of a grid, the configuration of a cell is what its last driver
    asked for, or where it did not say so, that of the cell's newest trial. Records that were told
    apart already are told apart anew.
    """
    records = [_as_asked(record) for record in sorted(records, key=lambda r: r.number)]
    if attributes.get("sampled"):
        base = attributes.get(BASE)
        if base is None:
            return records
        axes = {"data.digest", *(path for record in records for path in record.params)}
        return [_of_base(record, base, axes) for record in records]
    newest = {record.cell: record for record in records}
    stated = attributes.get(CURRENT) or {}
    found = []
    for record in records:
        last, now = newest[record.cell], stated.get(record.cell)
        if record.cell_hash != (now[CELL_HASH] if now else last.cell_hash):
            values = now[CONFIG] if now else told_values(last, home)
            record = _older(record, told_values(record, home), values)
        found.append(record)
    return found


def rows_of(
    rows: Sequence[Mapping[str, Any]], records: Sequence[TrialRecord]
) -> list[Mapping[str, Any]]:
    """The rows of `analyze` that are of configurations as they are asked now.

    Rows say whose they are; those written before they did, by cell and seed alone, count where only
    one configuration has stood for these.
    """
    return [
        row for row, is_older in zip(rows, _are_older(rows, records), strict=True) if not is_older
    ]


def named_rows(
    rows: Sequence[Mapping[str, Any]], records: Sequence[TrialRecord]
) -> list[dict[str, Any]]:
    """All rows of `analyze`, those of older configurations marked (`is_older`) and, where they say
    whose they are, under the name that tells them apart."""
    cells = {record.config_hash: record.cell for record in records}
    return [
        {**row, "cell": cells.get(row.get("config_hash"), row["cell"]), "is_older": is_older}
        for row, is_older in zip(rows, _are_older(rows, records), strict=True)
    ]


def _are_older(rows: Sequence[Mapping[str, Any]], records: Sequence[TrialRecord]) -> list[bool]:
    older = {record.config_hash for record in records if record.is_older}
    asked = {(r.asked_as, r.seed) for r in records if r.is_older}
    return [
        row["config_hash"] in older if "config_hash" in row else (row["cell"], row["seed"]) in asked
        for row in rows
    ]


def _as_asked(record: TrialRecord) -> TrialRecord:
    if not record.is_older:
        return record
    return replace(record, cell=record.asked_as, asked_as="", is_older=False)


def _of_base(record: TrialRecord, base: Values, axes: Collection[str]) -> TrialRecord:
    """Of a sampled study: older where what is no axis of the search is not as its base has it."""
    if record.config is None:
        return record
    own, now = ({p: v for p, v in of.items() if p not in axes} for of in (record.config, base))
    return record if own == now else _older(record, own, now)


def _older(record: TrialRecord, own: Values | None, now: Values | None) -> TrialRecord:
    differs = f"configuration {record.cell_hash[:4]}"
    if own is not None and now is not None:
        paths = [path for path in dict.fromkeys((*own, *now)) if own.get(path) != now.get(path)]
        named = [f"{path}={own.get(path, 'default')}" for path in paths[:MOST_NAMED]]
        more = [f"and {len(paths) - MOST_NAMED} more"] if len(paths) > MOST_NAMED else []
        differs = ", ".join([*named, *more]) or differs
    return replace(record, cell=f"{record.cell} ({differs})", asked_as=record.cell, is_older=True)


def told_values(record: TrialRecord, home: Home) -> Values | None:
    """From the record, or of a trial of November 2026 from what its run left in the home."""
    if record.config is not None:
        return record.config
    folder = home.run_folder(record.config_hash, record.code_digest)
    try:
        return told(TrialConfig.from_dict(json.loads((folder / "config.json").read_text())))
    except (OSError, ValueError, ConfigError):
        return None
