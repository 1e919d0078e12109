"""The resolved cells of every study at every scale, kept as text that is reviewed.

A change of a study, a scale or the accounting shows up here as a diff. To accept one:

    python tests/studies/test_golden.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from moe.accounting import account
from moe.config import TrialConfig
from orchestrator.study import Study
from orchestrator.study.library import load_study, study_names
from search_spaces.overlay import diff, flatten
from studies.scales import SCALES

GOLDEN = Path(__file__).parents[1] / "golden"


def scales_text() -> str:
    """Every field of every scale."""
    lines = []
    for name, base in SCALES.items():
        lines.append(f"[{name}]")
        lines += [f"{path} = {value}" for path, value in flatten(base).items()]
        lines.append("")
    return "\n".join(lines)


def study_text(study: Study) -> str:
    """Of each scale what it changes against its name's, or `cpu`, in `scales.SCALES`; of each cell
    what it changes, and its parameters."""
    lines = []
    for scale, base in study.scales.items():
        seeds = ",".join(map(str, study.seeds_at(scale)))
        changed = _changes(diff(SCALES.get(scale, SCALES["cpu"]), base))
        lines.append(f"[{scale}] seeds={seeds} {changed}".rstrip())
        if study.is_grid:
            lines += [
                _cell_text(cell.name, base, cell.config(base)) for cell in study.cells_over(base)
            ]
        else:
            space = study.space(base) if callable(study.space) else study.space
            lines += [f"{path} in {domain}" for path, domain in space.axes.items()]
        lines.append("")
    return "\n".join(lines)


def _cell_text(name: str, base: TrialConfig, config: TrialConfig) -> str:
    sizes = account(config)
    return (
        f"{name}: total={sizes.params_total} active={sizes.params_active} "
        f"{_changes(diff(base, config))}"
    ).rstrip()


def _changes(changes: dict[str, object]) -> str:
    return " ".join(f"{path}={value}" for path, value in changes.items())


@pytest.mark.parametrize("name", study_names())
def test_study_resolves_as_reviewed(name):
    golden = GOLDEN / f"{name}.txt"
    assert golden.exists(), f"no golden text of {name}: see the top of {__file__}"
    assert study_text(load_study(name)) == golden.read_text()


def test_scales_are_as_reviewed():
    assert scales_text() == (GOLDEN / "scales.txt").read_text()


def test_no_golden_text_without_a_study():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {*study_names(), "scales", "hashes"}


if __name__ == "__main__":
    (GOLDEN / "scales.txt").write_text(scales_text())
    for study_name in study_names():
        (GOLDEN / f"{study_name}.txt").write_text(study_text(load_study(study_name)))
