"""What a trial's process has freed, given back to its machine.

glibc keeps freed tensors in a heap whose holes fit the next trial's badly: an actor that serves one
trial after another grew to 1.9 GB in eight trials of 0.3 GB each (docs/log.md).
"""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Takes some 20 ms. Other allocators than glibc's are left alone."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
