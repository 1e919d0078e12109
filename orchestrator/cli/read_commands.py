"""Commands that read what was run: `status` and `analyze`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.base.errors import BadInput
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    AnyStudyArgument,
    CheckpointOption,
    JsonOption,
    MlflowOption,
    StudyArgument,
    WhichLaunch,
    app,
    errors,
    output,
    print_json,
    print_rows,
    read_newest,
)

if TYPE_CHECKING:
    from orchestrator.stores.trial_record import TrialRecord  # brings Optuna with it

_ON_A_TERMINAL = 200  # trials that `status` shows there: drawing 10,000 takes seconds


@app.command()
@grouped
def status(
    study: AnyStudyArgument = None,
    *,
    which: WhichLaunch,
    as_json: JsonOption = False,
) -> None:
    """Trials of the newest launch, by state, with the reasons of those that failed.

    Without STUDY: every launch of the home, by the states of its trials.
    Example: moe-study status quickstart
    """
    if study is None:
        _status_of_all(which, as_json)
        return
    from dataclasses import asdict

    from orchestrator.report.rungs import rung_line, rungs_of_launch
    from orchestrator.stores.trial_record import count_states

    _, launch = read_newest(study, which)
    states = count_states(launch.trials)
    rungs, lengths = rungs_of_launch(launch.info.attributes, launch.trials, launch=launch.info.name)
    if as_json:
        print_json(
            {
                "study": launch.info.study,
                "launch": launch.info.name,
                "states": states,
                "trials": [
                    {**record.as_json(), "tokens_trained": record.tokens_trained(0)}
                    for record in launch.trials
                ],
                "rungs": [asdict(rung) for rung in rungs],
            }
        )
        return
    output.print(launch.info.name, highlight=False)
    output.print(", ".join(f"{count} {state}" for state, count in states.items()), highlight=False)
    if rungs:
        output.print(rung_line(rungs, lengths), highlight=False, soft_wrap=True)
    shown = _worth_a_look(launch.trials) if output.is_terminal else launch.trials
    rows = [
        [
            *(str(r.number), r.cell, str(r.seed), r.state),
            *("" if r.value is None else f"{r.value:.4f}", f"{r.tokens_trained(0):,}", r.reason),
        ]
        for r in shown
    ]
    headings = ("trial", "cell", "seed", "state", launch.metric, "tokens", "reason")
    print_rows(headings, rows, fold={"cell", "reason"})
    if len(shown) < len(launch.trials):
        left_out = len(launch.trials) - len(shown)
        output.print(f"{left_out:,} more trials: --json, or a pipe, has all", highlight=False)


def _status_of_all(which: WhichLaunch, as_json: bool) -> None:
    from orchestrator.report.records import read_launches
    from orchestrator.stores.optuna_launches import STARTED_AT
    from orchestrator.stores.trial_record import count_states

    launches = read_launches(None, **which.asked)
    found = [
        {
            "study": launch.info.study,
            "launch": launch.info.name,
            "started_at": launch.info.attributes[STARTED_AT],
            "states": count_states(launch.trials),
        }
        for launch in launches
    ]
    if as_json:
        print_json({"launches": found})
        return
    rows = []
    for row in found:
        counts = [f"{count} {state}" for state, count in row["states"].items() if count]
        at = datetime.fromisoformat(row["started_at"]).astimezone()
        states = ", ".join(counts) or "none yet"
        rows.append([row["study"], row["launch"], f"{at:%Y-%m-%d %H:%M}", states])
    print_rows(("study", "launch", "last started", "trials"), rows, fold={"launch", "trials"})


def _worth_a_look(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """All of a short launch; of a long one what runs, what failed, and the newest of the others."""
    first = [r for r in trials if r.state in ("running", "failed")][-_ON_A_TERMINAL:]
    others = [r for r in trials if r.state not in ("running", "failed")]
    room = _ON_A_TERMINAL - len(first)
    return sorted(first + others[len(others) - room :], key=lambda r: r.number)


@app.command()
@grouped
def analyze(
    study: StudyArgument,
    probe: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="conllu:GLOB, table:FILE:TEXT:LABEL, corpus:COLUMN or corpus:syntax.",
        ),
    ],
    *,
    which: WhichLaunch,
    max_tokens: Annotated[
        int, typer.Option(help="Tokens of the probe, in whole documents.")
    ] = 100_000,
    permutations: Annotated[int, typer.Option(help="Permutations of the null.")] = 200,
    mlflow_uri: MlflowOption = None,
    checkpoint_uri: CheckpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """What the experts of the newest launch specialise in: information about labels, with its null.

    Verdicts, figures and report of both pages are made anew with it.

    Example: moe-study analyze quickstart --probe corpus:syntax
    """
    from orchestrator.driver.publish import publish_analysis
    from orchestrator.report.analysis import analyze_launch
    from orchestrator.stores.mlflow_client import quiet, require_usable

    if max_tokens < 1 or permutations < 1:
        raise BadInput(
            f"--max-tokens and --permutations are at least 1; received {max_tokens} and "
            f"{permutations}. Leave them out for the defaults."
        )
    loaded, launch = read_newest(study, which)
    launch.home.require_writable()  # rows and figures are kept there
    quiet()
    if mlflow_uri is not None:
        require_usable(mlflow_uri, must_exist=True)

    def say(line: str) -> None:
        errors.print(line, highlight=False)

    result = analyze_launch(
        launch,
        home=launch.home,
        probe_spec=probe,
        max_tokens=max_tokens,
        permutations=permutations,
        checkpoint_uri=checkpoint_uri,
        say=say,
    )
    publish_analysis(
        launch, loaded, optuna_storage=which.optuna_storage, mlflow_uri=mlflow_uri, say=say
    )
    if as_json:
        print_json(result)
        return
    output.print(f"{result['launch']}, probe {probe}", highlight=False)
    output.print(
        "NMI: what the chosen experts tell of the label, 0 to 1; null: the same with the labels "
        "permuted; random: of a random linear router on the same layer. docs/metrics.md has more.",
        highlight=False,
    )
    headings = ("cell", "seed", "layer", "NMI", "null", "null 97.5%", "p", "purity", "random")
    print_rows(headings, map(_analysis_row, result["rows"]), fold={"cell"})


def _p_value(row: Mapping[str, Any]) -> str:
    least = 1 / (row["n_permutations"] + 1)
    return f"<= {least:.3f}" if row["p_value"] <= least else f"{row['p_value']:.3f}"


def _analysis_row(row: Mapping[str, Any]) -> list[str]:
    random = row["nmi_random_router"]
    return [
        row["cell"],
        str(row["seed"]),
        "mean" if row["layer"] is None else str(row["layer"]),
        f"{row['nmi']:.4f}",
        f"{row['nmi_null_mean']:.4f}",
        f"{row['nmi_null_high']:.4f}",
        _p_value(row),
        f"{row['purity']:.3f}",
        "-" if random is None else f"{random:.4f}",
    ]
