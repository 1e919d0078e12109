"""Commands that let results travel without their home: `export` and `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    JsonOption,
    MlflowOption,
    StudyArgument,
    WhichLaunch,
    WhichStores,
    app,
    errors,
    load_study_here,
    print_json,
    read_newest,
)


@app.command("export")
@grouped
def export_command(
    study: StudyArgument,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Where to (STUDY-SCALE.moe-study, here)."),
    ] = None,
    *,
    which: WhichLaunch,
    mlflow_uri: MlflowOption = None,
) -> None:
    """The newest launch as one small file, without checkpoints and tokens; `import` reads it.

    Example: moe-study export quickstart -o quickstart.moe-study
    """
    from orchestrator.archive import container
    from orchestrator.archive.archived_launch import pack
    from orchestrator.archive.export_launch import export_launch
    from orchestrator.stores.mlflow_client import connect, quiet, require_usable

    loaded, launch = read_newest(study, which)
    quiet()
    uri = launch.home.mlflow_uri if mlflow_uri is None else mlflow_uri
    require_usable(uri, must_exist=True)
    archived = export_launch(launch, connect(uri))
    path = out or Path(f"{loaded.name}-{launch.info.attributes['scale']}{container.SUFFIX}")
    container.write(path, pack(archived))
    print(path, flush=True)
    ended = sum(trial.trial.state.is_finished() for trial in archived.trials)
    waiting = len(archived.trials) - ended
    errors.print(
        f"{launch.info.name}: {ended} trials"
        + (f", and {waiting} that have not come to their end" if waiting else "")
        + f"; {path.stat().st_size:,} bytes",
        highlight=False,
        soft_wrap=True,
    )


@app.command("import")
@grouped
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    *,
    stores: WhichStores,
    as_json: JsonOption = False,
) -> None:
    """The launch of a file, taken into a home: the same table, claims, figures and report there.

    What the home has already is not taken again. Example: moe-study import quickstart.moe-study
    """
    from orchestrator.archive.archived_launch import read
    from orchestrator.archive.import_launch import import_launch
    from orchestrator.driver.publish import publish_analysis
    from orchestrator.report.records import read_launches

    def say(line: str) -> None:
        errors.print(line, highlight=False, soft_wrap=True)

    archived = read(file)
    chosen = Home.at(stores.home)
    done = import_launch(archived, chosen, **stores.outside, say=say)
    if done.taken:
        launches = read_launches(
            archived.study.name, home=chosen, optuna_storage=stores.optuna_storage
        )
        launch = next(found for found in launches if found.info.name == archived.name)
        try:
            publish_analysis(
                launch, load_study_here(archived.study.name), **stores.outside, say=say
            )
        except BadInput:
            say(
                f"{archived.study.name}.py is not in this folder: beside it `moe-study table "
                f"{archived.study.name}.py` shows the table; the pages show the trials"
            )
    counted = f"{done.taken} trials taken, {done.known} known already"
    say(f"{archived.name}: {counted}" + (f", {done.waiting} wait" if done.waiting else ""))
    if done.undelivered:
        say(f"MLflow does not have all of it yet: moe-study deliver --home {chosen.root}")
    if as_json:
        print_json(
            {
                "study": archived.study.name,
                "launch": archived.name,
                "taken": done.taken,
                "known": done.known,
                "waiting": done.waiting,
                "undelivered": done.undelivered,
            }
        )
    raise typer.Exit(1 if done.undelivered else 0)
