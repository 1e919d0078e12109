"""The tables of docs/results are what their exports say, and small enough to be kept."""

from __future__ import annotations

import re
import runpy
import zipfile
from pathlib import Path

import pytest

from orchestrator.archive.archived_launch import read

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
    assert file.stat().st_size < 20_000 + 12_000 * trials + 14_000 * trials * probes


def test_the_page_of_the_claims_has_each_once_with_what_the_exports_say():
    page = _CLAIMS["PAGE"].read_text("utf-8")
    assert page == _CLAIMS["claims_page"](FILES), "run `make results`"
    assert re.findall(r"^\| C(\d+) \|", page, re.M) == [str(i) for i in range(1, 12)]
    assert re.search(r"^\| C2 .*(supported|refuted|undecided).*paper_table1", page, re.M)


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
