"""What `analyze` measured in two homes, put together by trial."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.stores.trial_record import CONFIG_HASH


def merged_analysis(path: Path, content: bytes) -> bytes:
    """A probe's rows (JSON) or shares (parquet) in the home, and those of the other trials in
    the file. A trial is its configuration, or where one of the two does not say that (rows of
    November 2026), its cell and seed."""
    if path.suffix == ".json":
        rows, theirs = json.loads(path.read_text()), json.loads(content)
        new = [row for row, known in zip(theirs, _known(rows, theirs), strict=True) if not known]
        return json.dumps([*rows, *new], indent=1).encode() if new else path.read_bytes()
    ours, theirs = pq.read_table(path), pq.read_table(io.BytesIO(content))
    known = _known(*(table.select(_whose(table)).to_pylist() for table in (ours, theirs)))
    new = theirs.filter(pa.array([not one for one in known], pa.bool_()))
    if not new.num_rows:
        return path.read_bytes()
    stream = io.BytesIO()
    pq.write_table(pa.concat_tables([ours, new], promote_options="permissive"), stream)
    return stream.getvalue()


def _whose(table: pa.Table) -> list[str]:
    return [name for name in ("cell", "seed", CONFIG_HASH) if name in table.column_names]


def _known(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Of each of `theirs`, whether its trial is one of ours."""
    hashes = {row.get(CONFIG_HASH) for row in ours} - {None}
    named = {(row["cell"], row["seed"]) for row in ours}
    unsaid = {(row["cell"], row["seed"]) for row in ours if row.get(CONFIG_HASH) is None}
    return [
        (row["cell"], row["seed"]) in named
        if row.get(CONFIG_HASH) is None
        else row[CONFIG_HASH] in hashes or (row["cell"], row["seed"]) in unsaid
        for row in theirs
    ]
