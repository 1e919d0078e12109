"""What a trial's process imports as it starts: every trial of a study pays for it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
STORES = ("mlflow", "optuna", "sqlalchemy", "matplotlib", "plotly")


def imported_at_once(module: str) -> set[str]:
    """Modules that a module's top level imports, not those that its functions do."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    path = path if path.exists() else ROOT / module.replace(".", "/") / "__init__.py"
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = ROOT / f"{node.module.replace('.', '/')}/{alias.name}.py"
                found.add(f"{node.module}.{alias.name}" if inner.exists() else node.module)
    return found


def test_a_trials_process_starts_without_the_stores():
    """MLflow was a third of the processor time of its start; only the driver writes to stores."""
    seen: set[str] = set()
    ahead = {"orchestrator.driver.worker", "moe.train.training_run"}
    while ahead:
        module = ahead.pop()
        seen.add(module)
        if module.split(".")[0] in ("orchestrator", "moe", "search_spaces"):
            ahead |= imported_at_once(module) - seen
    assert "torch" in seen
    assert not [name for name in seen if name.split(".")[0] in STORES]
