"""Trials that go on with fewer workers where a lost node does not come back and the user allows it.

Tune asks for a trial's whole placement group again when it lost a node, and waits for it without an
end. Here a launch whose trials have waited so for a while, none of them running, is stopped in
order, and goes on with as many workers as the nodes hold: a checkpoint resumes under any number
that divides the micro-batches, and the batch in tokens stays what the config says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from orchestrator.cluster import capacity
from orchestrator.cluster.connection import Resources

PATIENCE_S = 60.0
GROWING_PATIENCE_S = 600.0  # where an autoscaler may bring the node back


def held(choices: Sequence[Resources]) -> Resources | None:
    """The first of these that the connected cluster's nodes, as they are, hold; None if none."""
    live = capacity.live_nodes()
    return next((each for each in choices if capacity.fits(each, [(n, 1) for n in live])), None)


class LostRoom(Callback):
    """Notes in `fewer` what trials can be granted, once they have waited long for what is lost."""

    def __init__(
        self,
        choices: Sequence[Resources],
        *,
        clock: Callable[[], float] = time.monotonic,
        held: Callable[[Sequence[Resources]], Resources | None] = held,
        may_grow: Callable[[], bool] = capacity.may_grow,
    ) -> None:
        """`choices`: what they are granted now, then what else is allowed, the most first."""
        self._choices = choices
        self._clock, self._held, self._may_grow = clock, held, may_grow
        self._since: float | None = None
        self._patience_s = PATIENCE_S
        self.fewer: Resources | None = None

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        states = {trial.status for trial in trials}
        if Trial.RUNNING in states or Trial.PENDING not in states:
            self._since, self._patience_s = None, PATIENCE_S
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        if self.fewer is not None or now - self._since < self._patience_s:
            return
        if self._patience_s < GROWING_PATIENCE_S and self._may_grow():
            self._patience_s = GROWING_PATIENCE_S
            return
        found = self._held(self._choices)
        self.fewer = None if found == self._choices[0] else found
        self._patience_s += PATIENCE_S  # asked again then: a node may come, or another be lost

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks; nothing of this one is worth restoring."""
        return {}
