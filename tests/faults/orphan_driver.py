"""A driver whose worker runs on another node, and exits when its heartbeat is silent.

    python orphan_driver.py ADDRESS FILE

The worker writes its pid to FILE once the heartbeat has answered it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from orchestrator.cluster import connection

connection.quiet()

import ray  # noqa: E402

from orchestrator.cluster import driver_heartbeat  # noqa: E402


@ray.remote(num_cpus=1)
class Worker:
    def train(self, name: str, file: str) -> None:
        driver_heartbeat.SILENCE_LIMIT_S = 8.0  # the test need not wait for longer
        ray.get(ray.get_actor(name).ping.remote())
        driver_heartbeat.exit_when_silent(name)
        Path(f"{file}.part").write_text(str(os.getpid()))
        os.replace(f"{file}.part", file)
        while True:
            time.sleep(1)


with connection.connected(sys.argv[1]), driver_heartbeat.heartbeat() as name:
    ray.get(Worker.remote().train.remote(name, sys.argv[2]))
