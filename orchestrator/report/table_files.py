"""The table, the registered claims and the environment of a launch, as files.

MLflow's page of the parent run lists only the latest children, so it gets the table as an artifact.
"""

from __future__ import annotations

import json
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from orchestrator.report.table_text import render
from orchestrator.report.tables import Table
from orchestrator.study.registration import History


def write_table(table: Table, folder: Path) -> list[Path]:
    paths = []
    for form, suffix in (("markdown", "md"), ("csv", "csv"), ("json", "json")):
        paths.append(folder / f"table.{suffix}")
        paths[-1].write_text(render(table, form))
    return paths


def write_registration(history: History, folder: Path) -> Path:
    """What the study claimed, and since when."""
    path = folder / "registration.json"
    path.write_text(json.dumps(history, indent=1))
    return path


def write_environment(folder: Path) -> Path:
    """Python and every installed distribution, as pip would freeze them."""
    path = folder / "environment.txt"
    path.write_text(_environment())
    return path


@cache
def _environment() -> str:
    installed = {f"{d.name}=={d.version}" for d in metadata.distributions()}
    lines = [f"# Python {platform.python_version()}", *sorted(installed, key=str.lower)]
    return "".join(f"{line}\n" for line in lines)
