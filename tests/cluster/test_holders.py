"""On a busy cluster a driver is told what it waits for, and who holds it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

from orchestrator.cluster.connection import Resources
from orchestrator.cluster.holders import holders, waiting_line
from orchestrator.driver.waiting import AGAIN_S, PATIENCE_S, WaitingNotice

# Another driver, with an actor of its own and one in a placement group.
OTHER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
from ray.util.placement_group import placement_group

@ray.remote
class Holder:
    def ready(self): return True

alone = Holder.options(num_cpus=1).remote()
group = placement_group([{"CPU": 2}])
ray.get([alone.ready.remote(), group.ready()])
print("held", flush=True)
sys.stdin.read()
"""


def test_who_holds_a_clusters_cpus_is_named(ray_cluster):
    import ray

    assert holders() == []
    address = ray.get_runtime_context().gcs_address
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, address, "postgresql://me:secret@host/db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "held\n"
        (holder,) = holders()
        assert holder.holds == {"CPU": 3}
        assert str(other.pid) in holder.driver
        line = waiting_line(Resources(workers=2), 20.4)
    finally:
        other.communicate("")
    assert "no trial runs since 20 s: one needs 2 workers of 1 CPU" in line
    assert "free are 1 of 4 CPUs" in line
    assert "holds 3 CPUs" in line
    assert "secret" not in line


def test_it_is_said_once_no_trial_has_run_for_a_while():
    now, said = [0.0], []
    notice = WaitingNotice(said.append, clock=lambda: now[0])

    def step(seconds, *states):
        now[0] += seconds
        notice.on_step_end(0, [SimpleNamespace(status=state) for state in states])

    step(0, "PENDING")
    step(PATIENCE_S - 1, "PENDING", "TERMINATED")
    assert said == []
    step(1, "PENDING")
    step(1, "PENDING")
    assert said == [PATIENCE_S]
    step(AGAIN_S, "PENDING")
    assert len(said) == 2
    step(1, "RUNNING", "PENDING")
    step(PATIENCE_S, "PENDING")
    step(PATIENCE_S - 1, "PENDING")
    assert len(said) == 2, "what runs in between begins the wait anew"
    step(1, "PENDING")
    assert len(said) == 3
    step(100, "TERMINATED")
    assert len(said) == 3
