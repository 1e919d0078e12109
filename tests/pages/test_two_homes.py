"""From two homes and a colleague's file to a table and a figure, by docs/paper.md's commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from moe.metrics import STEP, TIMESTAMP_MS, VAL_LOSS
from orchestrator.base.home import Home
from orchestrator.driver.options import Options
from orchestrator.driver.session import opened
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve

ROOT = Path(__file__).parents[2]
PAPER = (ROOT / "docs/paper.md").read_text("utf-8")


def filled(folder, template, corpus, small, values, rate):
    """A home whose trials came to planted values: a mean a kind of cell, seeds around it."""
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    sizes = (word.partition("=") for word in small[1::2])
    overrides = {path: int(value) for path, _, value in sizes}
    launch = resolve(
        load_study("quickstart"),
        overrides={**overrides, "optim.learning_rate": rate},
        corpus_spec=corpus,
        seeds=range(6),
    )
    options = Options(home=Home(folder))
    with opened(launch, options, say=lambda line: None, start_cluster=False) as session:
        ledger = session.ledger
        while (assignment := ledger.next()) is not None:
            number, seed = assignment.record.number, assignment.record.seed
            kind = "dense" if assignment.record.cell.startswith("dense") else "mixture"
            wiggle = 0.002 * ((7 * number + 3 * seed) % 5) + 0.01 * seed
            ledger.started(number)
            entry = {STEP: 8, TIMESTAMP_MS: 1, VAL_LOSS: values[kind] + wiggle}
            ledger.progressed(number, entry)
            ledger.completed(number, entry, tokens=1024)
    return launch


def commands(title):
    """Those of one section of the page, with the file that their output goes to."""
    section = PAPER.partition(f"## {title}")[2].partition("\n## ")[0]
    for line in re.findall(r"^    moe-study (.*)$", section, re.M):
        words = shlex.split(line, comments=True)
        target = words[words.index(">") + 1] if ">" in words else None
        yield words[: words.index(">")] if target else words, target


def test_two_homes_and_a_file_become_a_table_and_a_figure(
    tmp_path, monkeypatch, mlflow_template, corpus, small, moe_study
):
    monkeypatch.chdir(tmp_path)
    for name, values, rate in (
        ("lab-a", {"dense": 5.0, "mixture": 4.5}, 0.003),
        ("lab-b", {"dense": 4.8, "mixture": 5.2}, 0.002),
    ):
        filled(tmp_path / name, mlflow_template, corpus, small, values, rate)
    shutil.copytree("lab-a", "moe-runs")
    shutil.copy(ROOT / "docs/results/quickstart.moe-study", "theirs.moe-study")

    for title in ("A table", "A figure", "Two launches, or more"):
        ran = 0
        for words, target in commands(title):
            if any(word.startswith("load-") for word in words):
                continue  # planted trials have no routing arrays
            code, out, err = moe_study(*words)
            assert code == 0, (words, err)
            if target:
                Path(target).write_text(out)
            ran += 1
        assert ran >= 2, title
    assert Path("both.pdf").read_bytes().startswith(b"%PDF")
    assert Path("curves.pdf").read_bytes().startswith(b"%PDF")
    for name in ("table.tex", "both.tex"):
        assert "\\toprule" in Path(name).read_text(), name

    code, out, _ = moe_study("compare", "lab-a=quickstart", "lab-b", "theirs.moe-study", "--json")
    found = json.loads(out)
    assert code == 0
    changed = {claim["id"]: claim["verdicts"] for claim in found["claims"] if claim["changed"]}
    assert changed["mixture"][:2] == ["supported", "refuted"]
    dense = next(cell for cell in found["cells"] if cell["cell"] == "dense-active")
    to_b, to_file = dense["differences"]
    assert (to_b["estimate"], to_b["decided"]) == (pytest.approx(-0.2), True)
    assert "different text" in to_file["reason"]
    assert dense["differs"]["optim.learning_rate"][:2] == [0.003, 0.002]
    code, out, _ = moe_study("compare", "lab-a", "lab-b")
    assert code == 0
    assert "supported" in out
    assert "refuted" in out


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_the_table_of_a_comparison_compiles(tmp_path, moe_study):
    export = ROOT / "docs/results/quickstart.moe-study"
    code, out, err = moe_study("compare", export, export, "--format", "latex")
    assert code == 0, err
    text = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "it.tex").write_text(text % out)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "it.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
