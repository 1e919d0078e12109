"""Results of `python -m moe.train` runs made elsewhere become trials of a launch."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moe.code_digest import moe_digest, trains_as
from moe.metrics import STEP, TIMESTAMP_MS
from moe.train.results_archive import RESULT_FILE, unpack
from orchestrator.base.errors import BadInput
from orchestrator.base.run_files import artifacts_in
from orchestrator.base.whole_files import whole
from orchestrator.driver.session import Session
from orchestrator.stores.trial_record import MOE_DIGEST, ORIGIN

_KEYS = {
    **dict.fromkeys(("config_hash", "moe_digest", "status"), str),
    **dict.fromkeys(("curve", "late_metrics"), list),
    **{"metrics": dict, "tokens": int, "error": (str, type(None))},
}
_STAMPS = {STEP, TIMESTAMP_MS}


@contextmanager
def results_folder(place: Path) -> Iterator[Path]:
    """The folder of runs itself, or for as long as is needed what an archive of them holds.

    Raises BadInput where `python -m moe.train --archive` did not write the file.
    """
    if not os.path.isfile(place):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="moe-results-") as name:
        try:
            unpack(place, Path(name))
        except ValueError as error:
            raise BadInput(str(error)) from None
        yield Path(name)


def find_results(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Runs under a folder. Raises BadInput where there is none, or one cannot be read."""
    paths = sorted(folder.rglob(RESULT_FILE)) if os.path.isdir(folder) else []
    if not paths:
        raise BadInput(
            f"ingest takes a folder with finished runs of `python -m moe.train` ({RESULT_FILE} in "
            f"each); received {folder}. Correct the path, or wait for the runs."
        )
    results = []
    for path in paths:
        try:
            result = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError):
            result = None
        if wrong := _wrong_keys(result):
            raise BadInput(
                f"a {RESULT_FILE} is written by `python -m moe.train`; received {path}, whose "
                f"{', '.join(wrong)} is missing or of another kind. Run it again, or remove the "
                "folder."
            )
        results.append((path.parent, result))
    return results


def _wrong_keys(result: Any) -> list[str]:
    if not isinstance(result, dict):
        return ["content"]
    wrong = [key for key, kind in _KEYS.items() if not isinstance(result.get(key), kind)]
    for key in {"curve", "late_metrics"} - set(wrong):
        if not all(isinstance(entry, dict) and entry.keys() >= _STAMPS for entry in result[key]):
            wrong.append(key)
    if not wrong and result["status"] == "complete" and not result["curve"]:
        wrong.append("curve")
    return wrong


def ingest(session: Session, results: list[tuple[Path, dict[str, Any]]]) -> int:
    """Records each result under its trial; returns how many. What does not belong is named."""
    taken = 0
    for folder, result in results:
        if result["status"] == "stopped":
            session.tell(f"{folder.name} was stopped before its end: not a result")
            continue
        assignment = session.ledger.take(result["config_hash"])
        if assignment is None:
            session.tell(_not_taken(session, folder, result))
            continue
        _record(session, assignment.record.number, folder, result)
        taken += 1
    return taken


def _not_taken(session: Session, folder: Path, result: dict[str, Any]) -> str:
    wanted = result["config_hash"]
    same = [r for r in session.records if r.config_hash == wanted]
    if not same:
        return (
            f"{folder.name} has the config hash {wanted}, which no trial of this launch has: name "
            "the study, scale, corpus and seeds that its config was written for"
        )
    own, last = same[-1], result["curve"][-1] if result["curve"] else {}
    metric = session.launch.study.metric
    return (
        f"{folder.name} is trial {own.number} ({own.cell}, seed {own.seed}), which is {own.state} "
        f"already: {metric} {own.value} there, {last.get(metric)} here"
    )


def _record(session: Session, number: int, folder: Path, result: dict[str, Any]) -> None:
    ledger = session.ledger
    ledger.started(number)
    ledger.annotate(number, {ORIGIN: "moe.train", MOE_DIGEST: result["moe_digest"]})
    for entry in result["curve"]:
        ledger.progressed(number, entry)
    if result["status"] != "complete":
        ledger.failed(number, result["error"] or "failed", tokens=result["tokens"])
        return
    ledger.completed(
        number,
        {**result["metrics"], STEP: result["curve"][-1][STEP]},
        tokens=result["tokens"],
        late=result["late_metrics"],
        artifacts=artifacts_in(folder),
        attributes=result.get("machine"),  # absent in results of before it was told
    )
    kept = session.options.home.run_folder(result["config_hash"], result["moe_digest"])
    if not kept.exists():
        # Named whole only when it is whole: `analyze` reads the trained weights from here.
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole(kept) as partial:
            shutil.copytree(folder, partial)
    if trains_as(result["moe_digest"]) != trains_as(moe_digest()):
        session.tell(f"{folder.name} was trained by other code: it gets a row of its own")
