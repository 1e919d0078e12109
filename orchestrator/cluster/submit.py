"""A launch as a Ray job: the driver lives on the cluster, and goes on when this machine is closed.

Code, study file and arguments travel in the job's working directory. The arguments are a file in it
and not part of the command, which Ray's dashboard shows to everyone: they may hold credentials.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.base.errors import BadInput, Unreachable
from orchestrator.base.urls import redact, require_reachable
from orchestrator.cluster import connection, nodes

ARGUMENTS_FILE = "arguments.json"
STUDY_FOLDER = "study"
DEFAULT_PORT = 8265
# Ray's default of 3 s is shorter than a driver takes to end its trials and to tell its stores.
STOP_WAIT_S = 60
AGENT_WAIT_S = 120
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@contextlib.contextmanager
def job_client(address: str) -> Iterator[Any]:
    """A client of the job server at `address`. Raises Unreachable within seconds, and BadInput."""
    if not address.startswith(("http://", "https://")):
        raise BadInput(
            "--address names the cluster's job server, http://HEAD:8265; received "
            f"{redact(address)}. (`run --address HOST:PORT` is for a driver on the cluster.)"
        )
    require_reachable(address, default_port=DEFAULT_PORT, option="--address")
    connection.quiet()
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    from orchestrator.cluster import ray_private

    for name in ray_private.TALKATIVE_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)  # set to INFO at their import

    # Ray lets these win over what it is told.
    set_aside = {name: os.environ.pop(name, None) for name in _RAY_ADDRESSES}
    try:
        try:
            client = JobSubmissionClient(address)
        except (ConnectionError, RuntimeError, RayError) as error:
            raise _refused(address, error) from None
        yield client
    finally:
        os.environ.update({name: value for name, value in set_aside.items() if value is not None})


_RAY_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


def _refused(address: str, error: Exception) -> Unreachable:
    from orchestrator.cluster import ray_private

    text = redact(str(error))
    if ray_private.says_unauthorised(text):
        return Unreachable(
            f"the job server at {redact(address)} wants a token that was not sent. Set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token file."
        )
    first = text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__
    return Unreachable(
        f"what answers at {redact(address)} is no job server of Ray: {first}. Name the head's "
        "dashboard, http://HEAD:8265."
    )


def submit(
    client: Any,
    study: str,
    arguments: Sequence[str],
    *,
    command: str = "run",
    name: str,
    launch: str,
    python: str = "python",
    beside: Sequence[Path] = (),
) -> str:
    """Submits `COMMAND STUDY ARGUMENTS` and returns the submission id.

    `launch` is what Ray's dashboard calls the job: study, scale and corpus, as the launch's own
    name has them. `beside`: files that a study file imports, relative to its folder; they
    travel with it.
    """
    with tempfile.TemporaryDirectory(prefix="moe-study-job-") as folder:
        staged = Path(folder)
        nodes.stage_code(staged)
        if study.endswith(".py") or "/" in study:
            file = Path(study)
            for relative in (Path(file.name), *beside):
                kept = staged / STUDY_FOLDER / relative
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.parent / relative, kept)
            study = str(Path(STUDY_FOLDER, file.name))
        told = [command, study, "--address", "auto", *arguments]
        (staged / ARGUMENTS_FILE).write_text(json.dumps(told))
        request = {
            "entrypoint": f"exec {python} -u -m orchestrator.cli.submitted",
            "runtime_env": {
                "working_dir": folder,
                "env_vars": {
                    **connection.worker_settings(),
                    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
                },
            },
            "metadata": {"job_name": f"moe-study {launch}", "study": name},
        }
        return _accepted(client, request)


def _accepted(client: Any, request: dict[str, Any]) -> str:
    """The submission id. A head that was just started has no agent yet, and is asked again."""
    from orchestrator.cluster import ray_private

    deadline = time.monotonic() + AGENT_WAIT_S
    while True:
        try:
            return client.submit_job(**request)
        except RuntimeError as error:
            if ray_private.NO_AGENT_YET in str(error) and time.monotonic() < deadline:
                time.sleep(2)
                continue
            first = redact(str(error)).strip().splitlines()[0][:300]
            raise Unreachable(
                f"the cluster does not take the job: {first}. Look at the head with `ray status`."
            ) from None


def describe(client: Any, submission_id: str) -> dict[str, Any]:
    """What is known of a job. Raises BadInput where there is none of that name."""
    with _known(submission_id):
        info = client.get_job_info(submission_id)
    return {
        "submission_id": submission_id,
        "status": str(info.status.value),
        "study": (info.metadata or {}).get("study"),
        "name": (info.metadata or {}).get("job_name"),
        "message": redact(info.message or ""),
        "started_ms": info.start_time,
        "ended_ms": info.end_time,
    }


def logs(client: Any, submission_id: str) -> str:
    with _known(submission_id):
        return client.get_job_logs(submission_id)


def follow_logs(client: Any, submission_id: str) -> Iterator[str]:
    """Lines as they come, until the job ends."""
    shown = 0
    while True:
        ended = describe(client, submission_id)["status"] in ENDED
        text = logs(client, submission_id)
        yield text[shown:]
        shown = len(text)
        if ended:
            return
        time.sleep(2)


def stop(client: Any, submission_id: str, *, wait_s: float = 2 * STOP_WAIT_S) -> dict[str, Any]:
    """Asks the driver to leave in order, and waits until it has: its trials wait in both stores."""
    with _known(submission_id):
        client.stop_job(submission_id)
    deadline = time.monotonic() + wait_s
    while (told := describe(client, submission_id))["status"] not in ENDED:
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    return told


@contextlib.contextmanager
def _known(submission_id: str) -> Iterator[None]:
    from orchestrator.cluster import ray_private

    try:
        yield
    except RuntimeError as error:
        if not ray_private.says_unknown_job(str(error)):
            raise
        raise BadInput(
            f"a job is named by the submission id that `submit` printed; received "
            f"{submission_id!r}, which this cluster does not have. Look with `ray job list`."
        ) from None
