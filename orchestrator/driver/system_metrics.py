"""What the machine of a trial does while it trains, for MLflow's page "System metrics".

MLflow's own monitors, sampled in the trial's first worker. What they measure is of the whole node,
so trials that share one see each other. The values travel with the evaluations, since only the
driver writes to a run; MLflow's own logging would write from each worker, past the outbox.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERVAL_S = 2.0
PREFIX = "system/"  # what MLflow's page sorts by


class SystemMonitor:
    """Samples from a thread of its own; `take` gives the means since it was last called."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        # MLflow is a fifth of what a trial's process would import, and most trials do without it.
        from orchestrator.stores.mlflow_private import system_monitors

        self._monitors = system_monitors()
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        with self._lock:
            self._sample()  # the share of busy CPU is one since the last call: the first has none
            self._clear()
        self._thread.start()

    def take(self) -> dict[str, float]:
        """At least one sample's worth, however short the time was."""
        with self._lock:
            self._sample()
            means: dict[str, float] = {}
            for monitor in self._monitors:
                means |= {f"{PREFIX}{k}": float(v) for k, v in monitor.aggregate_metrics().items()}
            self._clear()
        return means

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        for monitor in self._monitors:
            monitor.collect_metrics()

    def _clear(self) -> None:
        for monitor in self._monitors:
            monitor.clear_metrics()


@contextmanager
def monitored(wanted: bool) -> Iterator[SystemMonitor | None]:
    """A monitor for the time of the context, if one is wanted."""
    monitor = SystemMonitor() if wanted else None
    try:
        yield monitor
    finally:
        if monitor is not None:
            monitor.close()
