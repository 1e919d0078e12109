"""The ablation table as text: its rows, its footnotes, and the four forms of them.

Terminal, page, files and notebook take rows and footnotes from here, columns from `table_columns`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from orchestrator.base.errors import BadInput
from orchestrator.report.latex_table import Precision, latex
from orchestrator.report.row_contrasts import Difference
from orchestrator.report.statistics import RankCorrelation
from orchestrator.report.table_columns import (
    DECIDED,
    NOT_CAUSAL,
    VIOLATES,
    Column,
    columns_of,
    sorted_rows,
)
from orchestrator.report.tables import Row, Stopped, Table
from orchestrator.report.verdict_text import HEADINGS as CLAIM_HEADINGS
from orchestrator.report.verdict_text import markdown_table, remarks, verdict_rows

if TYPE_CHECKING:  # it brings scipy's optimisers, which few tables need
    from orchestrator.report.front import Front

FORMATS = ("markdown", "csv", "latex", "json")
_NAMED = 8  # cells that a footnote names
_LISTS = ("seeds", "run_ids", "commits", "torch", "processors")
_OWN = ("difference", "stopped")  # dataclasses
_NESTED = ("published", "params", *_OWN)


def render(
    table: Table,
    form: str,
    *,
    columns: Sequence[str] | None = None,
    precision: Precision | None = None,
) -> str:
    """The table as text; `columns` by name, all without, `precision` of LaTeX. Raises BadInput on
    an unknown format or column, and on columns of a format that has all fields."""
    if form not in FORMATS:
        raise BadInput(f"--format is one of {', '.join(FORMATS)}; received {form!r}.")
    if form in ("csv", "json"):
        if columns is not None:
            raise BadInput(
                f"--columns chooses for people, and {form} has every field; received "
                f"{','.join(columns)!r}. Leave it out, or choose --format markdown or latex."
            )
        return _csv(table) if form == "csv" else json.dumps(as_json(table), indent=2) + "\n"
    chosen = columns_of(table, columns)
    if form == "latex":
        return latex(table, chosen, footnotes(table), precision or Precision(), columns is None)
    return _markdown(table, chosen, with_runs=columns is None)


def of_cells(table: Table, cells: Sequence[str] | None, sort: str | None) -> Table:
    """The table with the rows that `cells` names, patterns such as `token-*`, in their order, or by
    a column. Raises BadInput where a pattern names no cell, or the column is not there."""
    rows = sorted_rows(table, sort) if sort else table.rows
    if cells is not None:
        kept: list[Row] = []
        for pattern in cells:
            named = [row for row in rows if fnmatchcase(row.cell, pattern)]
            if not named:
                raise BadInput(
                    f"--cells names cells of the table, or patterns of their names; received "
                    f"{pattern!r}. Choose from {', '.join(row.cell for row in table.rows[:20])}"
                    f"{', ...' if len(table.rows) > 20 else ''}."
                )
            kept += [row for row in named if row not in kept]
        rows = [row for row in rows if row in kept] if sort else kept
    return replace(table, rows=list(rows), sorted_by=sort)


def as_json(table: Table) -> dict[str, Any]:
    return {
        "study": table.study,
        "launch": table.launch,
        "metric": table.metric,
        "rows": [_plain(row) for row in table.rows],
        "rank_correlation": {name: asdict(tau) for name, tau in table.rank_correlation.items()},
        **fronts_as_json(table.fronts),
        **(table.judgement.to_dict() if table.judgement else {}),
    }


def _plain(row: Row) -> dict[str, Any]:
    """As `asdict` has it, which copies all that it finds."""
    plain = {name: getattr(row, name) for name in Row.__dataclass_fields__}
    return plain | {name: asdict(x) for name in _OWN if (x := plain[name]) is not None}


def fronts_as_json(fronts: Sequence[Front]) -> dict[str, Any]:
    """Nothing where a launch has one objective."""
    if not fronts:
        return {}
    from orchestrator.report import front

    return {"fronts": [front.as_json(each) for each in fronts]}


def fronts_text(fronts: Sequence[Front]) -> list[str]:
    """What is said of each, a sentence a line."""
    if not fronts:
        return []
    from orchestrator.report.front import front_lines

    return [line for each in fronts for line in front_lines(each)]


def headings(table: Table) -> list[str]:
    """Column titles: one for the corpus and for the code where rows differ in them, one a path that
    moves, one a published corpus."""
    return [column.heading for column in columns_of(table)]


def body(table: Table) -> list[list[str]]:
    columns = columns_of(table)
    return [[column.text(row) for column in columns] for row in table.rows]


def footnotes(table: Table, *, with_remarks: bool = True) -> list[str]:
    """What stands under the rows, a sentence a line; `with_remarks`: also on the verdicts."""
    lines = [*table.origin, *fronts_text(table.fronts), *_contrast_notes(table)]
    if table.has_corpora:
        lines.append("Rows compare within a corpus: a loss on one text says nothing about another.")
    if commits := sorted({commit for row in table.rows for commit in row.commits}):
        lines.append(f"Trained by the code of commit {', '.join(commits)}.")
    for what, key in (("versions of torch", "torch"), ("types of processor", "processors")):
        told = sorted({value for row in table.rows for value in getattr(row, key)})
        if len(told) > 1:
            lines.append(f"Pooled over {what}, which change last digits: {', '.join(told)}.")
    for row in table.rows:
        if row.upcycled_tokens is not None:
            lines.append(
                f"{row.cell} started from a dense model that had trained on "
                f"{row.upcycled_tokens:,} tokens, which count among no trial's here."
            )
    if leaking := [row.cell for row in table.rows if row.leaks_future]:
        more = f" and {len(leaking) - _NAMED} more" if len(leaking) > _NAMED else ""
        lines.append(
            f"{NOT_CAUSAL} Not causal: {', '.join(leaking[:_NAMED])}{more}. Later tokens of a text "
            "decide which experts earlier ones pass, which no model that writes it can know; such "
            "a loss compares with others of its kind only."
        )
    lines += violation_notes(table)
    if any(row.is_older for row in table.rows):
        lines.append(
            "Rows with values in brackets are of configurations that the study had before: nothing "
            "is judged by them."
        )
    counts = {row.n for row in table.rows if row.n and not row.is_older}
    if table.best_first and not table.sorted_by and len(counts) > 1:
        lines.append(
            f"Best first among the rows over {max(counts)} seeds; those over fewer stand below "
            "them, and are not ranked against them."
        )
    for corpus, found in table.rank_correlation.items():
        if found.tau is None:
            continue
        lines.append(
            f"Kendall's tau of our means with the published perplexity on {corpus}: "
            f"{found.tau:.2f}{_over_seeds(found)} over {found.n} cells (p = {found.p_value:.2g})."
        )
    return lines + (remarks(table.judgement) if table.judgement and with_remarks else [])


def violation_notes(table: Table) -> list[str]:
    """The constraints of the launch, and which rows violate them."""
    if not (constraints := table.about.get("constraints")):
        return []
    broken = [f"{row.cell} ({row.violates})" for row in table.rows if row.violates]
    if not broken:
        return [f"Constraints, on the mean over seeds: {constraints}. No row violates them."]
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return [
        f"{VIOLATES} Violates a constraint ({constraints}) on the mean over its seeds, and is "
        f"never the best: {'; '.join(broken[:_NAMED])}{more}."
    ]


def _over_seeds(found: RankCorrelation) -> str:
    if found.ci_low is None:
        return ""
    return f" [{found.ci_low:.2f}, {found.ci_high:.2f}] (bootstrap over {found.seeds} seeds)"


def _contrast_notes(table: Table) -> Iterator[str]:
    """How differences and bold type are to be read."""
    if table.judgement is None:
        return
    contrasts, design = table.judgement.contrasts, table.judgement.design_kind
    found = [row.difference for row in table.rows if row.difference]
    if tested := [d for d in found if d.decided is not None]:
        marks = (
            f"{DECIDED} where it is told from 0"
            if any(d.decided for d in tested)
            else ("none is told from 0")
        )
        yield (
            f"Difference: from {contrasts.baseline}, paired by seed, with its "
            f"{tested[0].ci_level:.0%} interval; {marks} after Holm's correction over "
            f"{len(contrasts.differences)} differences ({design})."
        )
    if contrasts.best:
        yield (
            "Bold: decided to be better than every other row that compares with it, by the same "
            "test, corrected over these."
        )
    elif len([row for row in table.rows if row.n > 1 and not row.is_older]) > 1:
        yield "No row is decided to be better than every other."
    if any(row.stopped for row in table.rows):
        yield "In brackets: the last validation value of pruned trials, and its step."


def claims_body(table: Table) -> list[list[str]]:
    """The verdicts, in the order of CLAIM_HEADINGS."""
    return verdict_rows(table.judgement.verdicts) if table.judgement else []


def _markdown(table: Table, columns: Sequence[Column], with_runs: bool) -> str:
    """A run is linked by its seed: to MLflow's page of it, where that is known."""
    rows = []
    for row in table.rows:
        cells = [
            f"**{text}**" if row.is_best and column.name == table.metric else text
            for column in columns
            for text in [column.text(row)]
        ]
        pairs = zip(row.seeds, row.run_ids, strict=False)
        runs = " ".join(
            f"[{seed}]({table.run_links.get(run, f'runs:/{run}')})" for seed, run in pairs
        )
        rows.append([*cells, runs] if with_runs else cells)
    lines = [f"**{table.study}** ({table.launch})", ""]
    titles = [column.heading for column in columns]
    lines += markdown_table([*titles, "runs"] if with_runs else titles, rows)
    for note in footnotes(table):
        lines += ["", note]
    if claims := claims_body(table):
        lines += ["", *markdown_table(CLAIM_HEADINGS, claims)]
    return "\n".join(lines) + "\n"


def _csv(table: Table) -> str:
    out = io.StringIO()
    rows = [_plain(row) for row in table.rows]
    for row in rows:
        row |= {key: " ".join(map(str, row[key])) for key in _LISTS}
        row["states"] = " ".join(f"{state}={n}" for state, n in row["states"].items())
        published, params, difference, stopped = (row.pop(key) for key in _NESTED)
        row |= {f"published_{corpus}": x for corpus, x in published.items()}
        row |= params
        row |= {f"difference_{key}": x for key, x in (difference or {}).items()}
        row |= {f"stopped_{key}": x for key, x in (stopped or {}).items()}
        row["evidence"] = table.judgement is None or table.judgement.evidence
        row |= _front_fields(table, row)
    fields = [name for name in Row.__dataclass_fields__ if name not in _NESTED]
    fields += [f"difference_{name}" for name in Difference.__dataclass_fields__]
    fields += [f"stopped_{name}" for name in Stopped.__dataclass_fields__]
    fields += dict.fromkeys(path for row in table.rows for path in row.params)
    fields += [*(f"published_{corpus}" for corpus in table.published_corpora), "evidence"]
    fields += dict.fromkeys(key for row in rows for key in _front_fields(table, row))
    writer = csv.DictWriter(out, ["study", "launch", "metric", *fields], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {"study": table.study, "launch": table.launch, "metric": table.metric, **row}
        )
    return out.getvalue()


def _front_fields(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """Of a row of a search with several objectives: all of them, and whether it is on the front."""
    point = table.front_points.get((row["cell"], row["moe_digest"]))
    if point is None:
        return {}
    found: dict[str, Any] = {"on_front": point.on_front}
    for name, of in point.estimates.items():
        found |= {
            f"front_{name}": of.mean,
            f"front_{name}_low": of.low,
            f"front_{name}_high": of.high,
        }
    return found
