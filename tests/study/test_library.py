"""Study files: by name or path, with what lies beside them, and those of before the rooms."""

from __future__ import annotations

import ast
import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.base.errors import BadInput
from orchestrator.base.provenance import CODE
from orchestrator.cluster.submit import STUDY_FOLDER, submit
from orchestrator.study.library import RENAMED, ROOT, imported_beside, load_study, study_names

HELPER = """
import dataclasses
from studies.scales import SMOKE
TINY = dataclasses.replace(SMOKE, train=dataclasses.replace(SMOKE.train, num_steps={steps}))
"""
STUDY = """
from orchestrator.study import Study
from search_spaces.cells import Cell
from my_scales import TINY

def cells(base):
    from extras.late import NAME
    return [Cell(name=NAME, overrides={})]

STUDY = Study(name="with_helper", question="?", baseline="late", held_fixed="all",
              scales={"smoke": TINY}, cells=cells, seeds=(0,))
"""
OLD = """
{imports}
from orchestrator.study import Study
from search_spaces.budget import dense_baselines
from search_spaces.cells import Cell
from studies.scales import SMOKE

STUDY = Study(
    name="old", question="?", baseline="a", held_fixed="all", scales={{"smoke": SMOKE}},
    cells=[Cell(name="a", overrides={{}}), Cell(name="b", overrides={{"moe.num_experts": 8}})],
    claims=({better}(id="X1", statement="b beats a", a="b", b="a"),),
)
"""


@pytest.fixture(autouse=True)
def _own_imports(monkeypatch):
    before = dict(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in set(sys.modules) - set(before):
        if name.partition(".")[0] in ("my_scales", "extras"):
            del sys.modules[name]


def project(folder: Path, steps: int = 2) -> Path:
    (folder / "extras").mkdir(parents=True)
    (folder / "extras/__init__.py").touch()
    (folder / "extras/late.py").write_text("NAME = 'late'\n")
    (folder / "my_scales.py").write_text(HELPER.format(steps=steps))
    (folder / "unused.py").write_text("raise SystemExit('not imported')\n")
    file = folder / "with_helper.py"
    file.write_text(STUDY)
    return file


def test_a_file_imports_what_lies_beside_it(tmp_path):
    file = project(tmp_path / "first", steps=2)
    study = load_study(str(file))
    base = study.scales["smoke"]
    assert base.train.num_steps == 2
    assert [cell.name for cell in study.cells_over(base)] == ["late"], "also when it is called"
    names = ["extras/__init__.py", "extras/late.py", "my_scales.py"]
    assert imported_beside(file) == [Path(name) for name in names]


def test_two_folders_each_have_their_own_helper(tmp_path):
    files = [project(tmp_path / str(steps), steps) for steps in (2, 4, 6)]
    for _ in range(2):
        found = [load_study(str(file)).scales["smoke"].train.num_steps for file in files]
        assert found == [2, 4, 6]


def test_what_it_imports_is_sent_with_it(tmp_path):
    file = project(tmp_path / "own")
    study = load_study(str(file))
    study.cells_over(study.scales["smoke"])
    sent = {}

    class Client:
        def submit_job(self, runtime_env, **_):
            root = Path(runtime_env["working_dir"])
            sent["files"] = {str(p.relative_to(root)) for p in (root / STUDY_FOLDER).rglob("*.py")}
            told = sent["told"] = json.loads((root / "arguments.json").read_text())
            # As the driver on the cluster loads it: from the working directory alone.
            sent["names"] = subprocess.run(
                [
                    *(sys.executable, "-c"),
                    "from orchestrator.study.library import load_study\n"
                    f"study = load_study({told[1]!r})\n"
                    "print([c.name for c in study.cells_over(study.scales['smoke'])])",
                ],
                cwd=root,
                env={"PYTHONPATH": str(root), "PATH": ""},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            return "job-1"

    beside = imported_beside(file)
    more = ["--share", "0.2"]
    named = {"command": "recommend", "name": study.name, "launch": study.name}
    submit(Client(), str(file), more, **named, beside=beside)
    file_there = f"{STUDY_FOLDER}/with_helper.py"
    assert sent["told"] == ["recommend", file_there, "--address", "auto", *more]
    assert sent["names"] == "['late']"
    assert sent["files"] == {
        f"{STUDY_FOLDER}/{name}"
        for name in ("with_helper.py", "my_scales.py", "extras/__init__.py", "extras/late.py")
    }


def test_a_helper_whose_name_is_taken_is_named(tmp_path):
    """It would be given the other one, which is loaded already."""
    (tmp_path / "random.py").write_text("LR = 1\n")
    (tmp_path / "mine.py").write_text("from random import LR\n")
    with pytest.raises(BadInput, match=r"imports random, which is .*Rename the first"):
        load_study(str(tmp_path / "mine.py"))
    (tmp_path / "other.py").write_text("import json\n")  # what is not imported disturbs nobody
    with pytest.raises(BadInput, match="exposes STUDY"):
        load_study(str(tmp_path / "other.py"))


def test_a_helper_that_is_missing_is_named(tmp_path):
    file = project(tmp_path / "own")
    (tmp_path / "own/my_scales.py").unlink()
    with pytest.raises(BadInput, match="No module named 'my_scales'"):
        load_study(str(file))


@pytest.mark.parametrize(
    ("imports", "better"),
    [
        ("from orchestrator.claim_types import Better", "Better"),
        ("from orchestrator.claim_types import *", "Better"),
        ("import orchestrator.claim_types as claim_types", "claim_types.Better"),
        ("import orchestrator.claim_types", "orchestrator.claim_types.Better"),
    ],
)
def test_files_of_before_the_rooms_load_and_are_told(tmp_path, caplog, imports, better):
    file = tmp_path / "old.py"
    file.write_text(OLD.format(imports=imports, better=better))
    with caplog.at_level(logging.WARNING):
        study = load_study(str(file))
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("orchestrator.claim_types is now called orchestrator.study")
    # Claims are of the one class that there is, and go to other processes.
    assert type(study.claims[0]).__module__ == "orchestrator.study.claims"
    assert pickle.loads(pickle.dumps(study.claims)) == study.claims
    assert not set(RENAMED) & set(sys.modules), "the old name is for study files alone"


def test_a_file_of_now_hears_nothing(caplog):
    assert load_study("quickstart").name == "quickstart"
    assert not caplog.records


def test_names_are_those_of_files_that_assign_a_study():
    names = study_names()
    assert {"quickstart", "search", "paper_table1"} <= set(names)
    assert not {"scales", "paper_cells"} & set(names)
    by_path = load_study(str(ROOT / "studies/paper_table2.py"))
    assert load_study("paper_table2") == by_path


def test_no_package_is_imported_by_a_name_that_is_data():
    """What import-linter cannot see: `studies` is loaded by path, as a user's file is."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in CODE
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", ""))
        in ("import_module", "__import__", "iter_modules", "run_module")
    ]
    assert not found
