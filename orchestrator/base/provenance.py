"""What code a driver ran with: commit, versions. Recorded beside the results, for the report."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from moe.code_digest import moe_digest

# This project's own.
CODE = ("moe", "search_spaces", "orchestrator", "studies")
# What changes a result or the record of it; everything else is in the run's environment.txt.
PACKAGES = ("torch", "numpy", "ray", "optuna", "mlflow", "tokenizers", "tiktoken")


def git_state() -> dict[str, str]:
    """Commit of this code, and whether its files differ from it; nothing where it is no checkout.

    Files that git does not know, such as a study that `moe-study new` wrote, make no difference.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"git.commit": commit, "git.dirty": str(bool(changed)).lower()}


def provenance() -> dict[str, Any]:
    """This process's code and versions; a package that is not installed is not listed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**git_state(), "moe_digest": moe_digest(), "versions": versions}
