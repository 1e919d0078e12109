"""The ablation table: a row a cell, with seeds, interval, parameters and the runs behind it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.report.statistics import mean_interval
from orchestrator.trial import (
    FLOPS_PER_TOKEN,
    MOE_DIGEST,
    PARAMS_ACTIVE,
    PARAMS_TOTAL,
    TrialRecord,
)

FORMATS = ("markdown", "csv", "latex", "json")


@dataclass(frozen=True, kw_only=True)
class Row:
    cell: str
    n: int
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    perplexity: float | None
    params_total: int
    params_active: int
    flops_per_token: int
    seeds: list[int]
    run_ids: list[str]
    states: dict[str, int]
    moe_digest: str


@dataclass(frozen=True, kw_only=True)
class Table:
    study: str
    launch: str
    metric: str
    rows: list[Row]


def table_of(
    study: str,
    launch: str,
    records: Sequence[TrialRecord],
    *,
    metric: str = "val/loss",
    best_first: bool = False,
) -> Table:
    """Rows in the order in which cells were first asked for, or (a sampled study's) best first.

    Trials are pooled by configuration and by the digest of the code that trained them: results of
    different code become different rows, each with its digest.
    """
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in sorted(records, key=lambda r: r.number):
        key = (record.cell_hash, record.attributes.get(MOE_DIGEST, ""))
        groups.setdefault(key, []).append(record)
    rows = [_row(group) for group in groups.values()]
    if best_first:
        rows.sort(key=lambda row: math.inf if row.mean is None else row.mean)
    return Table(study=study, launch=launch, metric=metric, rows=rows)


def _row(records: list[TrialRecord]) -> Row:
    first = records[0]
    complete = {r.seed: r for r in records if r.state == "complete"}
    estimate = mean_interval([r.value for r in complete.values()]) if complete else None
    states: dict[str, int] = {}
    for record in records:
        states[record.state] = states.get(record.state, 0) + 1
    return Row(
        cell=first.cell,
        n=len(complete),
        mean=estimate.mean if estimate else None,
        ci_low=estimate.low if estimate else None,
        ci_high=estimate.high if estimate else None,
        perplexity=math.exp(estimate.mean) if estimate else None,
        params_total=first.attributes[PARAMS_TOTAL],
        params_active=first.attributes[PARAMS_ACTIVE],
        flops_per_token=first.attributes[FLOPS_PER_TOKEN],
        seeds=sorted(complete),
        run_ids=[r.run_id for _, r in sorted(complete.items()) if r.run_id],
        states=states,
        moe_digest=first.attributes.get(MOE_DIGEST, ""),
    )


def render(table: Table, form: str) -> str:
    """The table as text. Raises BadInput on an unknown format."""
    if form not in FORMATS:
        raise BadInput(f"--format is one of {', '.join(FORMATS)}; received {form!r}.")
    return {"markdown": _markdown, "csv": _csv, "latex": _latex, "json": _json}[form](table)


def as_json(table: Table) -> dict[str, Any]:
    return asdict(table)


_HEADINGS = (
    "cell",
    "n",
    "{metric}",
    "95% interval",
    "perplexity",
    "total",
    "active",
    "FLOPs/token",
)


def _cells(row: Row) -> list[str]:
    return [
        row.cell,
        _count(row),
        "-" if row.mean is None else f"{row.mean:.4f}",
        _interval(row),
        "-" if row.perplexity is None else f"{row.perplexity:.3f}",
        human(row.params_total),
        human(row.params_active),
        human(row.flops_per_token),
    ]


def _count(row: Row) -> str:
    lost = {s: c for s, c in row.states.items() if s != "complete"}
    return f"{row.n}" + (f" ({', '.join(f'{c} {s}' for s, c in lost.items())})" if lost else "")


def _interval(row: Row) -> str:
    if row.ci_low is None:
        return "one seed" if row.n == 1 else "-"
    return f"[{row.ci_low:.4f}, {row.ci_high:.4f}]"


def human(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:g}"


def headings(table: Table) -> list[str]:
    """Column titles; rows of more than one code digest get a column for it."""
    names = [h.format(metric=table.metric) for h in _HEADINGS]
    return [*names, "code"] if _mixed_code(table) else names


def body(table: Table) -> list[list[str]]:
    mixed = _mixed_code(table)
    return [[*_cells(row), row.moe_digest[:8]] if mixed else _cells(row) for row in table.rows]


def _mixed_code(table: Table) -> bool:
    return len({row.moe_digest for row in table.rows}) > 1


def _markdown(table: Table) -> str:
    lines = [
        f"**{table.study}** ({table.launch})",
        "",
        "| " + " | ".join(headings(table)) + " |",
        "|" + " --- |" * len(headings(table)),
        *("| " + " | ".join(cells) + " |" for cells in body(table)),
    ]
    return "\n".join(lines) + "\n"


def _csv(table: Table) -> str:
    out = io.StringIO()
    rows = [asdict(row) for row in table.rows]
    for row in rows:
        row |= {key: " ".join(map(str, row[key])) for key in ("seeds", "run_ids")}
        row["states"] = " ".join(f"{state}={n}" for state, n in row["states"].items())
    fields = list(Row.__dataclass_fields__)
    writer = csv.DictWriter(out, ["study", "launch", "metric", *fields], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {"study": table.study, "launch": table.launch, "metric": table.metric, **row}
        )
    return out.getvalue()


def _latex(table: Table) -> str:
    def escape(text: str) -> str:
        for character in "\\&%$#_{}":
            text = text.replace(character, "\\" + character)
        return text

    align = "l" + "r" * (len(headings(table)) - 1)
    lines = [
        f"% {table.study} ({table.launch})",
        f"\\begin{{tabular}}{{{align}}}",
        "\\toprule",
        " & ".join(map(escape, headings(table))) + " \\\\",
        "\\midrule",
        *(" & ".join(map(escape, cells)) + " \\\\" for cells in body(table)),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _json(table: Table) -> str:
    return json.dumps(as_json(table), indent=2) + "\n"
