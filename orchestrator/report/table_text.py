"""The ablation table as text: its headings, cells and footnotes, and the four forms of them.

Terminal, page, files and notebook take headings, cells and footnotes from here.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from moe.metrics import Metric, describe
from orchestrator.base.errors import BadInput
from orchestrator.report.tables import Row, Table
from orchestrator.report.verdict_text import HEADINGS as CLAIM_HEADINGS
from orchestrator.report.verdict_text import markdown_table, remarks, verdict_rows

FORMATS = ("markdown", "csv", "latex", "json")
NOT_CAUSAL = "\N{DAGGER}"
_NAMED = 8  # cells that a footnote names
_LISTS = ("seeds", "run_ids", "commits", "torch", "processors")


def render(table: Table, form: str) -> str:
    """The table as text. Raises BadInput on an unknown format."""
    if form not in FORMATS:
        raise BadInput(f"--format is one of {', '.join(FORMATS)}; received {form!r}.")
    return {"markdown": _markdown, "csv": _csv, "latex": _latex, "json": _json}[form](table)


def as_json(table: Table) -> dict[str, Any]:
    return {
        "study": table.study,
        "launch": table.launch,
        "metric": table.metric,
        "rows": [asdict(row) for row in table.rows],
        "rank_correlation": {name: asdict(tau) for name, tau in table.rank_correlation.items()},
        **(table.judgement.to_dict() if table.judgement else {}),
    }


def _headings(measure: Metric) -> list[str]:
    shown = ["perplexity"] if measure.is_loss else []
    return ["cell", "n", measure.name, "95% interval", *shown, "total", "active", "FLOPs/token"]


def _cells(row: Row, measure: Metric) -> list[str]:
    shown = ["-" if row.perplexity is None else f"{row.perplexity:.3f}"]
    return [
        f"{row.cell} {NOT_CAUSAL}" if row.leaks_future else row.cell,
        _count(row),
        "-" if row.mean is None else f"{row.mean:.4f}",
        _interval(row),
        *(shown if measure.is_loss else []),
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
    """Column titles: a column a published corpus, and one for the corpus and for the code where
    rows differ in them."""
    names = [*_headings(describe(table.metric))]
    if table.has_corpora:
        names.insert(1, "corpus")
    names += [f"published {corpus}" for corpus in table.published_corpora]
    return [*names, "code"] if _mixed_code(table) else names


def body(table: Table) -> list[list[str]]:
    mixed, corpora = _mixed_code(table), table.published_corpora
    return [
        [
            *(cells := _cells(row, describe(table.metric)))[:1],
            *([row.corpus_label] if table.has_corpora else []),
            *cells[1:],
            *(f"{row.published[c]:.3f}" if c in row.published else "-" for c in corpora),
            *([row.moe_digest[:8]] if mixed else []),
        ]
        for row in table.rows
    ]


def footnotes(table: Table, *, with_remarks: bool = True) -> list[str]:
    """What stands under the rows, a sentence a line; `with_remarks`: also on the verdicts."""
    lines = []
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
    if any(row.is_older for row in table.rows):
        lines.append(
            "Rows with values in brackets are of configurations that the study had before: nothing "
            "is judged by them."
        )
    counts = {row.n for row in table.rows if row.n and not row.is_older}
    if table.best_first and len(counts) > 1:
        lines.append(
            f"Best first among the rows over {max(counts)} seeds; those over fewer stand below "
            "them, and are not ranked against them."
        )
    for corpus, found in table.rank_correlation.items():
        if found.tau is None:
            continue
        lines.append(
            f"Kendall's tau of our means with the published perplexity on {corpus}: "
            f"{found.tau:.2f} over {found.n} cells (p = {found.p_value:.2g})."
        )
    return lines + (remarks(table.judgement) if table.judgement and with_remarks else [])


def claims_body(table: Table) -> list[list[str]]:
    """The verdicts, in the order of CLAIM_HEADINGS."""
    return verdict_rows(table.judgement.verdicts) if table.judgement else []


def _mixed_code(table: Table) -> bool:
    return len({row.moe_digest for row in table.rows} - {""}) > 1


def _markdown(table: Table) -> str:
    """A run is linked by its seed, under MLflow's own address of it."""
    runs = [
        " ".join(
            f"[{seed}](runs:/{run})" for seed, run in zip(row.seeds, row.run_ids, strict=False)
        )
        for row in table.rows
    ]
    rows = [[*cells, run] for cells, run in zip(body(table), runs, strict=True)]
    lines = [f"**{table.study}** ({table.launch})", ""]
    lines += markdown_table([*headings(table), "runs"], rows)
    for note in footnotes(table):
        lines += ["", note]
    if claims := claims_body(table):
        lines += ["", *markdown_table(CLAIM_HEADINGS, claims)]
    return "\n".join(lines) + "\n"


def _csv(table: Table) -> str:
    out = io.StringIO()
    rows = [asdict(row) for row in table.rows]
    for row in rows:
        row |= {key: " ".join(map(str, row[key])) for key in _LISTS}
        row["states"] = " ".join(f"{state}={n}" for state, n in row["states"].items())
        row |= {f"published_{corpus}": x for corpus, x in row.pop("published").items()}
        row["evidence"] = table.judgement is None or table.judgement.evidence
    fields = [name for name in Row.__dataclass_fields__ if name != "published"]
    fields += [*(f"published_{corpus}" for corpus in table.published_corpora), "evidence"]
    writer = csv.DictWriter(out, ["study", "launch", "metric", *fields], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {"study": table.study, "launch": table.launch, "metric": table.metric, **row}
        )
    return out.getvalue()


def _latex(table: Table) -> str:
    """Two tabulars: the rows, and the verdicts; footnotes are comments."""
    lines = [f"% {table.study} ({table.launch})", *_tabular(headings(table), body(table), "r")]
    lines += [f"% {note}" for note in footnotes(table)]
    if claims := claims_body(table):
        lines += ["", *_tabular(CLAIM_HEADINGS, claims, "l")]
    return "\n".join(lines) + "\n"


def _tabular(titles: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        escaped = (re.sub(r"([\\&%$#_{}])", r"\\\1", cell) for cell in cells)
        return " & ".join(escaped) + " \\\\"

    return [
        f"\\begin{{tabular}}{{l{align * (len(titles) - 1)}}}",
        "\\toprule",
        line(titles),
        "\\midrule",
        *map(line, rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]


def _json(table: Table) -> str:
    return json.dumps(as_json(table), indent=2) + "\n"
