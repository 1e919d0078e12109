"""Commands that change a home: `run`, `ingest` and `deliver`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.base.home import Home
from orchestrator.cli.how_run import HowRun
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    AskedLaunch,
    HomeOption,
    JsonOption,
    MlflowOption,
    SamplerOption,
    StudyArgument,
    TrialsOption,
    WarmStartOption,
    WhichStores,
    app,
    errors,
    listed,
    print_json,
)

if TYPE_CHECKING:
    from orchestrator.driver.options import Options
    from orchestrator.driver.session import Session
    from orchestrator.stores.trial_record import TrialRecord  # brings Optuna with it
    from orchestrator.study.launch import Launch


@app.command("run")
@grouped
def run_command(
    study: StudyArgument,
    *,
    asked: AskedLaunch,
    trials: TrialsOption = None,
    sampler: SamplerOption = None,
    warm_start: WarmStartOption = False,
    stores: WhichStores,
    how: HowRun,
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided",
            help="More seeds for the cells of claims that are still open, those nearest to a "
            "verdict first, until none is or the limits are spent. For a Sequential design.",
        ),
    ] = False,
    claims: Annotated[
        str | None,
        typer.Option(
            metavar="ID,ID", help="With --until-decided: the claims that get seeds, not all."
        ),
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="URL|COMMAND",
            help="Told as JSON when a trial fails and when the launch ends: by POST, or on the "
            "command's standard input.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run what is missing of a study. The same command continues an interrupted launch.

    Example: moe-study run quickstart --scale smoke --corpus 'files:texts/*.txt'
    """
    launch = asked.resolved(study, trials=trials, sampler=sampler, warm_start=warm_start)
    only = listed(claims) or ()
    options = how.options(stores, until_decided=until_decided, claims=tuple(only))
    sessions = list(_in_order(launch, options, notify))
    print_session(sessions[-1], as_json)
    undelivered = any(session.undelivered for session in sessions)
    raise typer.Exit(sessions[-1].exit_code or int(undelivered))


def _in_order(launch: Launch, options: Options, notify: str | None) -> Iterator[Session]:
    """The tuning of a grid's cells, where nothing is chosen for some of them yet, and once that has
    come to its end the launch itself."""
    from orchestrator.driver.cell_tuning import to_be_tuned
    from orchestrator.driver.session import require_runnable

    url = options.storage_url
    tuning = to_be_tuned(launch, url, retry_failed=options.retry_failed)
    if tuning is not None:
        require_runnable(launch, options)  # what follows is refused before this is paid for
        errors.print(f"tuning first: {tuning.name}", highlight=False, soft_wrap=True)
        session = _to_its_end(tuning, replace(options, until_decided=False, claims=()), notify)
        yield session
        if session.interrupted or to_be_tuned(launch, url) is not None:
            return
    yield _to_its_end(launch, options, notify)


def _to_its_end(launch: Launch, options: Options, notify: str | None) -> Session:
    """One launch, until nothing of it is left to run or somebody interrupts it."""
    from orchestrator.cli.notify import Notifier
    from orchestrator.cli.progress import RunProgress
    from orchestrator.driver.publish import publish
    from orchestrator.driver.session import opened
    from orchestrator.driver.tune_loop import run
    from orchestrator.stores.trial_record import count_states

    with (
        # Ray prints a lost node's last words on stdout, where a script's JSON belongs.
        redirect_stdout(sys.stderr),
        RunProgress(errors) as progress,
        ExitStack() as stack,  # the launch is put back in order while both are still there
    ):
        notifier, listener = None, progress
        if notify is not None:
            notifier = stack.enter_context(Notifier(notify, launch.name, progress.say))
            listener = _both(progress, notifier)
        session = stack.enter_context(
            opened(
                launch, options, say=progress.say, listener=listener, preparing=progress.preparing
            )
        )
        progress.planned(session.ledger)
        progress.say(f"to watch it: {'; '.join(_where_to_watch(session))}")
        run(session)
        if not session.interrupted:
            publish(session)
        if notifier is not None:
            notifier.ended(states=count_states(session.records), interrupted=session.interrupted)
    return session


def _where_to_watch(session: Session) -> Iterator[str]:
    from orchestrator.cluster import connection

    tracking, options = session.tracking, session.options
    if tracking.has_server:
        yield tracking.link(tracking.parent_run_id)
    else:
        yield f"moe-study ui --home {shlex.quote(str(options.home.root))}"
    if options.address and (url := connection.dashboard()):
        yield f"Ray's dashboard {url}"


@app.command("ingest")
@grouped
def ingest_command(
    study: StudyArgument,
    results: Annotated[
        Path,
        typer.Argument(metavar="RESULTS", help="Runs of `python -m moe.train`, or their archive."),
    ],
    *,
    asked: AskedLaunch,
    stores: WhichStores,
    as_json: JsonOption = False,
) -> None:
    """Results of `python -m moe.train` runs made elsewhere become trials of the launch; of a study
    that tunes its cells, of the tuning as long as that is not complete.

    Examples: moe-study ingest quickstart results/ --scale gpu
    moe-study ingest quickstart results.tar.gz
    """
    from orchestrator.driver.cell_tuning import to_be_tuned
    from orchestrator.driver.ingest import find_results, ingest, results_folder
    from orchestrator.driver.options import Options
    from orchestrator.driver.session import opened

    with results_folder(results) as folder:
        found = find_results(folder)
        launch = asked.resolved(study, draws=False)
        options = Options(home=Home.at(stores.home), **stores.outside)
        launch = to_be_tuned(launch, options.storage_url) or launch
        with opened(launch, options, say=errors.print, start_cluster=False) as session:
            taken = ingest(session, found)
    errors.print(f"ingested {taken} of {len(found)} runs", highlight=False)
    print_session(session, as_json)
    raise typer.Exit(session.exit_code)


@app.command()
def deliver(home: HomeOption = None, mlflow_uri: MlflowOption = None) -> None:
    """Send the metrics of the outbox to a tracking server that is back.

    Example: moe-study deliver --mlflow-uri http://tracking:5000
    """
    from orchestrator.stores.mlflow_client import connect, quiet, require_usable
    from orchestrator.stores.moved_home import settle_unheld
    from orchestrator.stores.outbox import deliver_outboxes

    chosen = Home.at(home)
    chosen.require_exists()
    quiet()
    uri = chosen.mlflow_uri if mlflow_uri is None else mlflow_uri
    require_usable(uri, must_exist=True)

    def say(line: str) -> None:
        errors.print(line, highlight=False, soft_wrap=True)

    settle_unheld(chosen, say)
    delivered, left = deliver_outboxes(connect(uri), uri, chosen, say=say)
    errors.print(f"delivered {delivered} entries; {left} are left", highlight=False)
    raise typer.Exit(1 if left else 0)


def _both(*listeners: Callable[..., None]) -> Callable[..., None]:
    def told(record: TrialRecord, metrics: Mapping[str, Any] | None) -> None:
        for listener in listeners:
            listener(record, metrics)

    return told


def print_session(session: Any, as_json: bool) -> None:
    from orchestrator.driver.until_decided import lines_of
    from orchestrator.stores.trial_record import count_states
    from orchestrator.study.chosen_values import Choices
    from orchestrator.trials.spending import spent

    name, launch = session.launch.study.name, session.launch.name
    queue = session.ledger.queue
    states = count_states(session.records)
    choices = Choices.of(session.info.attributes)
    if as_json:
        print_json(
            {
                "study": name,
                "launch": launch,
                "states": states,
                "trials": [record.as_json() for record in session.records],
                "undelivered": session.undelivered,
                "spent": spent(session.records, session.launch),
                "exhausted": queue.exhausted,
                "not_found": queue.not_found,
                "claims": [asdict(standing) for standing in session.standings],
                "left_out": session.left_out.as_json() if session.left_out else None,
                **({"tuning": choices.as_json()} if choices else {}),
            }
        )
    else:
        from orchestrator.cli.shown_tables import print_table

        print_table(session.table())
        for line in lines_of(session.standings):
            errors.print(line, highlight=False)
    counted = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    errors.print(counted or "no trials", highlight=False)
    if session.interrupted:
        errors.print("interrupted; the same command continues", highlight=False)
