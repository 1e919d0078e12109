"""A keyed permutation of 0..n-1 that is evaluated point by point, so an epoch needs no index table.

A generalised Feistel network (Black and Rogaway, CT-RSA 2002) on pairs (l, r) of a square that is
at least n large; what falls outside 0..n-1 is encrypted again until it lands inside.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

ROUNDS = 8


def permute(positions: np.ndarray, *, n: int, key: tuple[int, ...]) -> np.ndarray:
    """Image of each position under the permutation of 0..n-1 that `key` selects.

    Takes and returns int64 of the same shape; memory is O(len(positions)), not O(n).
    """
    assert n >= 1
    assert positions.size == 0 or 0 <= positions.min() <= positions.max() < n
    side = np.uint64(math.isqrt(n - 1) + 1)
    round_keys = _round_keys(key)
    image = _square(positions.astype(np.uint64), side, round_keys)
    while (outside := image >= n).any():
        image[outside] = _square(image[outside], side, round_keys)
    return image.astype(np.int64)


def _square(x: np.ndarray, side: np.uint64, round_keys: np.ndarray) -> np.ndarray:
    left, right = x // side, x % side
    for round_key in round_keys:
        left, right = right, (left + _mix(right + round_key)) % side
    return left * side + right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014); its high half."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x >> np.uint64(32)


def _round_keys(key: tuple[int, ...]) -> np.ndarray:
    digest = hashlib.shake_128(repr(key).encode()).digest(8 * ROUNDS)
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)
