"""Is everything here that a launch needs? Each check says what it found, and what to do."""

from __future__ import annotations

import platform
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from typing import Literal

from moe.memory_fit import size_text
from orchestrator.base.errors import StudyError
from orchestrator.base.home import Home
from orchestrator.base.urls import redact
from orchestrator.cluster import connection
from orchestrator.stores.trial_record import MOE_DIGEST, TrialRecord, count_states

_LEAST_FREE_BYTES = 2 * 10**9  # a smoke launch writes about a tenth of this
_FOLDERS_LOOKED_AT = 20  # a study's trials differ in size, and a look takes time
_DISTRIBUTION = "moe-study"


@dataclass(frozen=True, kw_only=True)
class Check:
    """`failed` stops a launch, `note` does not; `remedy` is empty where all is well."""

    name: str
    state: Literal["ok", "note", "failed"]
    found: str
    remedy: str = ""


def examine(
    home: Home,
    *,
    optuna_storage: str | None = None,
    mlflow_uri: str | None = None,
    address: str | None = None,
    start_ray: bool = True,
) -> Iterator[Check]:
    """One check after the other, so that the slow ones are seen coming. Creates nothing."""
    yield _python()
    yield from _versions()
    yield _gpu()
    yield _disk(home)
    yield from _state(home)
    yield _store("Optuna storage", lambda: _look_at_optuna(home, optuna_storage))
    yield _store("MLflow store", lambda: _look_at_mlflow(home, mlflow_uri))
    if start_ray:
        yield _ray(address)


def _python() -> Check:
    found = f"{platform.python_version()}, {sys.executable}"
    return Check(name="Python", state="ok", found=found)


def _versions() -> Iterator[Check]:
    """What pyproject.toml asks for, against what is installed."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in metadata.requires(_DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        yield Check(
            name="packages",
            state="note",
            found=f"{_DISTRIBUTION} is not installed, so its requirements are not known",
            remedy="pip install --constraint constraints.txt --editable .",
        )
        return
    wrong = []
    needed = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    for requirement in needed:
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed} is not {requirement.specifier}")
    if wrong:
        yield Check(
            name="packages",
            state="failed",
            found="; ".join(wrong),
            remedy="pip install --constraint constraints.txt --editable .",
        )
        return
    shown = ("torch", "ray", "optuna", "mlflow")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in shown)
    yield Check(name="packages", state="ok", found=f"{len(needed)} as required; {versions}")


def _gpu() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check(
            name="GPU",
            state="note",
            found=f"torch {torch.__version__} sees none",
            remedy="scales smoke and cpu need none; for gpu and paper see --gpus-per-worker",
        )
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check(name="GPU", state="ok", found=", ".join(names))


def _disk(home: Home) -> Check:
    try:
        home.require_writable()
    except StudyError as error:
        return Check(name="home", state="failed", found=str(error), remedy="name another --home")
    place = home.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    exists = "exists" if home.root.exists() else "is made by the first run"
    found = f"{home.root} {exists}; {free / 1e9:.0f} GB free"
    if free < _LEAST_FREE_BYTES:
        remedy = "free some space, or name a --home on another disk"
        return Check(name="home", state="failed", found=found, remedy=remedy)
    return Check(name="home", state="ok", found=found)


def _state(home: Home) -> Iterator[Check]:
    """What a home that was used before has to tell: that it was moved, and what it waits with."""
    from orchestrator.stores.moved_home import former_places
    from orchestrator.stores.outbox_files import OutboxFile

    try:
        places = former_places(home)
    except sqlite3.Error:
        places = []  # the look at the MLflow store says what is wrong with its file
    if places:
        yield Check(
            name="home's place",
            state="note",
            found=f"its artifacts are still named by {', '.join(map(str, places))}",
            remedy="the next run, analyze, ingest, import, deliver or ui mends it",
        )
    waiting = [
        path for path in home.spool.glob("*-????????.jsonl") if OutboxFile.waiting_bytes(path)
    ]
    if waiting:
        bytes_waiting = sum(map(OutboxFile.waiting_bytes, waiting))
        yield Check(
            name="undelivered",
            state="note",
            found=f"{bytes_waiting:,} bytes on their way to MLflow in {home.spool}",
            remedy=f"moe-study deliver --home {home.root}, where no driver is at work",
        )
    yield from _unfinished(home)


def _unfinished(home: Home) -> Iterator[Check]:
    from orchestrator.report.records import read_launches

    if not (home.root / "optuna.db").exists():
        return
    try:
        launches = list(read_launches(None, home=home))
    except StudyError:
        return  # the look at the Optuna storage says why
    free = shutil.disk_usage(home.root).free
    for launch in launches:
        states = count_states(launch.trials)
        left = states["waiting"] + states["running"]
        if not left:
            continue
        found = f"{launch.info.name}: {_counted(left, 'trial', 'trials')} not at their end"
        remedy = "the same `run` goes on with them, where no driver is at work"
        one = _written_by_one(home, launch.trials)
        fits = one is None or left * one < free
        if one is not None:
            found += f", about {size_text(left * one)} to write, {size_text(free)} free"
        yield Check(
            name="launch",
            state="note" if fits else "failed",
            found=found,
            remedy=remedy if fits else "free some space before the same `run` goes on",
        )


def _written_by_one(home: Home, trials: Iterable[TrialRecord]) -> int | None:
    """Bytes that a complete trial left in its folder, the mean of some; None where none is here."""
    folders = (
        home.run_folder(trial.config_hash, trial.attributes[MOE_DIGEST])
        for trial in trials
        if trial.state == "complete" and MOE_DIGEST in trial.attributes
    )
    kept = list(islice((folder for folder in folders if folder.is_dir()), _FOLDERS_LOOKED_AT))
    sizes = [
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) for folder in kept
    ]
    return round(sum(sizes) / len(sizes)) if sizes else None


def _store(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name=name, state="ok", found=look())
    except StudyError as error:
        return Check(name=name, state="failed", found=str(error), remedy="see the message")


def _look_at_optuna(home: Home, url: str | None) -> str:
    from orchestrator.stores.optuna_launches import launches_in
    from orchestrator.stores.optuna_storage import local_store_file, storage_if_any

    chosen = url or home.optuna_storage
    file, storage = local_store_file(chosen), storage_if_any(chosen)
    if storage is None:
        return f"{file or redact(chosen)} is made by the first run"
    launches = launches_in(storage)
    return f"{file or redact(chosen)} holds {_counted(len(launches), 'launch', 'launches')}"


def _look_at_mlflow(home: Home, uri: str | None) -> str:
    from orchestrator.stores.mlflow_client import connect
    from orchestrator.stores.optuna_storage import local_store_file

    chosen = uri or home.mlflow_uri
    file = local_store_file(chosen)
    if file is not None and not file.exists():
        return f"{file} is made by the first run"
    own = [e for e in connect(chosen).search_experiments() if e.name != "Default"]
    return f"{file or redact(chosen)} holds {_counted(len(own), 'experiment', 'experiments')}"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _ray(address: str | None) -> Check:
    """Starts a cluster of one CPU, or joins the one that is named, and asks what it has."""
    import ray

    try:
        with connection.connected(address, cpus=1):
            total = ray.cluster_resources()
    except StudyError as error:
        return Check(name="Ray", state="failed", found=str(error), remedy="see the message")
    except Exception as error:
        return Check(
            name="Ray",
            state="failed",
            found=f"no cluster starts here: {type(error).__name__}: {error}",
            remedy="on a busy machine try again; see docs/troubleshooting.md",
        )
    has = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
    if address:
        return Check(name="Ray", state="ok", found=f"the cluster at {address} has {has}")
    cpus = connection.local_cpus()
    return Check(name="Ray", state="ok", found=f"a cluster starts here; {cpus} CPUs for trials")
