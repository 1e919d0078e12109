"""Ends a trial's processes when their driver is gone, where Ray does not do it in time.

Ray ends a dead driver's workers at once where its raylet sees the driver die. Where the driver's
whole machine is lost, or the head, the other nodes learn of it after a minute or more (a health
check times out after 10 s, five in a row), and until then their workers train on for nobody. So
each worker pings an actor that lives and dies with the driver's machine, and exits when it has had
no answer for `SILENCE_LIMIT_S`.
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
_PING_EVERY_S = 2.0
_ANSWER_WITHIN_S = 5.0


@ray.remote(num_cpus=0, max_restarts=-1)
class _Heartbeat:
    """Owned by the driver, so that it dies with it; restarted where only its process is lost."""

    def ping(self) -> None:
        pass


@contextlib.contextmanager
def heartbeat() -> Iterator[str]:
    """An actor on this driver's node for the time of the context. Yields its name, which is what
    `exit_when_silent` needs on the worker's side."""
    name = f"moe-study-heartbeat-{uuid.uuid4().hex[:12]}"
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = _Heartbeat.options(name=name, scheduling_strategy=here).remote()
    try:
        yield name
    finally:
        ray.kill(actor)


_watched: set[str] = set()


def exit_when_silent(name: str) -> None:
    """Ends this process once the heartbeat `name` has not answered for `SILENCE_LIMIT_S` (s).

    The check runs in a thread of its own, begun once a process and name."""
    if name not in _watched:
        _watched.add(name)
        threading.Thread(target=_watch, args=(name,), name="driver-heartbeat", daemon=True).start()


def _watch(name: str) -> None:
    answered = time.monotonic()
    actor = None
    while time.monotonic() - answered < SILENCE_LIMIT_S:
        # Whatever went wrong, a lost actor or a lost connection: only an answer counts.
        with contextlib.suppress(Exception):
            actor = actor or ray.get_actor(name)
            ray.get(actor.ping.remote(), timeout=_ANSWER_WITHIN_S)
            answered = time.monotonic()
        time.sleep(_PING_EVERY_S)
    # At any point of training: what a run writes is written whole or not at all (run_folder.py).
    os._exit(1)
