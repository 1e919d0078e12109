"""A point drawn beside the driver's loop.

A sampler takes its time: a Gaussian process a second at two hundred trials, one of Optuna's as long
as it likes. While the loop waited for it no report was read, no early stop decided and no Ctrl-C
heard. So it waits for a moment only, and asks again.

One point is drawn at a time, since the next is drawn knowing of it; and by what was known when the
draw began, in records that nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Drawing(Generic[T]):
    """Draws one thing after another in a thread of its own."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="draws-the-next-point")
        self._begun: tuple[Hashable, Future[T]] | None = None

    def drawn(self, of: Hashable, draw: Callable[[], T], *, patience_s: float | None) -> T | None:
        """What `draw` has returned for the launch as it is, which `of` tells apart from what it was
        before; None where that takes longer than `patience_s` (None: it is waited for).

        A draw for what the launch was before is left to itself. Raises what `draw` raises.
        """
        if self._begun is None or self._begun[0] != of:
            self._begun = of, self._executor.submit(draw)
        future = self._begun[1]
        # Not by the result's own timeout: it cannot be told from one that the draw raises, nor from
        # one after which the draw has ended.
        if not wait([future], timeout=patience_s).done:
            return None
        self._begun = None
        return future.result()
