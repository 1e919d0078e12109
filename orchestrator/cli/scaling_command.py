"""The command that reads a study at several sizes: `scaling`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    CorpusOption,
    HomeOption,
    JsonOption,
    StorageOption,
    StudyArgument,
    app,
    output,
    print_json,
    print_rows,
)
from orchestrator.study.library import load_study

if TYPE_CHECKING:
    from orchestrator.report.scaling import Scaling


@app.command()
@grouped
def scaling(
    study: StudyArgument,
    corpus: CorpusOption = None,
    reach: Annotated[
        float, typer.Option(help="Gaps up to so many times the largest size's FLOPs.")
    ] = 10.0,
    home: HomeOption = None,
    optuna_storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """A study at the scales and sizes that were run: loss against FLOPs, a law a cell, its gaps.

    Example: moe-study scaling quickstart --corpus stdlib
    """
    from orchestrator.report.records import read_launches
    from orchestrator.report.scaling import scaling as scaled

    if not 1 <= reach <= 1e6:
        raise BadInput(f"--reach is a number from 1 to 1e6; received {reach}. Correct it.")
    loaded = load_study(study)
    found = read_launches(
        loaded.name, home=Home.at(home), optuna_storage=optuna_storage, corpus=corpus
    )
    result = scaled(list(found), reach=reach)
    if as_json:
        print_json({"study": loaded.name, **result.to_dict()})
        return
    for title, headings, rows in _sections(result):
        if rows:
            output.print(f"\n{title}" if output.is_terminal else f"**{title}**\n", highlight=False)
            print_rows(headings, rows, fold=set(headings))
            if not output.is_terminal:
                print()
    for note in _notes(result):
        output.print(note, highlight=False, soft_wrap=not output.is_terminal)


def _sections(result: Scaling) -> list[tuple[str, list[str], list[list[str]]]]:
    from orchestrator.report.scaling import size_text

    sizes = [
        [
            name,
            size.launch,
            f"{size.flops:.3g}",
            f"{size.tokens:.3g}",
            f"{size.params_active:,}",
            size_text(size),
        ]
        for name, of in result.cells.items()
        for size in of
    ]
    laws = [
        [name, f"{law.e:.4f}", _ends(law.e_bounds), f"{law.alpha:.3f}", _ends(law.alpha_bounds)]
        for name, law in result.laws.items()
    ]
    gaps = [
        [
            gap.cell,
            f"{gap.estimate:+.4f}",
            _ends(gap.bounds, sign="+"),
            f"{gap.flops:.3g}",
            ", ".join(f"{flops:.3g}" for flops in gap.crossings) or "none",
            "-" if gap.share_crossing is None else f"{gap.share_crossing:.0%}",
        ]
        for gap in result.gaps
    ]
    grains = []
    if (grain := result.grains) is not None:
        cells = ", ".join(grain.cells)
        alpha, gamma = f"{grain.alpha:.3f}", f"{grain.gamma:.2f}"
        ends = _ends(grain.alpha_bounds), _ends(grain.gamma_bounds)
        grains.append([cells, f"{grain.e:.4f}", alpha, ends[0], gamma, ends[1]])
    turns = [[name, one, two] for name, pairs in result.turns.items() for one, two in pairs]
    of = f"difference from {result.reference}"
    return [
        ("Sizes", ["cell", "launch", "FLOPs", "tokens", "active", result.metric], sizes),
        ("Laws", ["cell", "E", "95%", "alpha", "95%"], laws),
        (
            f"Gaps: {of}, by the laws",
            ["cell", "gap", "95%", "at FLOPs", "order changes at", "of resamples"],
            gaps,
        ),
        ("Law over granularity", ["cells", "E", "alpha", "95%", "gamma", "95%"], grains),
        (f"Where the measured order changes: {of}", ["cell", "between", "and"], turns),
    ]


def _notes(result: Scaling) -> list[str]:
    from orchestrator.report.granularity_law import FORM as GRAIN_FORM
    from orchestrator.report.scaling import FORM, GRAIN_RESAMPLES, RESAMPLES

    lines = [f"{note}." for note in result.notes]
    if result.laws:
        lines.append(
            f"Form: {FORM}. Intervals are of {RESAMPLES} resamples of the seeds at each size: they "
            "say what seeds move, not whether the form holds beyond the sizes that were run."
        )
    if result.grains is not None:
        lines.append(
            f"Over granularity: {GRAIN_FORM}, of {GRAIN_RESAMPLES} resamples: what finer experts "
            "gain is the larger, the larger B and gamma are."
        )
    return lines


def _ends(bounds: Sequence[float] | None, sign: str = "") -> str:
    return "-" if bounds is None else f"[{bounds[0]:{sign}.4f}, {bounds[1]:{sign}.4f}]"
