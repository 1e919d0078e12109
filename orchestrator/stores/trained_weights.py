"""Where the final weights of a finished trial lie: in the home, or where its checkpoints were."""

from __future__ import annotations

from collections.abc import Callable

from moe.train.run_folder import Storage
from orchestrator.base.checkpoint_place import CheckpointPlace
from orchestrator.base.home import Home
from orchestrator.stores.optuna_launches import launches_in
from orchestrator.stores.optuna_storage import storage_if_any, trouble_named
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import CHECKPOINT_PLACE, TrialRecord

FINAL = "final"  # of `moe.train.checkpoint`, which brings torch with it


def folder_with_weights(
    record: TrialRecord, home: Home, checkpoint_uri: str | None, say: Callable[[str], None]
) -> str | None:
    """The run's folder that holds them; `say` is told of places that cannot be read or have none.

    Looked for at `checkpoint_uri`, where the trial says, and in the home.
    """
    named = [checkpoint_uri, record.attributes.get(CHECKPOINT_PLACE), None]
    places = [CheckpointPlace.of(home, uri) for uri in dict.fromkeys(named)]
    for place in places:
        folder = place.run_folder(record.config_hash, record.code_digest)
        if _holds_final(place, folder, say):
            return folder
    looked = " or ".join(place.name for place in places)
    say(f"{record.cell} seed {record.seed} left no weights in {looked}")
    return None


def complete_trial(storage_url: str, config_hash: str) -> TrialRecord | None:
    """The complete trial of a config hash, in whichever launch; None where there is none, or no
    record at all."""
    storage = storage_if_any(storage_url)
    if storage is None:
        return None
    with trouble_named(storage_url):
        for info in launches_in(storage):
            for record in OptunaTrials(storage, info).records():
                if record.config_hash == config_hash and record.state == "complete":
                    return record
    return None


def _holds_final(place: CheckpointPlace, folder: str, say: Callable[[str], None]) -> bool:
    try:
        return FINAL in Storage.at(folder).names()
    except (OSError, ValueError) as error:
        say(f"{place.name} cannot be read ({place.without_secrets(error)}); see --checkpoint-uri")
        return False
