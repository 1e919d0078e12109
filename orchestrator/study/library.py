"""Study files, always loaded by path: those of `studies/` by their names, a user's own by its path.

A file runs as `python FILE` would run it: what lies beside it can be imported.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator.base.errors import BadInput
from orchestrator.base.provenance import CODE
from orchestrator.study import claims
from orchestrator.study.study import Study

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "studies"
# This program's own are meant, also by a study file that lies in another checkout of it.
_OURS = ("moe", "orchestrator", "search_spaces")
# What study files of before 2026-11-25 import, and where it is now.
RENAMED: dict[str, tuple[str, ModuleType]] = {
    "orchestrator.claim_types": ("orchestrator.study", claims),
}


def study_names() -> list[str]:
    """Names of the files in `studies/` that assign STUDY; none is run."""
    return sorted(path.stem for path in STUDIES.glob("*.py") if _assigns_study(path))


def load_study(name_or_path: str) -> Study:
    """Raises BadInput where there is no such study, or its file cannot be used."""
    if is_path(name_or_path):
        return _study_of(_load_file(Path(name_or_path)), name_or_path)
    names = study_names()
    if name_or_path not in names:
        if os.path.isfile(f"{name_or_path}.py"):
            names = [*names, f"{name_or_path}.py"]
        near = difflib.get_close_matches(name_or_path, names, n=2, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(names)}."
        raise BadInput(
            "STUDY is a name that `moe-study list` shows, or a path to a .py file; received "
            f"{name_or_path!r}. {hint}"
        )
    return _study_of(_load_file(STUDIES / f"{name_or_path}.py"), name_or_path)


def is_path(name_or_path: str) -> bool:
    return name_or_path.endswith(".py") or "/" in name_or_path


def imported_beside(path: Path) -> list[Path]:
    """Files that a loaded study file has imported from its own folder, relative to that folder."""
    found = {relative for _, relative in _neighbours(path.resolve().parent)}
    return sorted(found)


def _assigns_study(path: Path) -> bool:
    targets = (
        target
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    )
    return any(isinstance(target, ast.Name) and target.id == "STUDY" for target in targets)


def _load_file(path: Path) -> ModuleType:
    if not os.path.isfile(path):  # Path.is_file raises on a name that is too long
        raise BadInput(f"a study file must exist; received {str(path)!r}. Correct the path.")
    spec = importlib.util.spec_from_file_location(f"study_file_{path.stem}", path)
    if spec is None:
        raise BadInput(f"a study file ends in .py; received {str(path)!r}. Rename it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with _imports_as_a_script(path.resolve().parent), _old_names():
            _require_own_names(path)
            spec.loader.exec_module(module)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(
            f"a study file must run; {path} raised {type(error).__name__}: "
            f"{str(error).rstrip('. ')}. Mend it, and try it with `python {path}`."
        ) from None
    return module


def _require_own_names(path: Path) -> None:
    """Raises BadInput where the file imports a neighbour whose name is another module's, loaded
    already: it would get that one."""
    folder = path.resolve().parent
    if folder == STUDIES:
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # said when it is run
        return
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in {whole.partition(".")[0] for whole in names}:
            places = (folder / f"{name}.py", folder / name / "__init__.py")
            beside = next((place for place in places if place.is_file()), None)
            loaded = getattr(sys.modules.get(name), "__file__", None)
            if beside is None or loaded is None or name in _OURS:
                continue
            if not Path(loaded).resolve().is_relative_to(folder):
                raise BadInput(
                    f"a module beside a study file has a name that no other has; {path} imports "
                    f"{name}, which is {beside} and, loaded already, {loaded}. Rename the first."
                )


@contextlib.contextmanager
def _imports_as_a_script(folder: Path) -> Iterator[None]:
    """The file's folder is looked in first, and afterwards last: a function of the file may import
    from it later, and nothing else is to find a module of the user's in place of its own."""
    if folder == STUDIES:  # these import each other as `studies.NAME`
        yield
        return
    entry = str(folder)
    for other in _folders - {folder}:  # two folders may each have a helper of one name
        for name, _ in _neighbours(other):
            del sys.modules[name]
        _folders.discard(other)
    _folders.add(folder)
    sys.path[:] = [entry, *(each for each in sys.path if each != entry)]
    try:
        yield
    finally:
        sys.path.remove(entry)
        sys.path.append(entry)


_folders: set[Path] = set()  # whose modules may be loaded


def _neighbours(folder: Path) -> list[tuple[str, Path]]:
    """Modules that were imported from a folder by their place in it: name and relative path."""
    found = []
    real = functools.cache(os.path.realpath)  # thousands of modules lie in a few folders
    for name, module in list(sys.modules.items()):
        file, place = getattr(module, "__file__", None) or "", name.replace(".", "/")
        for relative in (f"{place}.py", f"{place}/__init__.py"):
            if file.endswith(f"/{relative}") and real(file[: -len(relative)]) == str(folder):
                found.append((name, Path(relative)))
    if folder == ROOT:  # of a checkout: its packages are no part of the study
        found = [(name, place) for name, place in found if place.parts[0] not in CODE]
    return found


class _OldName(ModuleType):
    """Stands for a module that has another name now, and says so once it is used."""

    is_told = False

    def __getattr__(self, name: str) -> Any:
        new, module = RENAMED[self.__name__]
        if name == "__all__":
            return [each for each in vars(module) if not each.startswith("_")]
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(module, name)
        if not self.is_told:
            self.is_told = True
            log.warning("%s is now called %s: rename it where it is imported", self.__name__, new)
        return value


@contextlib.contextmanager
def _old_names() -> Iterator[None]:
    """Names of before 2026-11-25 can be imported while a study file runs, and by nothing else."""
    if any(isinstance(sys.modules.get(old), _OldName) for old in RENAMED):
        yield  # of a file that loads another one
        return
    for old in RENAMED:
        parent, _, leaf = old.rpartition(".")
        sys.modules[old] = _OldName(old)
        setattr(sys.modules[parent], leaf, sys.modules[old])
    try:
        yield
    finally:
        for old in RENAMED:
            parent, _, leaf = old.rpartition(".")
            delattr(sys.modules[parent], leaf)
            del sys.modules[old]


def _study_of(module: ModuleType, name: str) -> Study:
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise BadInput(
            f"a study file exposes STUDY, an orchestrator.study.Study; received {name!r}, where it "
            f"is {type(study).__name__}. Add `STUDY = Study(...)`."
        )
    return study
