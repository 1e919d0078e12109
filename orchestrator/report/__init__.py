"""Tables, verdicts, figures, the report. For a notebook: `load` (docs/notebook.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.report.notebook import LaunchFrames


def load(study: str, **where: Any) -> LaunchFrames:
    """The newest launch of a study as pandas frames; see `orchestrator.report.notebook.load`."""
    from orchestrator.report.notebook import load as load_frames  # pandas: for who asks for it

    return load_frames(study, **where)
