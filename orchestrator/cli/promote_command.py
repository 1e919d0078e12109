"""`promote`: points that early stopping ended, to their end."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.base.home import Home
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    JsonOption,
    StudyArgument,
    WhichLaunch,
    app,
    errors,
    print_json,
    read_newest,
)


@app.command("promote")
@grouped
def promote_command(
    study: StudyArgument,
    cells: Annotated[list[str], typer.Argument(metavar="CELL", help="Points, by their names.")],
    *,
    which: WhichLaunch,
    as_json: JsonOption = False,
) -> None:
    """Have points that early stopping ended trained to their end, whatever they come to there.

    The next `run` of the launch continues them from their checkpoints, as new trials.
    Example: moe-study promote search N16-K2-G1-learned-token-gate_switch-lr0.0083-e158
    """
    from orchestrator.driver.promoting import promote

    _, launch = read_newest(study, which)
    home = Home.at(which.home)
    home.require_writable()
    found = promote(launch, cells, home, which.optuna_storage)
    if as_json:
        told = [one.as_json() for one in found]
        print_json({"study": launch.info.study, "launch": launch.info.name, "promoted": told})
        return
    for one in found:
        errors.print(one.line(), highlight=False)
    errors.print(f"next: moe-study run {study}, with the same options as before", highlight=False)
