"""`recommend`: the end of a search."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.base.errors import BadInput
from orchestrator.cli.how_run import HowRun
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    AskedLaunch,
    JsonOption,
    StudyArgument,
    WhichStores,
    app,
    errors,
    output,
    print_json,
)

if TYPE_CHECKING:
    from orchestrator.driver.options import Options
    from orchestrator.driver.session import Session
    from orchestrator.report.recommendation import Recommendation
    from orchestrator.study.launch import Launch

FILE = "recommendation.json"


@app.command("recommend")
@grouped
def recommend_command(
    study: StudyArgument,
    *,
    asked: AskedLaunch,
    stores: WhichStores,
    share: Annotated[
        float, typer.Option(help="What the race gets of all trainings, the search's among them.")
    ] = 1 / 3,
    trainings: Annotated[
        int | None, typer.Option(help="So many trainings for the race, in place of a share.")
    ] = None,
    write_study: Annotated[
        Path | None,
        typer.Option(metavar="FILE.py", help="Write a study of the finalists, for the next scale."),
    ] = None,
    how: HowRun,
    as_json: JsonOption = False,
) -> None:
    """Train a search's best points on fresh seeds until one is left, and tell how sure it is.

    The same command continues; once the race is over it trains nothing, and tells again.

    Example: moe-study recommend search --share 0.3 --write-study next.py
    """
    from orchestrator.cli.progress import RunProgress
    from orchestrator.driver.publish import publish
    from orchestrator.driver.recommending import Asked
    from orchestrator.driver.session import opened
    from orchestrator.driver.tune_loop import run
    from orchestrator.report.follow_up import require_writable, write_follow_up

    launch = asked.resolved(study, draws=False)
    if write_study is not None:
        require_writable(write_study, launch)
    options = how.options(stores, recommending=Asked(share=share, trainings=trainings))
    _require_searched(launch, options)
    with (
        redirect_stdout(sys.stderr),
        RunProgress(errors) as progress,
        opened(
            launch, options, say=progress.say, listener=progress, preparing=progress.preparing
        ) as session,
    ):
        progress.planned(session.ledger)
        run(session)
        found = _recommendation(session)
        if found.race.is_over:
            _keep(session, found)
        if not session.interrupted:
            publish(session)
    if as_json:
        print_json(found.as_json())
    else:
        for line in found.lines():
            output.print(line, highlight=False)
    if (above := launch.study.rung_above(launch.scale)) and found.race.is_over:
        again = ["--scale", above, *asked.changes, *asked.of_corpus, *stores.options]
        errors.print(
            f"next: {shlex.join(['moe-study', 'run', study, *again])}, the next rung of its "
            f"ladder, where the best {launch.study.ladder_points} points are trained",
            highlight=False,
            soft_wrap=True,  # a command is to be copied whole
        )
    if write_study is not None and found.race.is_over and found.race.winner is not None:
        name = write_follow_up(write_study, study, launch, found)
        again = [str(write_study), *asked.of_corpus, *stores.options]
        command = shlex.join(["moe-study", "run", *again])
        errors.print(f"next: {command} ({name})", highlight=False, soft_wrap=True)
    if session.interrupted:
        errors.print("interrupted; the same command continues", highlight=False)
        raise typer.Exit(130)
    # A trial of the search that failed is no fault of the race.
    raise typer.Exit(0 if found.race.is_over and not session.undelivered else 1)


def _require_searched(launch: Launch, options: Options) -> None:
    """Raises BadInput where the home has no search to recommend from, before anything is made."""
    from orchestrator.driver.recommending import require_raceable
    from orchestrator.report.race import searched
    from orchestrator.report.records import read_launches

    require_raceable(launch)
    known = read_launches(
        launch.study.name, home=options.home, optuna_storage=options.optuna_storage
    )
    found = next((one for one in known if one.info.name == launch.name), None)
    if found is None:
        raise BadInput(
            f"a recommendation is of a search that was run; received {launch.name}, which the home "
            "lacks. Run it first: moe-study run with the same options."
        )
    assert options.recommending is not None
    options.recommending.budget(searched(found.trials, launch.study.constraints))


def _recommendation(session: Session) -> Recommendation:
    from orchestrator.driver.recommending import effects_of, ends_of
    from orchestrator.report.recommendation import Recommendation
    from orchestrator.stores.configurations import told_apart
    from orchestrator.surrogate.effects import Effects

    race = session.race
    assert race is not None
    launch, info = session.launch, session.search.info
    trials = told_apart(session.records, info.attributes, session.options.home)
    effects, at_ends = Effects(why_not="no point is recommended"), {}
    if race.winner is not None:
        params = next(r.params for r in trials if r.cell_hash == race.winner.point)
        effects, at_ends = effects_of(launch, trials, params), ends_of(launch.space, params)
    return Recommendation.of(
        launch.study.name, info.name, launch.study.metric, race, trials, effects, at_ends
    )


def _keep(session: Session, found: Recommendation) -> None:
    """With the launch, for whoever reads it, and beside its other files in MLflow."""
    from orchestrator.stores.optuna_launches import RECOMMENDATION

    session.search.keep(RECOMMENDATION, found.as_json())
    path = session.parent_folder / FILE
    path.write_text(json.dumps(found.as_json(), indent=2) + "\n")
    session.tracking.log_artifact(session.tracking.parent_run_id, path)
