"""The command line `moe-study`: reads what was asked, calls the function that does it, prints."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from moe.config import ConfigError
from orchestrator.cluster import Resources
from orchestrator.errors import BadInput, StudyError
from orchestrator.home import Home
from orchestrator.launch import Launch, resolve
from orchestrator.library import load_study, study_names
from search_spaces.overlay import parse_override

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Studies of Mixture-of-Experts language models whose tables can be believed.",
)
errors = Console(stderr=True)
output = Console()

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A name that `list` shows, or a path to a .py file.")
]
ScaleOption = Annotated[str | None, typer.Option(help="smoke, cpu, gpu or paper.")]
SeedsOption = Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change what the study holds fixed."),
]
CorpusOption = Annotated[str | None, typer.Option(help="stdlib, files:GLOB or hub:NAME[,CONFIG].")]
HomeOption = Annotated[
    str | None, typer.Option(help="Folder of all local state [MOE_STUDY_HOME, or ./moe-runs].")
]
StorageOption = Annotated[
    str | None, typer.Option(help="sqlite:///FILE, journal:FILE or postgresql://...")
]
MlflowOption = Annotated[
    str | None, typer.Option(help="sqlite:///FILE, http://HOST:PORT or postgresql://...")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise BadInput(
            f"--seeds is a list of whole numbers, such as 0,1,2; received {text!r}. Correct it."
        )
    seeds = tuple(int(part) for part in parts)
    if len(set(seeds)) != len(seeds):
        raise BadInput(f"a seed counts once; received {text!r}. Name each seed once.")
    if max(seeds) >= 2**31:
        raise BadInput(f"a seed is below 2147483648; received {text!r}. Use smaller numbers.")
    return seeds


def parse_overrides(texts: list[str] | None) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    try:
        for text in texts or []:
            path, value = parse_override(text)
            if path in overrides and overrides[path] != value:
                raise BadInput(f"--set names a path once; received {path} twice. Keep one.")
            overrides[path] = value
    except ConfigError as error:
        raise BadInput(str(error)) from None
    return overrides


def _resolved(
    study: str,
    scale: str | None,
    seeds: str | None,
    overrides: list[str] | None,
    corpus: str | None,
    trials: int | None = None,
    need_corpus: bool = True,
) -> Launch:
    if trials is not None and trials < 1:
        raise BadInput(f"--trials is at least 1; received {trials}.")
    return resolve(
        load_study(study),
        scale=scale,
        seeds=parse_seeds(seeds),
        overrides=parse_overrides(overrides),
        corpus_spec=corpus,
        trials=trials,
        need_corpus=need_corpus,
    )


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


@app.command("list")
def list_studies(as_json: JsonOption = False) -> None:
    """Studies, with their question, cells and cost."""
    from orchestrator.plan import plan

    rows = []
    for name in study_names():
        launch = resolve(load_study(name), need_corpus=False)
        planned = plan(launch)
        rows.append(
            {
                "study": name,
                "question": launch.study.question,
                "scale": launch.scale,
                "cells": len(planned["cells"]),
                "trials": planned["trials"],
                "tokens_total": planned["tokens_total"],
                "flops_total": planned["flops_total"],
            }
        )
    if as_json:
        _print_json({"studies": rows})
        return
    table = RichTable("study", "question", "trials", "cost (smoke)")
    for row in rows:
        cells = f"{row['cells']} cells, " if row["cells"] else ""
        table.add_row(
            row["study"],
            row["question"],
            f"{cells}{row['trials']}",
            f"{row['tokens_total'] / 1e6:.1f}M tokens, {row['flops_total']:.1e} FLOPs",
        )
    output.print(table)


@app.command("plan")
def plan_command(
    study: StudyArgument,
    scale: ScaleOption = None,
    seeds: SeedsOption = None,
    overrides: SetOption = None,
    corpus: CorpusOption = None,
    trials: Annotated[int | None, typer.Option(help="Points of a sampled study.")] = None,
    write_configs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each trial's resolved config there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a launch would do and cost; nothing is run.

    Example: moe-study plan quickstart --scale cpu --seeds 0,1,2,3,4
    """
    from orchestrator.plan import plan
    from orchestrator.plan import write_configs as write

    launch = _resolved(study, scale, seeds, overrides, corpus, trials, need_corpus=False)
    planned = plan(launch)
    if write_configs is not None:
        if launch.corpus is None:
            launch = _resolved(study, scale, seeds, overrides, corpus, trials)
        paths = write(launch, write_configs)
        errors.print(f"wrote {len(paths)} configs to {write_configs}", highlight=False)
    if as_json:
        _print_json(planned)
        return
    about = "about " if planned["estimated"] else ""
    output.print(f"[bold]{launch.study.question}[/bold]", highlight=False)
    output.print(
        f"{planned['trials']} trials at scale {launch.scale}, seeds {list(launch.seeds)}, corpus "
        f"{launch.corpus_spec}: {about}{planned['tokens_total'] / 1e6:.1f}M tokens, "
        f"{about}{planned['flops_total']:.2e} FLOPs",
        highlight=False,
    )
    if planned["cells"]:
        table = RichTable("cell", "total", "active", "FLOPs/token", "what it changes")
        for cell in planned["cells"]:
            changes = ", ".join(f"{p}={v}" for p, v in cell["overrides"].items()) or "nothing"
            table.add_row(
                cell["cell"],
                f"{cell['params_total']:,}",
                f"{cell['params_active']:,}",
                f"{cell['flops_per_token']:,}",
                changes,
            )
        output.print(table)


@app.command("run")
def run_command(
    study: StudyArgument,
    scale: ScaleOption = None,
    seeds: SeedsOption = None,
    trials: Annotated[
        int | None, typer.Option(help="Points of a sampled study, all seeds each.")
    ] = None,
    overrides: SetOption = None,
    corpus: CorpusOption = None,
    home: HomeOption = None,
    optuna_storage: StorageOption = None,
    mlflow_uri: MlflowOption = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster: auto or HOST:PORT.")] = None,
    cpus: Annotated[int | None, typer.Option(help="CPUs of the local cluster [all].")] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Trials at once [as many as fit].")
    ] = None,
    workers: Annotated[int, typer.Option(help="Data-parallel workers of each trial.")] = 1,
    cpus_per_worker: Annotated[int, typer.Option(help="CPUs, and torch threads, of a worker.")] = 1,
    gpus_per_worker: Annotated[
        float, typer.Option(help="GPUs of a worker; fractions share one.")
    ] = 0.0,
    max_failures: Annotated[int, typer.Option(help="Restarts of a trial that loses a worker.")] = 2,
    retry_failed: Annotated[
        bool, typer.Option(help="Repeat failed trials, as new trials.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run what is missing of a study. The same command continues an interrupted launch.

    Example: moe-study run quickstart --scale smoke --corpus 'files:texts/*.txt'
    """
    from orchestrator.progress import RunProgress
    from orchestrator.run import run
    from orchestrator.session import Options, opened

    launch = _resolved(study, scale, seeds, overrides, corpus, trials)
    options = Options(
        home=Home.at(home),
        optuna_storage=optuna_storage,
        mlflow_uri=mlflow_uri,
        address=address,
        cpus=cpus,
        concurrency=concurrency,
        resources=Resources(
            workers=workers, cpus_per_worker=cpus_per_worker, gpus_per_worker=gpus_per_worker
        ),
        max_failures=max_failures,
        retry_failed=retry_failed,
    )
    with (
        RunProgress(errors) as progress,
        opened(
            launch, options, say=progress.say, listener=progress, preparing=progress.preparing
        ) as session,
    ):
        progress.planned(session.ledger)
        run(session)
    _print_session(session, as_json)
    raise typer.Exit(session.exit_code)


@app.command("ingest")
def ingest_command(
    study: StudyArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Runs of `python -m moe.train`.")],
    scale: ScaleOption = None,
    seeds: SeedsOption = None,
    overrides: SetOption = None,
    corpus: CorpusOption = None,
    home: HomeOption = None,
    optuna_storage: StorageOption = None,
    mlflow_uri: MlflowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Results of `python -m moe.train` runs made elsewhere become trials of the launch.

    Example: moe-study ingest quickstart results/ --scale gpu
    """
    from orchestrator.ingest import find_results, ingest
    from orchestrator.session import Options, opened

    results = find_results(folder)
    launch = _resolved(study, scale, seeds, overrides, corpus)
    options = Options(home=Home.at(home), optuna_storage=optuna_storage, mlflow_uri=mlflow_uri)
    with opened(launch, options, say=errors.print, start_cluster=False) as session:
        taken = ingest(session, results)
    errors.print(f"ingested {taken} of {len(results)} runs", highlight=False)
    _print_session(session, as_json)
    raise typer.Exit(session.exit_code)


@app.command()
def deliver(home: HomeOption = None, mlflow_uri: MlflowOption = None) -> None:
    """Send spooled metrics to a tracking server that is back."""
    from orchestrator.courier import deliver_spools
    from orchestrator.tracking import connect, quiet

    chosen = Home.at(home)
    chosen.require_exists()
    quiet()
    delivered, left = deliver_spools(connect(mlflow_uri or chosen.mlflow_uri), chosen.spool)
    errors.print(f"delivered {delivered} entries; {left} are left", highlight=False)
    raise typer.Exit(1 if left else 0)


def _print_session(session: Any, as_json: bool) -> None:
    from orchestrator.trial import count_states

    name, launch = session.launch.study.name, session.launch.name
    states = count_states(session.records)
    if as_json:
        _print_json(
            {
                "study": name,
                "launch": launch,
                "states": states,
                "trials": [record.as_json() for record in session.records],
                "undelivered": session.undelivered,
            }
        )
    else:
        _print_table(session.table())
    counted = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    errors.print(counted or "no trials", highlight=False)
    if session.undelivered:
        errors.print(
            f"metrics are not yet in MLflow: {session.options.home.spool} keeps them. Once the "
            "server is back: moe-study deliver",
            highlight=False,
        )
    if session.interrupted:
        errors.print("interrupted; the same command continues", highlight=False)


@app.command()
def status(
    study: StudyArgument,
    scale: ScaleOption = None,
    overrides: SetOption = None,
    corpus: CorpusOption = None,
    home: HomeOption = None,
    optuna_storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trials of the newest launch, by state."""
    from orchestrator.report.records import read_launch
    from orchestrator.trial import count_states

    launch = read_launch(
        _study_name(study),
        home=Home.at(home),
        optuna_storage=optuna_storage,
        scale=scale,
        corpus=corpus,
        overrides=parse_overrides(overrides),
    )
    states = count_states(launch.trials)
    if as_json:
        _print_json(
            {
                "study": launch.info.study,
                "launch": launch.info.name,
                "states": states,
                "trials": [record.as_json() for record in launch.trials],
            }
        )
        return
    output.print(launch.info.name, highlight=False)
    output.print(", ".join(f"{count} {state}" for state, count in states.items()), highlight=False)
    table = RichTable("trial", "cell", "seed", "state", "val/loss", "tokens", "reason")
    for r in launch.trials:
        value = "" if r.value is None else f"{r.value:.4f}"
        table.add_row(str(r.number), r.cell, str(r.seed), r.state, value, f"{r.tokens:,}", r.error)
    output.print(table)


@app.command()
def table(
    study: StudyArgument,
    form: Annotated[
        str | None, typer.Option("--format", help="markdown, csv, latex or json.")
    ] = None,
    scale: ScaleOption = None,
    overrides: SetOption = None,
    corpus: CorpusOption = None,
    home: HomeOption = None,
    optuna_storage: StorageOption = None,
) -> None:
    """The ablation table of the newest launch: mean over seeds, 95% interval, parameters, runs."""
    from orchestrator.report.records import read_launch
    from orchestrator.report.tables import FORMATS, render

    if form is not None and form not in FORMATS:
        raise BadInput(f"--format is one of {', '.join(FORMATS)}; received {form!r}. Choose one.")
    launch = read_launch(
        _study_name(study),
        home=Home.at(home),
        optuna_storage=optuna_storage,
        scale=scale,
        corpus=corpus,
        overrides=parse_overrides(overrides),
    )
    result = launch.table()
    if form is None and output.is_terminal:
        _print_table(result)
    else:
        print(render(result, form or "markdown"), end="")


def _study_name(study: str) -> str:
    """What a launch recorded as its study: a path is loaded for its name, a name taken as it is."""
    return load_study(study).name


def _print_table(result: Any) -> None:
    from orchestrator.report.tables import body, headings, render

    if not output.is_terminal:
        print(render(result, "markdown"), end="")
        return
    shown = RichTable(*headings(result), title=result.launch, title_justify="left")
    for column in shown.columns[1:]:
        column.justify = "right"
    for cells in body(result):
        shown.add_row(*cells)
    output.print(shown)


def main() -> None:
    """The entry point: every expected failure is one message on stderr, and an exit code."""
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", module="ray|mlflow|optuna")
    try:
        app()
    except StudyError as error:
        errors.print(
            f"moe-study: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
