"""A home that was copied or moved: what in it still names its old place, found and mended.

MLflow makes every local artifact location absolute as an experiment is made, and resolves a
relative one in its tables against the folder at hand (measured, MLflow 3.17); `mlflow-artifacts:`
works behind a server alone. So the locations stay absolute, and whoever opens a home to write in it
first lets them name where it stands. The old place is never touched. Only the home's own database
is mended: any other store is its owner's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from orchestrator.base.errors import LaunchHeld, StudyError
from orchestrator.base.home import Home
from orchestrator.stores.driver_lock import DriverLock
from orchestrator.stores.experiment_names import launch_of
from orchestrator.stores.mlflow_private import (
    experiment_locations,
    move_default_experiment,
    move_location,
)
from orchestrator.stores.outbox import fingerprint, outbox_suffix, own_outbox_suffix
from orchestrator.stores.outbox_files import OutboxFile, OutboxHeld


def former_places(home: Home) -> list[Path]:
    """Folders that the home's MLflow database takes for the home, and that are another. Reads."""
    with _database(home) as database:
        return sorted({place for _, _, place in _foreign(database, home)})


def settle(home: Home) -> list[str]:
    """Lets everything in a home name the place where it stands; what was done, a line a place.

    For who holds the home's lock, before anything is written. Raises StudyError where the database
    cannot be written.
    """
    try:
        with _database(home) as database, database:
            places = _rename_locations(database, home)
    except sqlite3.Error as error:
        raise StudyError(
            f"a home that was moved is mended as it is opened; {home.root / 'mlflow.db'} cannot be "
            f"written ({error}). Make it writable, or copy the home to where it is."
        ) from None
    for place in [*places, home.root]:  # the last: outboxes that earlier code named by their place
        _rename_outboxes(home, Home(place))
    return [
        f"this home was at {place}; its artifacts are written and read here now" for place in places
    ]


def settle_unheld(home: Home, say: Callable[[str], None]) -> None:
    """`settle` for who writes beside a driver: whoever is at work in the home has done it."""
    try:
        with DriverLock(home.root / "home", f"the home {home.root}", "the home's own paths"):
            for line in settle(home):
                say(line)
    except LaunchHeld:
        return
    except (StudyError, OSError) as error:
        say(f"{error}")


def _database(home: Home) -> closing[sqlite3.Connection]:
    file = home.root / "mlflow.db"
    # Not mode=ro: what a killed writer left half-written is rolled back as the file is opened.
    address = f"{file.as_uri()}?mode=rw" if file.exists() else ":memory:"
    return closing(sqlite3.connect(address, uri=True, timeout=30))


def _foreign(database: sqlite3.Connection, home: Home) -> Iterator[tuple[str, str, Path]]:
    """Experiments of launches that lie in another home's folder: location, name of the folder
    under `mlartifacts`, and that home."""
    for name, location in experiment_locations(database):
        folder = artifact_folder(launch_of(name))
        path = Path(unquote(urlsplit(location or "").path))
        ours = path.parts[-2:] == (home.artifacts.name, folder)
        if ours and str(location).startswith("file:") and path.parents[1] != home.root:
            yield location, folder, path.parents[1]


def _rename_locations(database: sqlite3.Connection, home: Home) -> list[Path]:
    places = {}
    for location, folder, place in list(_foreign(database, home)):
        places[place] = None
        move_location(database, location, (home.artifacts / folder).as_uri())
    if experiment_locations(database):
        move_default_experiment(database, home.artifacts)
    return list(places)


def artifact_folder(launch: str) -> str:
    """Of a launch, under `mlartifacts`: its name is no path, so this is its fingerprint."""
    return fingerprint(launch)[:12]


def _rename_outboxes(home: Home, old: Home) -> None:
    """What was on its way from the old place goes out from here."""
    before, now = outbox_suffix(old.mlflow_uri), own_outbox_suffix()
    for path in sorted(home.spool.glob(f"*-{before}.jsonl")):
        new = path.with_name(f"{path.name[:12]}-{now}.jsonl")
        with suppress(OutboxHeld), ExitStack() as stack:
            sources = [OutboxFile(path), OutboxFile(new)]
            for outbox in sources:
                stack.callback(outbox.close)
            # The older first; killed in between, they are sent twice, which changes nothing.
            for entry, offset in list(sources[1].pending()):
                sources[0].append(entry)
                sources[1].mark_delivered(offset)
            for entry, offset in list(sources[0].pending()):
                sources[1].append(_from_here(entry, old.root))
                sources[0].mark_delivered(offset)
            if refused := sources[0].refused_lines():
                with sources[1].rejected_path.open("a") as kept:
                    kept.writelines(refused)
            for suffix in (".jsonl", ".offset", ".rejected.jsonl", ".lock"):
                path.with_suffix(suffix).unlink(missing_ok=True)


def _from_here(entry: dict[str, Any], old: Path) -> dict[str, Any]:
    """An artifact that waits in the home is where the home is."""
    path = entry.get("path")
    if path is None or not Path(path).is_relative_to(old):
        return entry
    return {**entry, "path": str(Path(path).relative_to(old))}
