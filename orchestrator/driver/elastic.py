"""Trials that go on with fewer workers where a lost node does not come back and the user allows it.

Tune asks for a trial's whole placement group again when it lost a node, and waits for it without an
end. Here a launch whose trials have waited so for a while, none of them running, is stopped in
order, and goes on with as many workers as the nodes hold: a checkpoint resumes under any number
that divides the micro-batches, and the batch in tokens stays what the config says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from orchestrator.cluster import capacity
from orchestrator.cluster.connection import Resources
from orchestrator.driver.waiting import NothingRuns

PATIENCE_S = 60.0
GROWING_PATIENCE_S = 600.0  # where an autoscaler may bring the node back


def held(choices: Sequence[Resources]) -> Resources | None:
    """The first of these that the connected cluster's nodes, as they are, hold; None if none."""
    live = capacity.live_nodes()
    return next((each for each in choices if capacity.fits(each, [(n, 1) for n in live])), None)


class LostRoom(NothingRuns):
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
        super().__init__(clock)
        self._choices = choices
        self._held, self._may_grow = held, may_grow
        self._patience_s = PATIENCE_S
        self.fewer: Resources | None = None

    def over(self) -> None:
        self._patience_s = PATIENCE_S

    def waited(self, seconds: float) -> None:
        if self.fewer is not None or seconds < self._patience_s:
            return
        if self._patience_s < GROWING_PATIENCE_S and self._may_grow():
            self._patience_s = GROWING_PATIENCE_S
            return
        found = self._held(self._choices)
        self.fewer = None if found == self._choices[0] else found
        self._patience_s += PATIENCE_S  # asked again then: a node may come, or another be lost
