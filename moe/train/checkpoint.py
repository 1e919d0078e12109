"""Checkpoints of one run: complete or absent, verified on load, bound to one config.

    out/step_00000100/     model, optimiser, trainer state, curve; a manifest with sizes and sha256
    out/final/             the same without the optimiser: the weights that analyses read
    out/evaluations/00000100.json   an evaluation, written before it is reported

The data position and the schedule are functions of the step, so the step is all that is kept of
them. Numpy's and Python's global generators are not kept, because training never draws from them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe.code_digest import moe_digest, trains_as
from moe.config import TrialConfig
from moe.config.upcycling_rules import require_upcyclable
from moe.identity import config_hash
from moe.train.run_folder import DamagedError, Storage, Writer

FINAL = "final"
_PREFIX = "step_"
_NOTES = "evaluations"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """What the loop itself remembers, beside model and optimiser."""

    generators: list[dict[str, Tensor]]  # one a rank: torch's CPU generator, and CUDA's
    step_log: Tensor
    history: dict[str, Tensor]
    device_s: float
    moe_digests: list[str]  # of the code that trained it, in order; more than one if it changed


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state after optimiser step `step`. `optimizer` is None in a final checkpoint.

    is_shared: its workers wrote model and optimiser together, and each reads its part
        (`moe.train.sharded_state`); here they are empty.
    """

    config: TrialConfig
    step: int
    final: bool
    model: dict[str, Tensor]
    optimizer: dict[str, Any] | None
    trainer: TrainerState
    curve: list[dict[str, float]]
    is_shared: bool = False

    @property
    def name(self) -> str:
        return FINAL if self.final else f"{_PREFIX}{self.step:08d}"


def _to_bytes(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _saver(value: Any) -> Writer:
    return lambda stream: torch.save(value, stream)


def _writer(data: bytes) -> Writer:
    return lambda stream: stream.write(data)


def _load(name: str, data: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"a checkpoint holds tensors and plain values; the {name} of this one wants code to "
            "run, and was not loaded. Find out who wrote it, and remove it."
        ) from None


def _decode(header: Mapping[str, Any], files: Mapping[str, bytes]) -> Checkpoint:
    is_shared = "model.pt" not in files
    return Checkpoint(
        config=TrialConfig.from_json(files["config.json"].decode()),
        step=header["step"],
        final=header["final"],
        model={} if is_shared else _load("model.pt", files["model.pt"]),
        optimizer=_load("optimizer.pt", files["optimizer.pt"]) if "optimizer.pt" in files else None,
        trainer=TrainerState(**_load("trainer.pt", files["trainer.pt"])),
        curve=json.loads(files["curve.json"]),
        is_shared=is_shared,
    )


def load_checkpoint(folder: Path | str) -> Checkpoint:
    """Reads one checkpoint folder (a path or URI), for example `out/final`; of one that several
    workers wrote together the weights alone.

    Raises `moe.train.run_folder.DamagedError` if it is incomplete or differs from its manifest.
    """
    storage = Storage.at(folder)
    checkpoint = _decode(*storage.read_folder(""))
    if not checkpoint.is_shared:
        return checkpoint
    from moe.train.sharded_state import read_whole

    return dataclasses.replace(checkpoint, model=read_whole(storage, ""))


def load_dense(config: TrialConfig, folder: Path | str | None) -> dict[str, Tensor]:
    """The final weights of the run that `moe.upcycled_from` names, from that run's folder.

    Raises ValueError where the folder is not given, is another's, has no final weights, or holds a
    model that `config` cannot start from.
    """
    wanted = config.moe.starts_from
    if folder is None:
        raise ValueError(
            f"a mixture of moe.upcycled_from={wanted} starts from that trial's weights; received "
            "no folder of them. Pass `--dense DIR`, the folder of its finished run."
        )
    try:
        dense = load_checkpoint(Storage.at(folder).location(FINAL))
    except (DamagedError, OSError) as error:
        raise ValueError(
            f"a mixture starts from the final weights of a finished dense run; {folder}/{FINAL} "
            f"does not hold them: {error}. Finish that run, or give the folder of one that is."
        ) from None
    if (found := config_hash(dense.config)) != wanted:
        raise ValueError(
            f"moe.upcycled_from names the dense run; received the folder of {found} for {wanted}. "
            "Give that run's folder."
        )
    require_upcyclable(config, dense.config)
    return dense.model


class Checkpoints:
    """The checkpoints of the run of `config` under `storage`."""

    def __init__(self, storage: Storage, config: TrialConfig) -> None:
        self.storage = storage
        self.config = config
        self._hash = config_hash(config)

    def any(self) -> bool:
        """Whether an earlier attempt left any."""
        return bool(self._names())

    def claim(self) -> None:
        """Makes this process the one writer of the folder (see `Storage.claim`).

        Raises ValueError, and claims nothing, if a checkpoint there belongs to another config.
        """
        for name in self._names():
            with contextlib.suppress(DamagedError):
                self._require_same_config(name, self.storage.read_header(name))
        self.storage.claim()

    def save(self, checkpoint: Checkpoint, *, keep: int) -> Path | str:
        """Writes the checkpoint, then removes all but the newest `keep` of those with a step.

        Returns its location. Raises OSError, with nothing half-written, if the disk is full.
        """
        return self.finish(checkpoint, self.storage.begin_folder(checkpoint.name), keep=keep)

    def finish(
        self,
        checkpoint: Checkpoint,
        place: str,
        *,
        keep: int,
        written: dict[str, Any] | None = None,
    ) -> Path | str:
        """`save` of a folder that was begun at `place`, where workers have `written` the model and
        the optimiser of a shared checkpoint (sizes and sha256 by file)."""
        files = {
            "config.json": _writer(checkpoint.config.to_json().encode()),
            "trainer.pt": _saver(vars(checkpoint.trainer)),
            "curve.json": _writer(_to_bytes(checkpoint.curve)),
        }
        if not checkpoint.is_shared:
            files["model.pt"] = _saver(checkpoint.model)
        if checkpoint.optimizer is not None:
            files["optimizer.pt"] = _saver(checkpoint.optimizer)
        header = {
            "config_hash": self._hash,
            "moe_digest": moe_digest(),
            "step": checkpoint.step,
            "final": checkpoint.final,
        }
        self.storage.finish_folder(place, checkpoint.name, files, header, written)
        for old in self._steps()[keep:]:
            self.storage.delete_folder(old)
        return self.storage.location(checkpoint.name)

    def newest(self) -> Checkpoint | None:
        """The final checkpoint or the newest with a step; a damaged one is passed over.

        Raises ValueError if a checkpoint here belongs to another config.
        """
        self.storage.delete_leftovers()
        for name in self._names():
            try:
                header, files = self.storage.read_folder(name)
                self._require_same_config(name, header)
                checkpoint = _decode(header, files)
            except DamagedError as error:
                logger.warning("passed over a damaged checkpoint: %s", error)
                continue
            if trains_as(header["moe_digest"]) != trains_as(moe_digest()):
                logger.warning(
                    "%s/%s was written by other code (moe_digest %s, now %s); going on from it",
                    self.storage,
                    name,
                    header["moe_digest"],
                    moe_digest(),
                )
            return checkpoint
        return None

    def note_evaluation(self, entry: dict[str, float]) -> None:
        """Notes an evaluation before it is reported, so that a re-run reports it unchanged."""
        note = {"config_hash": self._hash, "moe_digest": moe_digest(), "entry": entry}
        self.storage.write(f"{_NOTES}/{entry['step']:08d}.json", _to_bytes(note))

    def noted_evaluations(self) -> dict[int, dict[str, float]]:
        """Evaluations by step that this code noted for this config, in any attempt."""
        entries = {}
        for name in self.storage.names(_NOTES):
            try:
                note = json.loads(self.storage.read(f"{_NOTES}/{name}"))
            except ValueError:
                logger.warning("passed over a damaged note: %s/%s/%s", self.storage, _NOTES, name)
                continue
            own = (self._hash, trains_as(moe_digest()))
            if (note["config_hash"], trains_as(note["moe_digest"])) == own:
                entries[note["entry"]["step"]] = note["entry"]
        return entries

    def _names(self) -> list[str]:
        """Names of checkpoints: the final one, then the newest first."""
        return [name for name in self.storage.names() if name == FINAL] + self._steps()

    def _steps(self) -> list[str]:
        """Names of checkpoints with a step, newest first."""
        names = self.storage.names()
        return sorted((name for name in names if name.startswith(_PREFIX)), reverse=True)

    def _require_same_config(self, name: str, header: Mapping[str, Any]) -> None:
        if header.get("config_hash") != self._hash:
            raise ValueError(
                "a run's folder holds checkpoints of one config; received config "
                f"{self._hash}, and {self.storage}/{name} is of {header.get('config_hash')}. "
                "Give the run another folder, or remove that one."
            )
