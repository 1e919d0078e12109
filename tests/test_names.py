"""Names of files: one meaning each in the whole tree, and those that texts mention are there."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from orchestrator.study.library import RENAMED
from search_spaces.axes import describe_axes

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("moe", "search_spaces", "orchestrator", "studies")
FOLDERS = (*PACKAGES, "tests", "benchmarks", "docs", "deploy")
SHARED = ("__init__.py", "__main__.py", "conftest.py")

PYTHON = sorted(
    path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if path.is_file()
)
# The log tells of files as they were.
PAGES = sorted(
    path for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")] if path.stem != "log"
)

AXES = {axis.path for axis in describe_axes()}
PATH = re.compile(rf"\b(?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|md|toml|json|txt|ya?ml|j2|js|css)\b")
IMPORT = re.compile(rf"(?:from|import) ((?:{'|'.join(PACKAGES)})(?:\.\w+)+)")
COMMENT = re.compile(r"#.*")
MODULE = re.compile(rf"(?<![\w./:'@-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?!\w|[/(]|\.\w)")


def identity(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_two_files_have_one_name():
    places = defaultdict(list)
    for path in PYTHON:
        if path.name not in SHARED:
            places[path.name].append(identity(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def said(path: Path) -> str:
    """A page whole; of code its docstrings and comments."""
    source = path.read_text("utf-8")
    if path.suffix == ".md":
        return source
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    return "\n".join([*(ast.get_docstring(node) or "" for node in nodes), *COMMENT.findall(source)])


def missing(path: Path) -> set[str]:
    text = said(path)
    found = {n for n in PATH.findall(text) if "NAME" not in n and not (ROOT / n).exists()}
    found |= {name for name in MODULE.findall(text) if not _is_there(name)}
    # What other processes are told to import stands in text, where nobody else looks.
    return found | {
        name for name in IMPORT.findall(path.read_text("utf-8")) if not _is_module(name)
    }


def _is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return name in RENAMED or place.with_suffix(".py").exists() or place.is_dir()


def _is_there(name: str) -> bool:
    """A module, something that one defines, or an axis; NAME stands for any."""
    parts = name.split(".")
    if name in AXES or name in RENAMED or parts[-1] in ("NAME", "md"):
        return True
    for cut in range(len(parts), 1, -1):
        place = ROOT.joinpath(*parts[:cut])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.exists():
                own = cut == len(parts) or re.search(rf"\b{parts[cut]}\b", file.read_text("utf-8"))
                return bool(own)
    return False


@pytest.mark.parametrize("path", [*PAGES, *PYTHON], ids=identity)
def test_files_and_modules_that_a_text_names_are_there(path):
    assert missing(path) == set()
