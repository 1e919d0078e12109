"""Random streams by name: one (seed, name), the same numbers in every cell and process."""

from __future__ import annotations

import hashlib

import torch


def named_generator(seed: int, *name: str | int) -> torch.Generator:
    """A CPU generator of its own for (seed, name); the global generators are left alone.

    On the CPU whatever the device, so that a GPU and a CPU run begin from the same weights.
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *name))).encode()).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return generator
