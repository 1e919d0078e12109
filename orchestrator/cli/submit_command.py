"""Commands for a driver that lives on the cluster: `submit`, and `job status|logs|stop`."""

from __future__ import annotations

import os
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from moe.data.sources.kinds import path_of
from moe.data.sources.mixed_corpora import part_specs
from orchestrator.base.errors import BadInput
from orchestrator.cli.parameters import (
    AskedLaunch,
    JsonOption,
    StudyArgument,
    app,
    errors,
    output,
    print_json,
)
from orchestrator.study.corpora import joint_label
from orchestrator.study.launch import Launch
from orchestrator.study.library import imported_beside, is_path, load_study

job = typer.Typer(no_args_is_help=True, help="A submitted launch: status, logs, stop.")
app.add_typer(job, name="job")

_SEARCHING = ("trials", "sampler", "warm_start")  # options of `run`, which draws

JobAddress = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS", help="The cluster's job server, http://HEAD:8265."
    ),
]
SubmissionId = Annotated[str, typer.Argument(metavar="ID", help="What `submit` printed.")]


@app.command("submit", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit_command(
    context: typer.Context,
    study: StudyArgument,
    address: JobAddress,
    python: Annotated[str, typer.Option(help="Python of the project on the cluster.")] = "python",
    recommend: Annotated[
        bool, typer.Option("--recommend", help="`recommend`, a search's end, in place of `run`.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a study as a Ray job, the driver on the cluster. STUDY comes first; other options are
    those of `run` (or of `recommend`), and their paths are paths there.

    Example: moe-study submit quickstart --address http://HEAD:8265 --home /shared/moe-runs
    """
    from orchestrator.cluster.submit import job_client, submit

    name = load_study(study).name
    command = "recommend" if recommend else "run"
    launch = _require_meaning_there(_parsed_as(command, study, context.args))
    label = "/".join((name, launch.scale, joint_label(launch.corpus_specs)))
    beside = imported_beside(Path(study)) if is_path(study) else []
    with job_client(address) as client:
        submission_id = submit(
            client,
            study,
            context.args,
            command=command,
            name=name,
            launch=label,
            python=python,
            beside=beside,
        )
    if as_json:
        print_json({"study": name, "submission_id": submission_id, "address": address})
    else:
        print(submission_id)
        errors.print(
            f"follow it with: moe-study job logs {submission_id} --follow --address {address}",
            highlight=False,
            soft_wrap=True,
        )


def _parsed_as(command: str, study: str, arguments: list[str]) -> dict[str, Any]:
    """What a command would be asked. Ends as that does where an option is unknown."""
    asked = typer.main.get_command(app).commands[command]
    with asked.make_context("submit", [study, *arguments]) as parsed:
        return parsed.params


def _require_meaning_there(asked: dict[str, Any]) -> Launch:
    """The launch that is asked for, without its text. Raises BadInput for what could mean nothing,
    or another thing, on the cluster."""
    if asked["cpus"]:
        raise BadInput(
            "a submitted driver joins the cluster that it lives on; received --cpus, which is for "
            "`run` on this machine. Leave it out."
        )
    home, corpus, place = asked["home"], asked["corpus"] or "", asked["checkpoint_uri"] or ""
    if not home or not os.path.isabs(home):
        raise BadInput(
            f"--home is an absolute folder on the cluster's head node; received {home!r}. Name one "
            "that outlives the job."
        )
    for option, path in (
        ("--corpus", path_of(corpus) or ""),
        ("--checkpoint-uri", "" if "://" in place else place),
        ("--write-study", str(asked.get("write_study") or "")),
    ):
        if path and not os.path.isabs(path):
            raise BadInput(
                f"a path of a submitted job is absolute, and on the cluster; received {option} "
                f"{path!r}. Write it out."
            )
    options = AskedLaunch(**{field.name: asked[field.name] for field in fields(AskedLaunch)})
    searching = {name: asked[name] for name in _SEARCHING if name in asked}
    launch = options.resolved(asked["study"], **searching, need_corpus=False, draws=bool(searching))
    for spec in chain.from_iterable(map(part_specs, launch.corpus_specs)):
        if (path := path_of(spec)) and not os.path.isabs(path):
            raise BadInput(
                "a path of a submitted job is absolute, and on the cluster; received "
                f"data.corpus={spec} of {launch.study.name}. Write it out."
            )
    return launch


@job.command("status")
def status_command(
    submission_id: SubmissionId, address: JobAddress, as_json: JsonOption = False
) -> None:
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    from orchestrator.cluster.submit import describe, job_client

    with job_client(address) as client:
        _show(describe(client, submission_id), as_json)


@job.command("logs")
def logs_command(
    submission_id: SubmissionId,
    address: JobAddress,
    follow: Annotated[bool, typer.Option(help="Go on until the job ends.")] = False,
) -> None:
    """What the driver has printed."""
    from orchestrator.cluster.submit import follow_logs, job_client, logs

    with job_client(address) as client:
        for text in follow_logs(client, submission_id) if follow else [logs(client, submission_id)]:
            print(text, end="", flush=True)


@job.command("stop")
def stop_command(
    submission_id: SubmissionId, address: JobAddress, as_json: JsonOption = False
) -> None:
    """Stop the driver in order: its trials wait, and the same submission goes on."""
    from orchestrator.cluster.submit import job_client, stop

    with job_client(address) as client:
        _show(stop(client, submission_id), as_json)


def _show(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    output.print(f"{told['submission_id']}: {told['status']}", highlight=False, markup=False)
    if told["message"]:
        output.print(told["message"], highlight=False, markup=False)
