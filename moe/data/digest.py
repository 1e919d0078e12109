"""Digests by content: the same bytes have the same digest wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from moe.config import DataConfig

DIGEST_LENGTH = 16


class ContentDigest:
    """A digest over a sequence of parts whose borders count."""

    def __init__(self, kind: str) -> None:
        self._hash = hashlib.sha256()
        self.add(kind)

    def add(self, *parts: str | bytes) -> None:
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            self._hash.update(hashlib.sha256(data).digest())

    def add_file(self, kind: str, blocks: Iterable[bytes]) -> None:
        """Adds a file as one part, without holding it in memory."""
        whole = hashlib.sha256()
        for block in blocks:
            whole.update(block)
        self.add(kind)
        self._hash.update(whole.digest())

    def hexdigest(self) -> str:
        return self._hash.hexdigest()[:DIGEST_LENGTH]


def split_of(position: float, config: DataConfig) -> int:
    """Which of `moe.data.layout.SPLITS` a document is in, by its `held_out_position`: first those
    held out for evaluation, then those for the test."""
    if position < config.holdout_fraction:
        return 1
    return 2 if position < config.holdout_fraction + config.test_fraction else 0


def held_out_position(text: bytes) -> float:
    """A document's place in [0, 1): it is held out if that is below the fraction held out.

    A function of the content alone, so that copies of a document lie on the same side.
    """
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48
