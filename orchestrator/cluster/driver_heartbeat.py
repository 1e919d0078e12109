"""A driver's pulse: workers that feel it no longer end by themselves.

Ray ends a dead driver's workers at once where its raylet sees the driver die. Where the driver's
whole machine is lost, or the head, the other nodes learn of it after a minute or more (a health
check times out after 10 s, five in a row), and until then their workers train on for nobody. So
each worker asks an actor that lives and dies with the driver's machine, and leaves when it gets no
answer.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SILENCE_LIMIT_S = 20.0
_ASK_EVERY_S = 2.0
_ANSWER_WITHIN_S = 5.0


@ray.remote(num_cpus=0, max_restarts=-1)
class _Pulse:
    """Owned by the driver, so that it dies with it; restarted where only its process is lost."""

    def feel(self) -> None:
        pass


@contextlib.contextmanager
def beating() -> Iterator[str]:
    """A pulse on this driver's node, for the time of the context; its name is what workers need."""
    name = f"moe-study-pulse-{uuid.uuid4().hex[:12]}"
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    pulse = _Pulse.options(name=name, scheduling_strategy=here).remote()
    try:
        yield name
    finally:
        ray.kill(pulse)


_followed: set[str] = set()


def follow(name: str) -> None:
    """Ends this process once the pulse has been silent for `SILENCE_LIMIT_S` (s)."""
    if name not in _followed:
        _followed.add(name)
        threading.Thread(target=_watch, args=(name,), name="driver-pulse", daemon=True).start()


def _watch(name: str) -> None:
    felt = time.monotonic()
    pulse = None
    while time.monotonic() - felt < SILENCE_LIMIT_S:
        # Whatever went wrong, a lost actor or a lost connection: only an answer counts.
        with contextlib.suppress(Exception):
            pulse = pulse or ray.get_actor(name)
            ray.get(pulse.feel.remote(), timeout=_ANSWER_WITHIN_S)
            felt = time.monotonic()
        time.sleep(_ASK_EVERY_S)
    os._exit(1)  # in the middle of whatever it does: the run's folder bears it
