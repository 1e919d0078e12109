"""docs/results/eleven_claims.md: `python docs/claims_page.py` (`make results`) writes it anew from
all exports at the scale `cpu`.

The paper's eleven claims, with the verdict on each corpus; what else these exports claim (other
depths, blocks and rates, routes without the leak); and the order of cells beside the published one,
as Kendall's tau and as the pairs that stand the other way round. A test holds the page equal to
this.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.archive.archived_launch import read, records_of
from orchestrator.archive.container import SUFFIX
from orchestrator.report.tables import Table
from orchestrator.report.verdict_text import markdown_table, verdict_word
from orchestrator.report.verdicts import Verdict
from orchestrator.study.library import load_study

RESULTS = Path(__file__).parent / "results"
PAGE = RESULTS / "eleven_claims.md"
_OF_THE_PAPER = re.compile(r"C[0-9]+")
_STUDIES = (
    "paper",
    "paper_balance",
    "paper_specialization",
    "paper_table1",
    "paper_table2",
    "paper_table3",
)
_LEAST_CELLS = 5  # of fewer, tau says nothing
_INTRODUCTION = """<!-- written by `make results` from all exports at the scale cpu -->

# The eleven claims of arXiv 2402.13089, at the scale `cpu`

Estimates are of `a` minus `b` in nats a token, on the test split, with the interval of the study's
design; the cells and everything else are on the page of each study. "not run": no export here has
it. "Not causal": later tokens of a sequence choose the experts of earlier ones, in cells that the
claim sets against causal ones; "with causal routes" is the claim of the same weights, routed by the
mean of what came before alone.
"""
_DIFFERENCES_INTRODUCTION = """## Where we differ, and under what it is otherwise

Claims that are refuted, or judged otherwise with causal routes (the leak); and under which other
conditions the same claim is decided otherwise, of those that the next table has. "None": what was
tried does not say why.
"""
_OTHERS_INTRODUCTION = """## The same under other conditions

The same claims under other conditions: routed by a causal prefix whose positions count in no loss
(`leak`, `causal`, `by-prefix`), at other depths (`L2`, `L6`), at half and at twice the rate
(`rates`); and what else these studies claim.
"""
_TAU_INTRODUCTION = """## The order of cells

Kendall's tau of our means with the published perplexities, and its interval over seeds where a
table has two.
"""
_PAIRS_INTRODUCTION = """Pairs of the tables' cells whose order is another here. Published is the
logarithm of the ratio of the perplexities, the first to the second; ours the mean difference of
their losses over the seeds that both have, with its standard error.
"""


_Verdicts = dict[str, dict[str, tuple[Verdict, str]]]  # by corpus and claim, with the page of each


@dataclass(kw_only=True)
class _Found:
    """What the exports say: verdicts, rows of the other tables."""

    verdicts: _Verdicts = field(default_factory=dict)
    statements: dict[str, str] = field(default_factory=dict)
    taus: list[list[str]] = field(default_factory=list)
    pairs: list[list[str]] = field(default_factory=list)


def exports() -> list[Path]:
    return sorted(RESULTS.glob(f"*{SUFFIX}"))


def claims_page(files: list[Path]) -> str:
    claims = [claim for name in _STUDIES for claim in load_study(name).claims]
    asked = {c.id: c.statement for c in claims if _OF_THE_PAPER.fullmatch(c.id)}
    eleven = {name: asked[name] for name in sorted(asked, key=_order)}
    found = _Found()
    for file in files:
        _add(found, file)
    others = {
        n: found.statements[n] for n in sorted(found.statements, key=_order) if n not in asked
    }
    return "\n".join(
        (
            _INTRODUCTION,
            _claims_table(eleven, found.verdicts, "the paper says"),
            _DIFFERENCES_INTRODUCTION,
            _table(
                ("claim", "our corpus", "here", "with causal routes", "decided otherwise"),
                list(_differences(eleven, found.verdicts)),
            ),
            _OTHERS_INTRODUCTION,
            _claims_table(others, found.verdicts, "statement"),
            _TAU_INTRODUCTION,
            _table(("table", "our corpus", "the paper's corpus", "tau", "cells"), found.taus),
            _PAIRS_INTRODUCTION,
            _table(
                ("table", "our corpus", "the paper's corpus", "first", "second", "published",
                 "ours", "n"),
                found.pairs,
            ),
        )
    )  # fmt: skip


def _order(name: str) -> tuple[float, str]:
    """C2-rates with C2; what is no claim about the paper's last."""
    number = re.match(r"C([0-9]+)", name)
    return (int(number[1]) if number else math.inf, name)


def _add(found: _Found, file: Path) -> None:
    archived = read(file)
    if archived.attributes["scale"] != "cpu":
        return
    study, corpus = load_study(archived.study.name), archived.attributes["corpus"]
    page = f"[{file.stem}]({file.stem}.md)"
    with records_of(archived) as launch:
        table = launch.table(study)
    told = found.verdicts.setdefault(corpus, {})
    for verdict in table.judgement.verdicts if table.judgement else ():
        told[verdict.id] = verdict, page
        found.statements[verdict.id] = verdict.statement
    for published, tau in table.rank_correlation.items():
        if tau.tau is None or tau.n < _LEAST_CELLS:
            continue
        bounds = "" if tau.ci_low is None else f" [{tau.ci_low:.2f}, {tau.ci_high:.2f}]"
        found.taus.append([page, corpus, published, f"{tau.tau:.2f}{bounds}", str(tau.n)])
        if study.name != "paper":  # whose pairs are those of its tables, and of two of them
            rows = _turned_pairs(table, published)
            found.pairs.extend([page, corpus, published, *row] for row in rows)


def _turned_pairs(table: Table, published: str) -> Iterator[list[str]]:
    rows = [row for row in table.rows if published in row.published and row.mean is not None]
    for pair in itertools.combinations(rows, 2):
        first, second = sorted(pair, key=lambda row: row.published[published])
        shared = first.values.keys() & second.values.keys()
        theirs = math.log(first.published[published] / second.published[published])
        if first.mean <= second.mean or theirs == 0 or not shared:
            continue
        ours = [first.values[seed] - second.values[seed] for seed in sorted(shared)]
        mean, n = statistics.fmean(ours), len(ours)
        error = f" ({statistics.stdev(ours) / math.sqrt(n):.3f})" if n > 1 else ""
        yield [first.cell, second.cell, f"{theirs:+.3f}", f"{mean:+.3f}{error}", str(n)]


def _differences(eleven: Iterable[str], told: _Verdicts) -> Iterator[list[str]]:
    for name, (corpus, of) in itertools.product(eleven, told.items()):
        if name not in of:
            continue
        here, _ = of[name]
        causal = here.with_causal_routes
        if here.verdict != "refuted" and (causal is None or causal.verdict == here.verdict):
            continue
        tried = [of[other] for other in of if other.startswith(f"{name}-")]
        on_others = [(each[name], other) for other, each in told.items() if name in each]
        otherwise = [
            *(f"{v.verdict}: {v.statement} ({page})" for v, page in tried if _turns(v, here)),
            *(f"{v.verdict} on {other}" for (v, _), other in on_others if _turns(v, here)),
        ]
        routed = causal.verdict if causal else "no such cells"
        yield [name, corpus, verdict_word(here), routed, "; ".join(otherwise) or "none"]


def _turns(one: Verdict, here: Verdict) -> bool:
    return one.verdict not in ("undecided", here.verdict)


def _claims_table(statements: Mapping[str, str], told: _Verdicts, heading: str) -> str:
    """A row a claim, a column a corpus."""
    rows = []
    for name, statement in statements.items():
        verdicts = (_verdict_text(*of[name]) if name in of else "not run" for of in told.values())
        rows.append([name, statement, *verdicts])
    return _table(("claim", heading, *told), rows)


def _table(headings: tuple[str, ...], rows: list[list[str]]) -> str:
    return "\n".join(markdown_table(headings, rows)) + "\n"


def _verdict_text(verdict: Verdict, page: str) -> str:
    shown = f"{verdict_word(verdict)}{_estimate(verdict)}, n = {verdict.n}"
    if causal := verdict.with_causal_routes:
        shown += f"; with causal routes {causal.verdict}{_estimate(causal)}"
    return f"{shown} ({page})"


def _estimate(verdict: Verdict) -> str:
    estimate = "" if verdict.estimate is None else f" {verdict.estimate:+.4f}"
    if verdict.ci_low is None or verdict.ci_high is None:
        return estimate
    return f"{estimate} [{verdict.ci_low:+.4f}, {verdict.ci_high:+.4f}]"


def main() -> None:
    PAGE.write_text(claims_page(exports()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    sys.exit(main())
