"""The pages of docs/results: `python docs/result_tables.py` (`make results`) writes them anew.

Each page comes from the export of one launch beside it, `NAME.moe-study`: nothing is typed, and no
home is needed. One page more has the paper's eleven claims over all exports at the scale `cpu`. A
test holds the pages equal to what this writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.archive.archived_launch import ArchivedLaunch, read, records_of
from orchestrator.archive.container import SUFFIX
from orchestrator.report.recommendation import kept_lines
from orchestrator.report.recommendation_text import tables_of
from orchestrator.report.records import LaunchRecords
from orchestrator.report.table_text import render
from orchestrator.report.verdict_text import markdown_table, verdict_word
from orchestrator.report.verdicts import Verdict
from orchestrator.stores.optuna_launches import RECOMMENDATION
from orchestrator.stores.trial_record import count_states
from orchestrator.study.library import load_study

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- generated: make results -->", "<!-- end of generated -->"
CLAIMS_PAGE = RESULTS / "eleven_claims.md"
_PAPER_STUDIES = (
    "paper",
    "paper_balance",
    "paper_specialization",
    "paper_table1",
    "paper_table2",
    "paper_table3",
)
_WITHOUT_LEAK = ("sequence_leak", "table1_causal")
_CLAIMS_INTRODUCTION = """<!-- written by `make results` from all exports at the scale cpu -->

# The eleven claims of arXiv 2402.13089, at the scale `cpu`

Estimates are of `a` minus `b` in nats a token, on the test split, with the interval of the study's
design; the cells and everything else are on the page of each study. "not run": no export here has
it.
"""
_LEAK_INTRODUCTION = """Sequence routing by the mean over all positions lets later tokens choose the
experts of earlier ones. These studies route by a causal prefix, whose positions count in no loss:
"""
_TAU_INTRODUCTION = """Kendall's tau of our means with the published perplexities, and its interval
over seeds where a table has two.
"""
_LEAST_CELLS = 5  # of fewer, tau says nothing
_TAU_HEADINGS = ("table", "our corpus", "the paper's corpus", "tau", "cells")
_HEADINGS = ("table", "export", "launch", "trials", "seeds", "trained by")


def exports(folder: Path = RESULTS) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def page_of(file: Path) -> str:
    """The text of the page of one export: its table, footnotes and verdicts, and where they are
    from. A run is named as the home that trained it named it."""
    archived = read(file)
    with records_of(archived) as launch:
        # A page of MLflow on the machine that trained is nowhere for a reader of these.
        found = replace(launch.table(load_study(archived.study.name)), run_links={})
        table = render(found, "markdown")
        about = "\n\n".join(_about(archived, launch))
    return f"<!-- written by `make results` from {file.name} -->\n\n{table}\n{about}\n"


def _about(archived: ArchivedLaunch, launch: LaunchRecords) -> Iterator[str]:
    if (told := launch.info.attributes.get(RECOMMENDATION)) is not None:
        yield "## Recommendation"
        yield "\n".join(f"- {line}" for line in kept_lines(told, launch.trials))
        for headings, rows in tables_of(told):
            yield "\n".join(markdown_table(headings, rows))
    states = {s: n for s, n in count_states(launch.trials).items() if n}
    yield "Trials: " + ", ".join(f"{count} {state}" for state, count in states.items()) + "."
    for driver in archived.attributes.get("drivers", []):
        versions = ", ".join(f"{name} {v}" for name, v in driver["versions"].items())
        changed = (
            ", with changes that are in no commit" if driver.get("git.dirty") == "true" else ""
        )
        yield f"Driver: commit {driver.get('git.commit', 'unknown')}{changed}; {versions}."


def claims_page(files: list[Path]) -> str:
    """The paper's claims, what each corpus says of them, and the order of cells beside its own."""
    asked = {
        claim.id: claim.statement
        for name in _PAPER_STUDIES
        for claim in load_study(name).claims
        if re.fullmatch(r"C[0-9]+", claim.id)
    }
    found: dict[str, dict[str, str]] = {}
    leak: dict[str, dict[str, str]] = {}
    orders = []
    for file in files:
        archived = read(file)
        study, corpus = archived.study.name, archived.attributes["corpus"]
        if archived.attributes["scale"] != "cpu" or study not in (*_PAPER_STUDIES, *_WITHOUT_LEAK):
            continue
        page = f"[{file.stem}]({file.stem}.md)"
        with records_of(archived) as launch:
            table = launch.table(load_study(study))
        assert table.judgement is not None
        told = (leak if study in _WITHOUT_LEAK else found).setdefault(corpus, {})
        told |= {v.id: f"{_verdict_text(v)} ({page})" for v in table.judgement.verdicts}
        for published, tau in table.rank_correlation.items():
            if tau.tau is not None and tau.n >= _LEAST_CELLS:
                bounds = "" if tau.ci_low is None else f" [{tau.ci_low:.2f}, {tau.ci_high:.2f}]"
                orders.append([page, corpus, published, f"{tau.tau:.2f}{bounds}", str(tau.n)])
    first = {name: asked[name] for name in sorted(asked, key=lambda name: int(name[1:]))}
    second = {c.id: c.statement for name in _WITHOUT_LEAK for c in load_study(name).claims}
    taus = "\n".join(markdown_table(_TAU_HEADINGS, orders))
    return (
        f"{_CLAIMS_INTRODUCTION}\n{_claims_table(first, found, 'the paper says')}\n\n"
        f"{_LEAK_INTRODUCTION}\n{_claims_table(second, leak, 'statement')}\n\n"
        f"{_TAU_INTRODUCTION}\n{taus}\n"
    )


def _claims_table(
    statements: Mapping[str, str], told: Mapping[str, Mapping[str, str]], heading: str
) -> str:
    """A row a claim, a column a corpus."""
    rows = [
        [name, statement, *(of.get(name, "not run") for of in told.values())]
        for name, statement in statements.items()
    ]
    return "\n".join(markdown_table(("claim", heading, *told), rows))


def _verdict_text(verdict: Verdict) -> str:
    estimate = "" if verdict.estimate is None else f" {verdict.estimate:+.4f}"
    bounds = ""
    if verdict.ci_low is not None and verdict.ci_high is not None:
        bounds = f" [{verdict.ci_low:+.4f}, {verdict.ci_high:+.4f}]"
    return f"{verdict_word(verdict)}{estimate}{bounds}, n = {verdict.n}"


def contents(files: list[Path]) -> str:
    """The list of all exports, for the folder's README."""
    rows = []
    for file in files:
        archived = read(file)
        ended = [t.trial for t in archived.trials if t.trial.state.is_finished()]
        commits = {d.get("git.commit", "unknown")[:10] for d in archived.attributes["drivers"]}
        rows.append(
            [
                f"[{file.stem}.md]({file.stem}.md)",
                f"[{file.name}]({file.name}), {file.stat().st_size / 1000:.0f} kB",
                archived.name,
                f"{len(ended)} of {len(archived.trials)}",
                ", ".join(map(str, sorted({t.user_attrs["seed"] for t in ended}))) or "none",
                ", ".join(sorted(commits)),
            ]
        )
    return "\n".join(markdown_table(_HEADINGS, rows)) + "\n"


def renewed(text: str, made: str) -> str:
    """README's `text` with what stands between the marks replaced."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


def main() -> None:
    for file in exports():
        page = file.with_suffix(".md")
        page.write_text(page_of(file), encoding="utf-8")
        print(page)
    CLAIMS_PAGE.write_text(claims_page(exports()), encoding="utf-8")
    readme = RESULTS / "README.md"
    readme.write_text(renewed(readme.read_text("utf-8"), contents(exports())), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
