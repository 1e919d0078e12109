"""Finished dense trials that a launch's mixtures start from (`moe.upcycled_from`, 2212.05055)."""

from __future__ import annotations

from dataclasses import dataclass

from moe.config import ConfigError, TrialConfig
from moe.config.upcycling_rules import require_upcyclable
from moe.train.run_folder import Storage
from orchestrator.base.checkpoint_place import CheckpointPlace, run_name
from orchestrator.base.errors import BadInput
from orchestrator.stores.trained_weights import FINAL, complete_trial
from orchestrator.study.launch import Launch


@dataclass(frozen=True)
class DenseRun:
    """A run's folder within the checkpoint place, and what training it cost."""

    run: str
    tokens: int


def find_dense_runs(
    launch: Launch, storage_url: str, place: CheckpointPlace
) -> dict[str, DenseRun]:
    """By config hash; those that the launch's cells name.

    Raises BadInput, with nothing created, where one is not finished here, its weights are not where
    this launch keeps checkpoints, or a cell cannot start from them.
    """
    found: dict[str, DenseRun] = {}
    for point in launch.points_ahead():
        wanted = point.config.moe.starts_from
        if not wanted:
            continue
        record = complete_trial(storage_url, wanted)
        if record is None:
            raise BadInput(
                f"{point.cell} starts from the dense trial {wanted} (moe.upcycled_from), which is "
                "not complete in this home. Run it first; `moe-study status STUDY --json` tells "
                "its config hash."
            )
        run = run_name(record.config_hash, record.code_digest)
        try:
            dense = _config(place, run)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{point.cell} starts from the weights of the dense trial {wanted}; "
                f"{place.name} does not hold them ({place.without_secrets(error)}). Name where "
                "they are with --checkpoint-uri, or train that trial here."
            ) from None
        try:
            require_upcyclable(point.config, dense)
        except ConfigError as error:
            raise BadInput(f"{point.cell} cannot start from {wanted}: {error}") from None
        found[wanted] = DenseRun(run, dense.train.num_tokens)
    return found


def _config(place: CheckpointPlace, run: str) -> TrialConfig:
    storage = Storage.at(place.inside(run))
    if FINAL not in storage.names():
        raise ValueError(f"no {FINAL} in {run}")
    return TrialConfig.from_json(storage.read(f"{FINAL}/config.json").decode())
