"""A comparison of launches as markdown: what each is, what differs, cells, verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from moe.metrics import describe
from orchestrator.report.comparison import (
    ComparedCell,
    ComparedClaim,
    Comparison,
    LaunchDifference,
)
from orchestrator.report.table_columns import NOT_CAUSAL
from orchestrator.report.verdict_text import markdown_table

_SHOWN = 6  # paths of a cell that are named


def name_of(cell: ComparedCell) -> str:
    """With the mark of one whose loss is of no causal model."""
    return f"{cell.cell} {NOT_CAUSAL}" if cell.leaks_future else cell.cell


def labels_of(comparison: Comparison) -> list[str]:
    """What the launches are called in tables: A, B, ..."""
    return list(ascii_uppercase[: len(comparison.launches)])


def comparison_lines(comparison: Comparison) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Sections: a title, headings, rows. A section without rows is left out."""
    labels = labels_of(comparison)
    yield (
        "Launches",
        ["", "launch", "from", "complete", "seeds", "code", "commit"],
        [
            [
                label,
                told["launch"],
                told["place"],
                f"{told['complete']} of {told['trials']}",
                ", ".join(map(str, told["seeds"])) or "-",
                told["code"] or "-",
                ", ".join(commit[:10] for commit in told["commits"]) or "-",
            ]
            for label, told in zip(labels, comparison.launches, strict=True)
        ],
    )
    rows = [[name, *map(_value, values)] for name, values in comparison.differs.items()]
    rows += _paths(comparison)
    yield "What differs", ["what", *labels], rows
    yield f"Cells: {_unit(comparison.metric)}", _cell_headings(labels), _cell_rows(comparison)
    claims = [
        [c.id, *(v or "-" for v in c.verdicts), _changed(c, labels), c.statement]
        for c in comparison.claims
    ]
    yield "Verdicts", ["claim", *labels, "", "statement"], claims


def _changed(claim: ComparedClaim, labels: Sequence[str]) -> str:
    """In which launches the verdict is another one than in the first that has one, and in which of
    these it is the contrary or merely open."""
    known = [(label, v) for label, v in zip(labels, claim.verdicts, strict=True) if v is not None]
    if not claim.changed:
        return ""
    first = known[0][1]
    told = {"changed": [x for x, v in known if v != first and "undecided" not in (v, first)]}
    told["open" if first != "undecided" else "decided"] = [
        x for x, v in known if v != first and "undecided" in (v, first)
    ]
    return ", ".join(f"{word} in {' and '.join(named)}" for word, named in told.items() if named)


def comparison_notes(comparison: Comparison) -> list[str]:
    tested = [
        d for cell in comparison.cells for d in cell.differences if d and d.decided is not None
    ]
    lines = [f"{note}." for note in comparison.notes]
    if any(cell.leaks_future for cell in comparison.cells):
        lines.append(f"{NOT_CAUSAL} Not causal: later tokens route earlier ones.")
    if tested:
        lines.append(
            f"Differences are from A, with their 95% t interval, which no look before is counted "
            f"in; * where it is told from 0 after Holm's correction over {len(tested)} differences "
            "(alpha 0.05). Paired by seed where both have two seeds in common, else Welch's."
        )
    return lines


def as_markdown(comparison: Comparison) -> str:
    lines = []
    for title, headings, rows in comparison_lines(comparison):
        if rows:
            lines += [f"**{title}**", "", *markdown_table(headings, rows), ""]
    for note in comparison_notes(comparison):
        lines += [note, ""]
    return "\n".join(lines)


def _unit(metric: str) -> str:
    unit = describe(metric).unit
    return metric if unit == "1" else f"{metric} ({unit})"


def _cell_headings(labels: Sequence[str]) -> list[str]:
    return ["cell", *labels, *(f"{label} minus A" for label in labels[1:])]


def _cell_rows(comparison: Comparison) -> list[list[str]]:
    return [
        [name_of(cell), *map(_mean, cell.means), *map(difference_text, cell.differences)]
        for cell in comparison.cells
    ]


def _mean(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["ci_low"] is None:
        return f"{found['mean']:.4f} (n = {found['n']})"
    half = found["mean"] - found["ci_low"]
    return f"{found['mean']:.4f} \N{PLUS-MINUS SIGN} {half:.4f} (n = {found['n']})"


def difference_text(found: LaunchDifference | None) -> str:
    if found is None:
        return "-"
    if found.estimate is None:
        return found.reason
    if found.ci_low is None:
        return f"{found.estimate:+.4f} ({found.reason})"
    mark = "*" if found.decided else ""
    kind = "" if found.kind == "paired" else f", {found.kind}"
    return f"{found.estimate:+.4f} [{found.ci_low:+.4f}, {found.ci_high:+.4f}]{mark}{kind}"


def _paths(comparison: Comparison) -> list[list[str]]:
    """Paths that differ in cells: once for all where they differ alike, else a row a cell."""
    seen: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for cell in comparison.cells:
        for path, values in cell.differs.items():
            seen.setdefault((path, tuple(map(_value, values))), []).append(cell.cell)
    rows = []
    for (path, values), cells in seen.items():
        shared = len(cells) == sum(bool(c.differs) for c in comparison.cells)
        named = ", ".join(cells[:_SHOWN]) + (", ..." if len(cells) > _SHOWN else "")
        rows.append([path if shared else f"{path} ({named})", *values])
    return rows


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_value(each)}" for key, each in value.items()) or "-"
    return "-" if value is None else json.dumps(value)
