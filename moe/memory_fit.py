"""Whether a run fits the memory of its device, and what would make it fit."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from moe.config import TrialConfig
from moe.memory import Memory, estimate

# An estimate is within 15% of the measured peak: what could fit is let try.
_DOUBT = 0.85
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def host_bytes() -> int:
    """Memory of this machine, or what its container may have of it."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            found = min(found, int(Path(path).read_text()))
        except (OSError, ValueError):  # another version of cgroups, or "max"
            continue
    return found


def gpu_bytes() -> int | None:
    """Memory of the largest GPU that torch can use here; None without one."""
    import torch

    gpus = range(torch.cuda.device_count())
    return max((torch.cuda.get_device_properties(i).total_memory for i in gpus), default=None)


def misfit(
    config: TrialConfig,
    most: float,
    *,
    device: str = "cpu",
    workers: int = 1,
    shard: bool = False,
    where: str = "",
) -> str | None:
    """Why a worker of the run cannot fit `most` bytes, with remedies; None where it may.

    `where` says whose memory `most` is.
    """
    needs = estimate(config, device=device, workers=workers, shard=shard)
    if needs.peak * _DOUBT <= most:
        return None
    return (
        "a run must fit the memory of its device; a worker needs about "
        f"{size_text(needs.peak)} at its peak ({_parts(needs)}), and {where or 'there'} is "
        f"{size_text(most)}. "
        f"{_remedies(config, most, device, workers, shard)}"
    )


def _parts(needs: Memory) -> str:
    return (
        f"weights {size_text(needs.weights)}, gradients {size_text(needs.gradients)}, optimiser "
        f"{size_text(needs.optimizer)}, activations {size_text(needs.activations)}"
    )


def _remedies(config: TrialConfig, most: float, device: str, workers: int, shard: bool) -> str:
    found = []
    if (size := _micro_batch_that_fits(config, most, device, workers, shard)) is not None:
        found.append(f"set train.micro_batch_tokens={size} (the batch of a step stays)")
    if (more := _workers_that_fit(config, most, device, workers, shard)) is not None:
        tokens = config.train.batch_tokens // more
        smaller = tokens < config.train.micro_batch_tokens
        with_it = f" and train.micro_batch_tokens={tokens}" if smaller else ""
        found.append(f"spread it with --shard over {more} workers{with_it}")
    found.append("choose a smaller model")
    text = ", or ".join(found)
    return f"{text[0].upper()}{text[1:]}."


def _micro_batch_that_fits(
    config: TrialConfig, most: float, device: str, workers: int, shard: bool
) -> int | None:
    """The largest that does, and that the workers can share evenly."""
    train, context = config.train, config.model.context_length
    for size in range(train.micro_batch_tokens - context, 0, -context):
        if train.batch_tokens % (size * workers):
            continue
        tried = _with_micro_batch(config, size)
        if estimate(tried, device=device, workers=workers, shard=shard).peak <= most:
            return size
    return None


def _workers_that_fit(
    config: TrialConfig, most: float, device: str, workers: int, shard: bool
) -> int | None:
    """The fewest powers of two of sharded workers that do, more than there are."""
    if config.optim.name != "adamw":
        return None
    train, context = config.train, config.model.context_length
    for more in (2**i for i in range(1, 11)):
        size = min(train.micro_batch_tokens, train.batch_tokens // more)
        if (more <= workers and shard) or more < workers:
            continue
        if size < context or size % context or train.batch_tokens % (size * more):
            continue
        tried = _with_micro_batch(config, size)
        if estimate(tried, device=device, workers=more, shard=True).peak <= most:
            return more
    return None


def _with_micro_batch(config: TrialConfig, size: int) -> TrialConfig:
    train = dataclasses.replace(config.train, micro_batch_tokens=size)
    return dataclasses.replace(config, train=train)


def size_text(number: float) -> str:
    """Bytes as people say them: `1.2 GB`."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
