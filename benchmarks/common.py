"""What every benchmark shares: interleaved repeats, rows with a goal, and the last line of stdout.

A script of this folder is run as `python benchmarks/NAME.py`, so Python finds this module beside
it. A goal is always a bound on the ratio ours / theirs. A goal that is an absolute figure has a row
whose baseline is `limit`: theirs is the figure, the goal 1.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

MIN_REPEATS = 7
LIMIT = "limit"  # baseline of a row whose goal is an absolute figure

Row = dict[str, Any]


def row(
    case: str,
    *,
    baseline: str,
    ours: float,
    theirs: float,
    unit: str,
    goal: float | None = None,
) -> Row:
    """Less is better in every unit but tokens/s. A row without a goal is told beside the others."""
    ratio = ours / theirs if theirs else math.inf
    met = None
    if goal is not None:
        met = ratio >= goal if unit == "tokens/s" else ratio <= goal
    return {
        "case": case,
        "baseline": baseline,
        "ours": _rounded(ours),
        "theirs": _rounded(theirs),
        "unit": unit,
        "ratio": round(ratio, 4),
        "goal": goal,
        "met": met,
    }


def limit(case: str, *, ours: float, at_most: float, unit: str) -> Row:
    """A row with an absolute goal."""
    return row(case, baseline=LIMIT, ours=ours, theirs=at_most, unit=unit, goal=1.0)


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.5g}")


def thread_s(function: Callable[[], object]) -> float:
    """CPU seconds of this thread: on a shared machine the others' load is not in it."""
    begin = time.thread_time()
    function()
    return time.thread_time() - begin


def wall_s(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def medians(
    kinds: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    measure: Callable[[Callable[[], object]], float] = thread_s,
) -> dict[str, float]:
    """Median of each kind, all kinds in turn within a repeat; a first turn is not counted.

    What slows the machine for a while thus slows all kinds alike. The order is drawn anew for each
    repeat: who always follows the same kind pays for what that one leaves in caches and allocator
    (measured: 1 to 2% of an MoE layer's time).
    """
    seconds = samples(kinds, repeats=repeats, measure=measure)
    return {name: statistics.median(values) for name, values in seconds.items()}


def samples(
    kinds: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    measure: Callable[[Callable[[], object]], float] = thread_s,
) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    order, generator = list(kinds), random.Random(0)
    for turn in range(repeats + 1):
        generator.shuffle(order)
        for name in order:
            taken_s = measure(kinds[name])
            if turn:
                taken[name].append(taken_s)
    return taken


def machine() -> str:
    return f"{_cpu_name()}, {num_cpus()} CPUs, {_memory_gib()} GiB, {_gpu_name()}{_threads()}"


def num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _gpu_name() -> str:
    if "torch" not in sys.modules or not sys.modules["torch"].cuda.is_available():
        return "no GPU used"
    return sys.modules["torch"].cuda.get_device_name()


def _threads() -> str:
    """Of torch in this process, where it computes."""
    if "torch" not in sys.modules:
        return ""
    count = sys.modules["torch"].get_num_threads()
    return f", {count} torch thread{'s' if count > 1 else ''}"


def print_result(benchmark: str, rows: Sequence[Row], *, packages: Sequence[str]) -> None:
    """The last line of stdout."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    result = {
        "benchmark": benchmark,
        "machine": machine(),
        "versions": versions,
        "rows": list(rows),
    }
    print(json.dumps(result), flush=True)


def tell(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
