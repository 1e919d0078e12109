"""Study files: by name from `studies/`, or by path."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from orchestrator.base.errors import BadInput
from orchestrator.study.study import Study


def study_names() -> list[str]:
    package = importlib.import_module("studies")
    return sorted(
        module.name
        for module in pkgutil.iter_modules(package.__path__)
        if hasattr(importlib.import_module(f"studies.{module.name}"), "STUDY")
    )


def load_study(name_or_path: str) -> Study:
    """Raises BadInput where there is no such study, or its file cannot be used."""
    if name_or_path.endswith(".py") or "/" in name_or_path:
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
    return _study_of(importlib.import_module(f"studies.{name_or_path}"), name_or_path)


def _load_file(path: Path) -> ModuleType:
    if not os.path.isfile(path):  # Path.is_file raises on a name that is too long
        raise BadInput(f"a study file must exist; received {str(path)!r}. Correct the path.")
    spec = importlib.util.spec_from_file_location(f"study_file_{path.stem}", path)
    if spec is None:
        raise BadInput(f"a study file ends in .py; received {str(path)!r}. Rename it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise BadInput(
            f"a study file must run; {path} raised {type(error).__name__}: {error}. Mend it, and "
            f"try it with `python {path}`."
        ) from None
    return module


def _study_of(module: ModuleType, name: str) -> Study:
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise BadInput(
            f"a study file exposes STUDY, an orchestrator.study.Study; received {name!r}, where it "
            f"is {type(study).__name__}. Add `STUDY = Study(...)`."
        )
    return study
