"""Says what a run waits for, where no trial of it has run for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

PATIENCE_S = 20.0
AGAIN_S = 600.0


class NothingRuns(Callback):
    """Follows each stretch in which trials are pending and none of them runs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None

    def waited(self, seconds: float) -> None:
        """So long by now; asked at every step of Tune's."""

    def over(self) -> None:
        """A trial runs, or none is left to."""

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        states = {trial.status for trial in trials}
        if Trial.RUNNING in states or Trial.PENDING not in states:
            self._since = None
            self.over()
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        self.waited(now - self._since)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks; nothing of these is worth restoring."""
        return {}


class WaitingNotice(NothingRuns):
    """Calls `say` with the seconds waited."""

    def __init__(
        self, say: Callable[[float], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._say = say
        self._next_s = PATIENCE_S

    def over(self) -> None:
        self._next_s = PATIENCE_S

    def waited(self, seconds: float) -> None:
        if seconds >= self._next_s:
            self._next_s += AGAIN_S
            self._say(seconds)
