"""A driver whose worker runs on another node, and follows its pulse.

    python orphan_driver.py ADDRESS FILE

The worker writes its pid to FILE once it has felt the pulse.
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
        ray.get(ray.get_actor(name).feel.remote())
        driver_heartbeat.follow(name)
        Path(f"{file}.part").write_text(str(os.getpid()))
        os.replace(f"{file}.part", file)
        while True:
            time.sleep(1)


with connection.connected(sys.argv[1]), driver_heartbeat.beating() as name:
    ray.get(Worker.remote().train.remote(name, sys.argv[2]))
