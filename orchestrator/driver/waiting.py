"""Says what a run waits for, where no trial of it has run for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

PATIENCE_S = 20.0
AGAIN_S = 600.0


class WaitingNotice(Callback):
    """Calls `say` with the seconds waited, once trials are pending and none of them runs."""

    def __init__(
        self, say: Callable[[float], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._since: float | None = None
        self._next_s = PATIENCE_S

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        states = {trial.status for trial in trials}
        if Trial.RUNNING in states or Trial.PENDING not in states:
            self._since, self._next_s = None, PATIENCE_S
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        if now - self._since >= self._next_s:
            self._next_s += AGAIN_S
            self._say(now - self._since)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks; nothing of this one is worth restoring."""
        return {}
