"""The pages of docs/results: `python docs/result_tables.py` (`make results`) writes them anew.

Each page comes from the export of one launch beside it, `NAME.moe-study`: nothing is typed, and no
home is needed. A test holds the pages equal to what this writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.archive.archived_launch import ArchivedLaunch, read, records_of
from orchestrator.archive.container import SUFFIX
from orchestrator.report.recommendation import kept_lines
from orchestrator.report.recommendation_text import tables_of
from orchestrator.report.records import LaunchRecords
from orchestrator.report.table_text import render
from orchestrator.report.verdict_text import markdown_table
from orchestrator.stores.optuna_launches import RECOMMENDATION
from orchestrator.stores.trial_record import count_states
from orchestrator.study.library import load_study

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- generated: make results -->", "<!-- end of generated -->"
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
    readme = RESULTS / "README.md"
    readme.write_text(renewed(readme.read_text("utf-8"), contents(exports())), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
