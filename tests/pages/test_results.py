"""The tables of docs/results are what their exports say, and small enough to be kept."""

from __future__ import annotations

import re
import runpy
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.archive.archived_launch import read, records_of
from orchestrator.study.library import load_study

ROOT = Path(__file__).parents[2]
_TABLES = runpy.run_path(str(ROOT / "docs" / "result_tables.py"))
_CLAIMS = runpy.run_path(str(ROOT / "docs" / "claims_page.py"))
FILES = _TABLES["exports"]()
RESULTS = ROOT / "docs" / "results"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_page_is_what_its_export_says(file):
    page = file.with_suffix(".md").read_text("utf-8")
    assert page == _TABLES["page_of"](file), "run `make results`"
    trials = len(read(file).trials)  # most of it the losses of each by document
    with zipfile.ZipFile(file) as kept:  # and what each probe's words were assigned to
        probes = sum(name.endswith(".shares.parquet") for name in kept.namelist())
    assert file.stat().st_size < 20_000 + 13_000 * trials + 14_000 * trials * probes


def test_the_page_of_the_claims_has_each_once_with_what_the_exports_say():
    page = _CLAIMS["PAGE"].read_text("utf-8")
    assert page == _CLAIMS["claims_page"](FILES), "run `make results`"
    claims, _, rest = page.partition("## Where we differ")
    assert re.findall(r"^\| C(\d+) \|", claims, re.M) == [str(i) for i in range(1, 12)]
    refuted = re.findall(r"^\| (C\d+) \|.*\| refuted", claims, re.M)
    assert refuted
    assert set(refuted) <= set(re.findall(r"^\| (C\d+) \|", rest, re.M))
    assert re.search(r"^\| C2 .*(supported|refuted|undecided).*paper_table1", page, re.M)


def test_a_difference_is_told_with_what_turns_it():
    archived = read(RESULTS / "paper_table1.moe-study")
    with records_of(archived) as launch:
        verdicts = launch.table(load_study("paper_table1")).judgement.verdicts
    any_one = next(v for v in verdicts if v.with_causal_routes)

    def told(verdict, causal=None):
        routed = replace(any_one, verdict=causal, with_causal_routes=None) if causal else None
        return replace(any_one, verdict=verdict, with_causal_routes=routed), "page"

    docs = {
        "C1": told("supported", "undecided"),  # by the leak alone
        "C2": told("refuted"),  # and in deeper models, and on another corpus, it is not
        "C2-L6": told("supported"),
        "C2-rates": told("undecided"),
        "C3": told("refuted", "refuted"),
        "C4": told("supported", "supported"),
        "C5": told("undecided"),
    }
    rows = _CLAIMS["_differences"]([f"C{i}" for i in range(1, 12)], {
        "docs": docs, "code": {"C2": told("supported"), "C3": told("undecided")}
    })  # fmt: skip
    found = {(row[0], row[1]): row[3:] for row in rows}
    assert found.keys() == {("C1", "docs"), ("C2", "docs"), ("C3", "docs")}
    assert found["C1", "docs"] == ["undecided", "none"]
    assert found["C2", "docs"][1] == (f"supported: {any_one.statement} (page); supported on code")
    assert found["C3", "docs"] == ["refuted", "none"]


def test_no_page_is_typed_and_the_list_is_whole():
    assert FILES
    pages = {path.stem for path in RESULTS.glob("*.md")} - {"README", "eleven_claims"}
    assert pages == {file.stem for file in FILES}
    readme = (RESULTS / "README.md").read_text("utf-8")
    assert readme == _TABLES["renewed"](readme, _TABLES["contents"](FILES)), "run `make results`"
    for link in re.findall(r"\]\(([^):]+)\)", readme):
        assert (RESULTS / link).exists(), link
    assert {path.suffix for path in RESULTS.rglob("*")} == {".md", FILES[0].suffix}, (
        "nothing beside them"
    )
