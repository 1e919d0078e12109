"""One optimiser step after another: model, optimiser, generators and step log of one rank.

B sequences of a micro-batch, S context, C columns of the step log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from moe.config import TrialConfig
from moe.data.token_store import TokenStore
from moe.model.transformer import MoETransformer
from moe.model.upcycling import upcycle
from moe.train.checkpoint import Checkpoint, Checkpoints
from moe.train.distributed import (
    World,
    accumulating,
    complete_gradients,
    gather,
    on_main,
    replicate,
    sum_over_ranks,
)
from moe.train.evaluate import DeviceBatch, autocast
from moe.train.optim import build_optimizer, learning_rate, set_learning_rate
from moe.train.run_folder import Storage
from moe.train.step_log import BALANCE_LOSS, GRAD_NORM, LOSS, NUM_COLUMNS, Z_LOSS, StepLog

_CHECK_EVERY = 20  # steps between looks at the step log on a GPU, each of which waits for it


class Trainer:
    """Everything that a step changes. Steps count from 1; dropout draws from torch's generators."""

    def __init__(self, config: TrialConfig, store: TokenStore, world: World) -> None:
        self.config, self.store, self.world = config, store, world
        self.is_cuda = torch.device(world.device).type == "cuda"
        self.model = MoETransformer(config)
        if not world.is_sharded:  # one that is goes to its device shard by shard
            self.model.to(world.device)
        if world.compile and self.is_cuda and config.train.precision == "bf16":
            self.model.compile_parts()
        self.replica = replicate(self.model, world)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.model, config.optim)
        self.log = StepLog(max(config.train.eval_every, _CHECK_EVERY), world.device)
        self._checked = 0
        self._seed(0)

    def train_step(self, step: int) -> None:
        """Raises DivergenceError on all ranks alike: on CPU at once, on a GPU within 20 steps."""
        rate = learning_rate(self.config.optim, step, self.config.train.num_steps)
        set_learning_rate(self.optimizer, rate)
        self.model.train()
        self.model.begin_step()
        row_C = sum_over_ranks(self._backward(step), self.world)
        complete_gradients(self.parameters)
        gradients = [parameter.grad for parameter in self.parameters]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.world.is_sharded:
            norm = norm.full_tensor()
        if self.config.optim.grad_clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.optim.grad_clip, norm)
        row_C[GRAD_NORM] = norm
        self.log.write(step, row_C)
        if not self.is_cuda or step % _CHECK_EVERY == 0:
            self.check(step)
        self.optimizer.step()
        # Among several workers gradients stay in the buckets that are reduced.
        self.optimizer.zero_grad(set_to_none=self.world.size == 1 or self.world.is_sharded)
        self.model.end_step()

    def check(self, step: int) -> None:
        """Raises DivergenceError if a step up to this one left the finite numbers."""
        self.log.check(self._checked + 1, step, self.config.train.max_loss)
        self._checked = step

    def _backward(self, step: int) -> Tensor:
        """Gradients of this rank's share of the step's mean loss, and its part of the log row."""
        train = self.config.train
        share = train.micro_batch_tokens / train.batch_tokens
        row_C = torch.zeros(NUM_COLUMNS, device=self.world.device)
        for batch, is_last in self._micro_batches(step):
            with accumulating(self.replica, is_last=is_last):
                with autocast(self.config, self.world.device):
                    output = self.replica(
                        batch.ids_BS, batch.targets_BS, label_B=batch.label_B, step=step
                    )
                    loss = (output.loss + output.aux_loss) * share
                # Of the workers' gradients the mean is taken, of their shares the sum.
                (loss * self.world.size).backward()
            row_C[LOSS] += output.loss.detach() * share
            row_C[BALANCE_LOSS] += output.balance_loss * share
            row_C[Z_LOSS] += output.z_loss * share
        return row_C

    def _micro_batches(self, step: int) -> Iterator[tuple[DeviceBatch, bool]]:
        """This rank's consecutive micro-batches of the step's global batch, and whether each is the
        last of them."""
        train, context = self.config.train, self.config.model.context_length
        size = train.micro_batch_tokens // context
        count = train.batch_tokens // train.micro_batch_tokens // self.world.size
        first = self.world.rank * count * size
        end = first + count * size
        for start in range(first, end, size):
            batch = self.store.batch(
                seed=train.seed,
                step=step - 1,
                num_sequences=train.batch_tokens // context,
                context_length=context,
                start=start,
                stop=start + size,
            )
            yield DeviceBatch.of(batch, self.config, self.world.device), start + size == end

    def save(self, checkpoints: Checkpoints, checkpoint: Checkpoint, *, keep: int) -> Path | str:
        """Of a sharded run: every worker writes its shards, rank 0 the rest, and the checkpoint
        appears when all have. Raises as `Checkpoints.save` does, on other ranks RuntimeError."""
        from moe.train.sharded_state import state_of, write_state

        storage = checkpoints.storage
        place = on_main(lambda: storage.begin_folder(checkpoint.name), self.world)
        optimizer = None if checkpoint.final else self.optimizer
        try:
            own = write_state(storage, place, state_of(self.model, optimizer))
        except Exception:
            storage.abandon_folder(place)
            raise
        written = {file: told for of in gather(own, self.world) for file, told in of.items()}
        return on_main(
            lambda: checkpoints.finish(checkpoint, place, keep=keep, written=written), self.world
        )

    def start_from(self, dense: dict[str, Tensor]) -> None:
        """Begins with the weights of a dense model (`moe.model.upcycling`)."""
        if not self.world.is_sharded:
            upcycle(self.model, dense)
            return
        from moe.train.sharded_state import fill_whole

        model = MoETransformer(self.config)
        upcycle(model, dense)
        fill_whole(self.model, self.optimizer, model.state_dict(), None)

    def generators(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.is_cuda:
            states["cuda"] = torch.cuda.get_rng_state(self.world.device)
        return states

    def load(self, checkpoint: Checkpoint, storage: Storage) -> None:
        """Goes back to the state after the checkpoint's step; it must not be a final one. `storage`
        is the run's folder, where the workers of a sharded run left theirs.

        With another number of workers or kind of device than before, the generators are seeded
        anew from (seed, rank, step): the run goes on, without the claim of equal bits.
        """
        assert not checkpoint.final
        if checkpoint.is_shared:
            from moe.train.sharded_state import read_state, state_of

            read_state(storage, checkpoint.name, state_of(self.model, self.optimizer))
        elif self.world.is_sharded:
            from moe.train.sharded_state import fill_whole

            fill_whole(self.model, self.optimizer, checkpoint.model, checkpoint.optimizer)
        else:
            self.model.load_state_dict(checkpoint.model)
            self.optimizer.load_state_dict(checkpoint.optimizer)
        self.log.rows_SC.copy_(checkpoint.trainer.step_log)
        self._checked = checkpoint.step
        states = checkpoint.trainer.generators
        own = states[self.world.rank] if len(states) == self.world.size else {}
        if ("cuda" in own) != self.is_cuda or "cpu" not in own:
            self._seed(checkpoint.step)
            return
        torch.set_rng_state(own["cpu"])
        if self.is_cuda:
            torch.cuda.set_rng_state(own["cuda"], self.world.device)

    def _seed(self, step: int) -> None:
        """Ranks draw different dropout, so each has its own stream."""
        text = f"{self.config.train.seed}/{self.world.rank}/{step}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]))
