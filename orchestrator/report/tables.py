"""The ablation table: a row a cell, with seeds, interval, parameters and the runs behind it.

Beside ours stands what a paper published, under it how the two rank the cells alike, and the
verdicts on the study's claims.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from moe.metrics import (
    VAL_BITS_PER_BYTE,
    VAL_LOSS,
    VAL_PERPLEXITY,
    Metric,
    describe,
    perplexity,
)
from orchestrator.base.errors import BadInput
from orchestrator.report.judge import Judgement, main_digest
from orchestrator.report.statistics import RankCorrelation, kendall_tau, mean_interval
from orchestrator.report.verdict_text import HEADINGS as CLAIM_HEADINGS
from orchestrator.report.verdict_text import markdown_table, remarks, verdict_rows
from orchestrator.stores.trial_record import (
    COMMIT,
    FLOPS_PER_TOKEN,
    PARAMS_ACTIVE,
    PARAMS_TOTAL,
    PROCESSOR,
    TORCH,
    TrialRecord,
)
from orchestrator.study.corpora import corpus_label

FORMATS = ("markdown", "csv", "latex", "json")
_LISTS = ("seeds", "run_ids", "commits", "torch", "processors")


Published = Mapping[str, Mapping[str, float]]  # cell -> corpus -> perplexity


@dataclass(frozen=True, kw_only=True)
class Row:
    """`perplexity` is that of the mean, where the table's metric is a loss; `published` the paper's
    perplexity of this cell, by corpus; `commits` are those of the code that trained it, where that
    was a checkout; `torch` and `processors` what it was trained with and on, where that is known.
    `corpus` is what it was trained and evaluated on, in a launch that has
    several."""

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
    commits: list[str]
    torch: list[str]
    processors: list[str]
    is_older: bool
    published: dict[str, float]
    corpus: str | None = None
    corpus_digest: str | None = None

    @property
    def corpus_label(self) -> str:
        """Its corpus as a launch's name has it; empty where the launch has one."""
        if self.corpus is None:
            return ""
        return f"{corpus_label(self.corpus)}@{(self.corpus_digest or '')[:8]}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """`rank_correlation`: by published corpus, Kendall's tau of our means with its perplexities.

    Rows of one corpus stand together: a loss on one text says nothing about another.
    """

    study: str
    launch: str
    metric: str
    rows: list[Row]
    rank_correlation: dict[str, RankCorrelation] = field(default_factory=dict)
    judgement: Judgement | None = None
    best_first: bool = False

    @property
    def has_corpora(self) -> bool:
        return len({row.corpus_digest for row in self.rows}) > 1

    @property
    def published_corpora(self) -> list[str]:
        return list(dict.fromkeys(corpus for row in self.rows for corpus in row.published))


def table_of(
    study: str,
    launch: str,
    records: Sequence[TrialRecord],
    *,
    metric: str = "val/loss",
    best_first: bool = False,
    published: Published | None = None,
    judgement: Judgement | None = None,
) -> Table:
    """Rows in the order in which cells were first asked for, or (a sampled study's) best first, of
    each corpus by itself: those over the most seeds, then those over fewer, which are not ranked
    against them.

    Trials are pooled by configuration and by the digest of the code that trained them: results of
    different code become different rows, each with its digest. A trial that never started stands
    with its cell's first row.
    """
    numbered = sorted(records, key=lambda r: r.number)
    first: dict[str, str] = {}
    for record in numbered:
        if record.code:
            first.setdefault(record.cell_hash, record.code)
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in numbered:
        digest = record.code or first.get(record.cell_hash, "")
        groups.setdefault((record.cell_hash, digest), []).append(record)
    measure = describe(metric)
    rows = [_row(group, digest, published or {}, measure) for (_, digest), group in groups.items()]
    if best_first:
        rows.sort(
            key=lambda row: (-row.n, math.inf if row.mean is None else measure.cost(row.mean))
        )
    corpora = list(dict.fromkeys(r.corpus_digest for r in numbered))
    rows.sort(key=lambda row: (row.is_older, corpora.index(row.corpus_digest)))
    return Table(
        study=study,
        launch=launch,
        metric=metric,
        rows=rows,
        rank_correlation=_rank_correlation(rows, main_digest(records), measure),
        judgement=judgement,
        best_first=best_first,
    )


def best_row(records: Sequence[TrialRecord], measure: Metric) -> tuple[str, float, int] | None:
    """Cell, mean and number of seeds of the best point so far, among those over the most seeds."""
    groups: dict[tuple[str, str], dict[int, TrialRecord]] = {}
    for record in sorted(records, key=lambda r: r.number):
        if record.state == "complete":
            group = groups.setdefault((record.cell_hash, record.code), {})
            group[record.seed] = record
    if not groups:
        return None
    found = [
        (-len(group), sum(r.value for r in group.values()) / len(group), next(iter(group.values())))
        for group in groups.values()
    ]
    n, mean, first = min(found, key=lambda one: (one[0], measure.cost(one[1])))
    return first.cell, mean, -n


def _rank_correlation(
    rows: Sequence[Row], digest: str, measure: Metric
) -> dict[str, RankCorrelation]:
    """Over the cells that both have; ours from the code that trained the most of the launch, on one
    corpus of ours each time. None where ours is not measured on held-out text: a paper's
    perplexities have nothing to rank it by.
    """
    if measure.name not in (VAL_LOSS, VAL_PERPLEXITY, VAL_BITS_PER_BYTE):
        return {}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.corpus_label, []).append(row)
    found = {}
    for label, group in groups.items():
        ours = {r.cell: r.mean for r in group if r.mean is not None and r.moe_digest == digest}
        for corpus in dict.fromkeys(corpus for row in group for corpus in row.published):
            published = {r.cell: r.published[corpus] for r in group if corpus in r.published}
            name = f"{corpus}, ours on {label}" if len(groups) > 1 else corpus
            found[name] = kendall_tau(ours, published)
    return found


def _row(records: list[TrialRecord], digest: str, published: Published, measure: Metric) -> Row:
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
        perplexity=perplexity(estimate.mean) if estimate and measure.is_loss else None,
        params_total=first.attributes[PARAMS_TOTAL],
        params_active=first.attributes[PARAMS_ACTIVE],
        flops_per_token=first.attributes[FLOPS_PER_TOKEN],
        seeds=sorted(complete),
        run_ids=[r.run_id for _, r in sorted(complete.items()) if r.run_id],
        states=states,
        moe_digest=digest,
        commits=_told(COMMIT, complete.values()),
        torch=_told(TORCH, complete.values()),
        processors=_told(PROCESSOR, complete.values()),
        is_older=first.is_older,
        published=dict(published.get(first.cell, {})),
        corpus=first.corpus,
        corpus_digest=first.corpus_digest,
    )


def _told(key: str, records: Iterable[TrialRecord]) -> list[str]:
    return sorted({told for r in records if (told := r.attributes.get(key))})


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
        row.cell,
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
