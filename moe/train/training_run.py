"""One training run: `train(config, store, report=..., out=...)`, or `python -m moe.train` alone.

A run is a function of its config and of the tokens. It may be killed at any moment and called
again: it goes on from its newest checkpoint, and on CPU ends with the same bits.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from moe import metrics as names
from moe.code_digest import moe_digest
from moe.config import TrialConfig
from moe.data.token_store import TokenStore
from moe.train.checkpoint import Checkpoint, Checkpoints, TrainerState, load_dense
from moe.train.distributed import World, broadcast, check_world, gather, max_over_ranks, on_main
from moe.train.evaluate import EvaluationSet
from moe.train.optim import learning_rate
from moe.train.routing_stats import RoutingHistory
from moe.train.run_folder import CONFIG_FILE, LOSSES_FILE, ROUTING_FILE, Storage
from moe.train.step_log import (
    BALANCE_LOSS,
    GRAD_NORM,
    LOSS,
    PAPER_WINDOW,
    Z_LOSS,
    DivergenceError,
    check_loss,
)
from moe.train.trainer import Trainer

__all__ = ["DivergenceError", "Report", "TrainResult", "World", "resolve", "train"]

Report = Callable[[dict[str, float], Path | str | None], bool | None]

ALONE = World()
_LEAVE = "leave"


class _LeftError(Exception):
    """Rank 0 left because of what `report` raised; no collective may follow."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run leaves.

    `curve` holds the entries as reported, `metrics` the last of them. `late_metrics` is what could
    be known only at the end, with the step and timestamp that each belongs to; a stopped run has
    none. `moe_digests` names the code that trained it: more than one if it changed under the run.
    """

    status: Literal["complete", "stopped"]
    metrics: dict[str, float]
    curve: list[dict[str, float]]
    late_metrics: list[dict[str, float]]
    routing: Path | str | None
    checkpoint: Path | str | None
    tokens: int
    device_s: float
    moe_digests: list[str]


def resolve(config: TrialConfig, store: TokenStore, world: World = ALONE) -> TrialConfig:
    """The config with the store's digest filled in.

    Raises ValueError if config, tokens and world do not go together, before anything is created.
    """
    check_world(world)
    if config.data.digest not in ("", store.digest):
        raise ValueError(
            "a run trains on the tokens that its config names; received tokens "
            f"{store.digest} for data.digest={config.data.digest}. "
            "Prepare the corpus of the config, or pass its folder."
        )
    if config.data.vocab_size != store.vocab_size:
        raise ValueError(
            "the embedding has a row for each token of the tokenizer; received "
            f"data.vocab_size={config.data.vocab_size} for tokens of {store.vocab_size}. "
            f"Set data.vocab_size={store.vocab_size}."
        )
    context = config.model.context_length
    store.batch(seed=0, step=0, num_sequences=1, context_length=context)
    if config.data.test_fraction and "test" not in store.splits:
        raise ValueError(
            "data.test_fraction asks for tokens with a test split; received tokens "
            f"{store.digest}, which have none. Prepare the corpus of the config."
        )
    for split in store.splits[1:]:
        store.evaluation(context_length=context, num_tokens=config.train.eval_tokens, split=split)
    if config.moe.follows_labels:
        store.require_sequence_label(config.moe.label_column)
    micro_batches = config.train.batch_tokens // config.train.micro_batch_tokens
    if micro_batches % world.size:
        raise ValueError(
            "workers share a step's micro-batches evenly, so their number must divide "
            f"train.batch_tokens / train.micro_batch_tokens; received {world.size} workers for "
            f"{micro_batches} micro-batches. Lower train.micro_batch_tokens, or use fewer workers."
        )
    if world.is_sharded and config.optim.name != "adamw":
        raise ValueError(
            "a sharded run trains with AdamW, since Muon takes whole matrices and a worker has "
            f"parts of them; received optim.name={config.optim.name}. Set optim.name=adamw, or "
            "leave --shard out."
        )
    data = dataclasses.replace(config.data, digest=store.digest)
    return dataclasses.replace(config, data=data)


def train(
    config: TrialConfig,
    store: TokenStore,
    *,
    report: Report,
    out: Path | str,
    world: World = ALONE,
    checkpoint_every: int = 0,
    evaluate_at: Collection[int] = (),
    keep_checkpoints: int = 2,
    dense: Path | str | None = None,
) -> TrainResult:
    """Trains, and calls `report(metrics, checkpoint)` on rank 0 after each evaluation.

    `report` returns True to stop the run; what it raises ends the run on all ranks, and is raised
    on rank 0. `checkpoint` is where the state of this very step lies, or None. `out` is this run's
    own folder (a path, or a URI that pyarrow knows). If it holds a checkpoint of this config, the
    curve so far is reported again, with its first timestamps, and the run goes on from there.
    `checkpoint_every` counts optimiser steps; 0 keeps only the end. `evaluate_at` names steps to
    evaluate after beside those of `train.eval_every`; training is the same with them. The caller's
    generators are left as they were. `dense` is the folder of the finished run that
    `moe.upcycled_from` names: it is read where the run begins, and not where it goes on.

    Raises ValueError if the inputs do not go together or `out` belongs to another config,
    DivergenceError if the loss leaves the finite numbers or passes train.max_loss, OSError if `out`
    cannot be written, and moe.train.run_folder.TakenOverError if another process went on with it.
    """
    config = resolve(config, store, world)
    run = _Run(
        config, world, report, Storage.at(out), checkpoint_every, evaluate_at, keep_checkpoints
    )
    if config.moe.starts_from and not run.checkpoints.any():
        run.dense = load_dense(config, dense)
    device = torch.device(world.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return run.go(store)


class _Run:
    """One run on one rank. All ranks call the same methods in the same order."""

    def __init__(
        self,
        config: TrialConfig,
        world: World,
        report: Report,
        storage: Storage,
        checkpoint_every: int,
        evaluate_at: Collection[int],
        keep_checkpoints: int,
    ) -> None:
        self.config, self.world = config, world
        self.report, self.storage = report, storage
        self.checkpoint_every, self.keep_checkpoints = checkpoint_every, keep_checkpoints
        self.evaluate_at = frozenset(evaluate_at)
        self.checkpoints = Checkpoints(storage, config)
        self.curve: list[dict[str, float]] = []
        self.noted: dict[int, dict[str, float]] = {}  # evaluations of an earlier attempt, by step
        self.history = RoutingHistory(layers=config.moe_layers)
        self.location: Path | str | None = None
        self.dense: dict[str, Tensor] | None = None  # weights that a mixture starts from
        self.moe_digests = [moe_digest()]
        self.device_s_before = 0.0
        self.started = time.perf_counter()

    def go(self, store: TokenStore) -> TrainResult:
        try:
            status = self._train(store)
            if self.history.steps:
                on_main(self._write_routing, self.world)
        except _LeftError:
            status = "stopped"
        return self._result(status)

    def _train(self, store: TokenStore) -> Literal["complete", "stopped"]:
        found, self.noted = on_main(self._look, self.world)
        if found is not None:
            stops = self._replay(found)
            if found.final or stops:
                return "complete" if found.final else "stopped"
        if torch.device(self.world.device).type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.world.device)  # of an earlier run here
        self.trainer = Trainer(self.config, store, self.world)
        self.store = store
        self.evaluation_set = EvaluationSet(self.config, store, self.world)
        if found is not None:
            self.trainer.load(found, self.storage)
        elif self.config.moe.starts_from:
            self._upcycle()
        first = found.step + 1 if found else 1
        self.step_s, self.first_timed, self.clock = 0.0, first, time.perf_counter()
        for step in range(first, self.config.train.num_steps + 1):
            self.trainer.train_step(step)
            if self._milestone(step):
                return "stopped"
        return "complete"

    def _upcycle(self) -> None:
        if self.dense is None:
            raise ValueError(
                f"the checkpoints of this run are damaged, and it started from the dense trial "
                f"{self.config.moe.starts_from}. Remove {self.storage} to start it again."
            )
        self.trainer.start_from(self.dense)
        self.dense = None

    def _look(self) -> tuple[Checkpoint | None, dict[int, dict[str, float]]]:
        """What earlier attempts left; rank 0 only. One that still writes is refused from now on."""
        self.checkpoints.claim()
        found = self.checkpoints.newest()
        self.storage.write(CONFIG_FILE, self.config.to_json().encode())
        return found, self.checkpoints.noted_evaluations()

    def _replay(self, found: Checkpoint) -> bool:
        """Takes over what the checkpoint remembers and reports its curve. True: stop here."""
        self.location = self.storage.location(found.name)
        self.history = RoutingHistory.from_tensors(self.config.moe_layers, found.trainer.history)
        self.moe_digests = found.trainer.moe_digests
        if not found.final and self.moe_digests[-1] != moe_digest():
            self.moe_digests = [*self.moe_digests, moe_digest()]
        spent = [found.trainer.device_s, *(entry[names.DEVICE_S] for entry in self.noted.values())]
        self.device_s_before = max(spent)
        for entry in found.curve:
            self.curve.append(entry)
            if self._tell(entry, None) and not found.final:
                return True
        return False

    def _milestone(self, step: int) -> bool:
        """Evaluates, saves and reports when it is time to. True: stop here."""
        train = self.config.train
        is_last = step == train.num_steps
        saves = is_last or (self.checkpoint_every > 0 and step % self.checkpoint_every == 0)
        evaluates = is_last or step % train.eval_every == 0 or step in self.evaluate_at
        if not (saves or evaluates):
            return False
        self.trainer.check(step)
        self.step_s += time.perf_counter() - self.clock
        stops = False
        if evaluates:
            self.curve.append(self._evaluate(step))
            self.step_s, self.first_timed = 0.0, step + 1
        location = self._save(step, final=is_last) if saves else None
        if evaluates:
            stops = self._tell(self.curve[-1], location) and not is_last
            if stops and self.checkpoint_every > 0 and not saves:
                self._save(step, final=False)
        self.clock = time.perf_counter()
        return stops

    def _evaluate(self, step: int) -> dict[str, float]:
        """The entry of the curve for this step, the same on all ranks."""
        train, log = self.config.train, self.trainer.log
        is_last, tests = step == train.num_steps, self.config.data.test_fraction > 0
        evaluation = self.evaluation_set.evaluate(
            self.trainer.model, by_document=is_last and not tests
        )
        loss = evaluation.metrics[names.VAL_LOSS]
        check_loss("evaluation loss", step, loss, train.max_loss)
        if math.isinf(evaluation.metrics[names.VAL_PERPLEXITY]):
            raise DivergenceError(step, loss, f"exp of the evaluation loss {loss:.4g} is infinite")
        if evaluation.routing is not None:
            self.history.add(step, evaluation.routing)
        since = log.means((step - 1) // train.eval_every * train.eval_every + 1, step)
        tokens = (step + 1 - self.first_timed) * train.batch_tokens
        entry = {
            names.STEP: step,
            names.TOKENS: step * train.batch_tokens,
            **evaluation.metrics,
            names.TRAIN_LOSS: since[LOSS],
            names.TRAIN_LOSS_LAST_100: log.means(max(1, step - PAPER_WINDOW + 1), step)[LOSS],
            names.GRAD_NORM: since[GRAD_NORM],
            names.LEARNING_RATE: learning_rate(self.config.optim, step, train.num_steps),
            names.TOKENS_PER_S: tokens / self.step_s,
            names.DEVICE_S: self._device_s(),
            names.PEAK_MEMORY_BYTES: max_over_ranks(_peak_memory_bytes(self.world), self.world),
        }
        judged = evaluation
        if is_last and tests:
            held_back = EvaluationSet(self.config, self.store, self.world, "test")
            judged = held_back.evaluate(self.trainer.model, by_document=True)
            found = judged.metrics
            entry |= {own: found[name] for name in found if (own := names.on_test(name))}
        if judged.documents is not None:
            losses = judged.documents.to_parquet()
            on_main(lambda: self.storage.write(LOSSES_FILE, losses), self.world)
        if self.config.moe_layers and self.config.moe.router_kind.scores:
            entry |= {names.BALANCE_LOSS: since[BALANCE_LOSS], names.Z_LOSS: since[Z_LOSS]}
        return on_main(lambda: self._stamp(entry), self.world)

    def _stamp(self, entry: dict[str, float]) -> dict[str, float]:
        """The entry with its timestamp; one that an earlier attempt noted stands as it was."""
        if noted := self.noted.get(entry[names.STEP]):
            return noted
        previous = self.curve[-1][names.TIMESTAMP_MS] if self.curve else 0
        now = max(time.time_ns() // 1_000_000, previous)  # clocks jump back
        entry = entry | {names.TIMESTAMP_MS: now}
        self.checkpoints.note_evaluation(entry)
        return entry

    def _save(self, step: int, *, final: bool) -> Path | str:
        """Raises OSError if it cannot be written, on the other ranks RuntimeError."""
        trainer_state = TrainerState(
            generators=gather(self.trainer.generators(), self.world),
            step_log=self.trainer.log.rows_SC,
            history=self.history.to_tensors(),
            device_s=self._device_s(),
            moe_digests=self.moe_digests,
        )
        shared, keep = self.world.is_sharded, self.keep_checkpoints
        checkpoint = Checkpoint(
            config=self.config,
            step=step,
            final=final,
            model={} if shared else self.trainer.model.state_dict(),
            optimizer=None if final or shared else self.trainer.optimizer.state_dict(),
            trainer=trainer_state,
            curve=self.curve,
            is_shared=shared,
        )
        if shared:
            self.location = self.trainer.save(self.checkpoints, checkpoint, keep=keep)
        else:
            self.location = on_main(
                lambda: self.checkpoints.save(checkpoint, keep=keep), self.world
            )
        return self.location

    def _tell(self, entry: dict[str, float], location: Path | str | None) -> bool:
        """Reports on rank 0; returns on all ranks whether to stop.

        If `report` raises, the other ranks are told first, or they would wait for rank 0 for ever.
        """
        if self.world.is_main:
            try:
                stops = bool(self.report(dict(entry), location))
            except BaseException:
                broadcast(_LEAVE, self.world)
                raise
            return broadcast(stops, self.world)
        verdict = broadcast(None, self.world)
        if verdict == _LEAVE:
            raise _LeftError
        return verdict

    def _device_s(self) -> float:
        spent = time.perf_counter() - self.started
        return self.device_s_before + spent * self.world.size

    def _result(self, status: Literal["complete", "stopped"]) -> TrainResult:
        late = []
        if self.history.steps and status == "complete":
            saturations = self.history.saturations()
            kept = (names.STEP, names.TOKENS, names.TIMESTAMP_MS)
            late = [
                {name: entry[name] for name in kept}
                | {names.SATURATION: saturations[entry[names.STEP]]}
                for entry in self.curve
                if math.isfinite(saturations[entry[names.STEP]])
            ]
        last = self.curve[-1]
        return TrainResult(
            status=status,
            metrics=dict(last),
            curve=self.curve,
            late_metrics=late,
            routing=self.storage.location(ROUTING_FILE) if self.history.steps else None,
            checkpoint=self.location,
            tokens=last[names.TOKENS],
            device_s=last[names.DEVICE_S],
            moe_digests=self.moe_digests,
        )

    def _write_routing(self) -> None:
        self.storage.write(ROUTING_FILE, self.history.to_parquet())


def _peak_memory_bytes(world: World) -> float:
    if torch.device(world.device).type == "cuda":
        return torch.cuda.max_memory_allocated(world.device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): KiB, on macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
