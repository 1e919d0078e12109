"""Why a trial's process was lost, as far as Ray and the kernel of its node can say.

Ray reports every process that ended by a signal with the same text, in which want of memory is one
of several causes. The kernel counts the processes that it killed for memory; a trial reports that
count, and where it has grown when the process is gone, memory was the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.ray_private import CAUSE, MEMORY_SIGNS, OTHER_CAUSES

LOST = "the trial's process was lost"
OUT_OF_MEMORY = "out of memory"
_VMSTAT = Path("/proc/vmstat")
_ASK_NODE_S = 10.0
_LENGTH = 1000


def oom_kills(vmstat: Path = _VMSTAT) -> int | None:
    """Processes that this machine's kernel killed for memory; None where it does not say."""
    try:
        counts = dict(line.split() for line in vmstat.read_text().splitlines())
        return int(counts["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None


def here() -> dict[str, Any]:
    """What a trial reports of its node, for `reason`."""
    return {"id": ray.get_runtime_context().get_node_id(), "oom_kills": oom_kills()}


def oom_kills_on(node_id: str) -> int | None:
    """The same count on another node; None where the node is gone too."""
    on_it = NodeAffinitySchedulingStrategy(node_id, soft=False)
    count = ray.remote(oom_kills).options(num_cpus=0, scheduling_strategy=on_it)
    try:
        return ray.get(count.remote(), timeout=_ASK_NODE_S)
    except ray.exceptions.RayError:
        return None


def reason(error: Exception | None, node: dict[str, Any] | None) -> str:
    """One line. `node` is what the trial last reported of its own, if it reported at all."""
    if error is None:
        return LOST
    lines = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines()]
    if isinstance(error, ray.exceptions.RayTaskError):  # a traceback, and its last line
        return [line for line in lines if line][-1][:_LENGTH]
    for line in lines:
        if any(sign in line for sign in MEMORY_SIGNS):
            return f"{OUT_OF_MEMORY}: {line}"[:_LENGTH]
    now = oom_kills_on(node["id"]) if node else None
    if now is not None and node["oom_kills"] is not None and now > node["oom_kills"]:
        return (
            f"{OUT_OF_MEMORY}: the process was killed, and the kernel of its node killed "
            f"{now - node['oom_kills']} for want of memory meanwhile"
        )
    return f"{LOST}: {_cause_of_death(lines)}"[:_LENGTH]


def _cause_of_death(lines: list[str]) -> str:
    """Ray's own sentence, without its list of what else might have been."""
    said = next((line for line in lines if CAUSE in line), lines[0])
    return said.partition(OTHER_CAUSES)[0]
