"""When trials go on with fewer workers: after a wait, with what the nodes hold, and no sooner."""

from __future__ import annotations

import queue
import time
from types import SimpleNamespace

import pytest
import ray

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.cluster.connection import Resources
from orchestrator.driver import elastic
from orchestrator.driver.elastic import LostRoom
from orchestrator.driver.options import Options, allowed, require_sane
from orchestrator.driver.worker import leaving_with
from orchestrator.study.resolve import resolve

WAITS, RUNS = [SimpleNamespace(status="PENDING")], [SimpleNamespace(status="RUNNING")]
CHOICES = [Resources(workers=workers, min_workers=1) for workers in (4, 2, 1)]


class Cluster:
    """A clock, and what the nodes hold."""

    def __init__(self, *, holds, grows=False):
        self.now, self.holds = 0.0, holds
        self.room = LostRoom(
            CHOICES,
            clock=lambda: self.now,
            held=lambda choices: next((c for c in choices if c.workers <= self.holds), None),
            may_grow=lambda: grows,
        )

    def passes(self, seconds, trials=WAITS):
        self.now += seconds
        self.room.on_step_end(0, trials)
        return self.room.fewer and self.room.fewer.workers


def test_a_wait_ends_with_the_most_workers_that_the_nodes_hold():
    cluster = Cluster(holds=3)
    assert cluster.passes(0) is None
    assert cluster.passes(elastic.PATIENCE_S - 1) is None
    assert cluster.passes(1) == 2
    cluster.holds = 4
    assert cluster.passes(1) == 2, "decided: the launch is on its way to stop"


def test_a_trial_that_runs_or_a_node_that_comes_back_leaves_all_as_it_is():
    cluster = Cluster(holds=2)
    cluster.passes(0)
    cluster.passes(elastic.PATIENCE_S / 2)
    assert cluster.passes(elastic.PATIENCE_S, WAITS + RUNS) is None, "others run"
    assert cluster.passes(1) is None, "the wait begins anew"
    cluster.holds = 4
    assert cluster.passes(elastic.PATIENCE_S) is None, "others of the cluster have the room"
    cluster.holds = 0
    assert cluster.passes(elastic.PATIENCE_S) is None, "not even one worker"
    cluster.holds = 1
    assert cluster.passes(elastic.PATIENCE_S) == 1


def test_an_autoscaler_is_given_longer():
    cluster = Cluster(holds=2, grows=True)
    cluster.passes(0)
    assert cluster.passes(elastic.GROWING_PATIENCE_S - 1) is None
    assert cluster.passes(1) == 2


def test_only_numbers_that_divide_every_trial_s_micro_batches_are_allowed(grid_study, corpus):
    launch = resolve(grid_study, corpus_spec=corpus, overrides={"train.micro_batch_tokens": 32})
    train = launch.base.train
    assert train.batch_tokens // train.micro_batch_tokens == 4

    def numbers(**given):
        return [each.workers for each in allowed(launch, Resources(**given))]

    assert numbers(workers=4, min_workers=1) == [4, 2, 1]
    assert numbers(workers=4, min_workers=2) == [4, 2]
    assert numbers(workers=4, min_workers=3) == [4]
    assert numbers(workers=4) == [4]


@pytest.mark.parametrize(
    ("fewest", "address", "said"),
    [(0, "auto", "from 1 to"), (3, "auto", "from 1 to"), (1, None, "without --address")],
)
def test_what_cannot_be_meant_is_refused(grid_study, corpus, tmp_path, fewest, address, said):
    launch = resolve(grid_study, corpus_spec=corpus)
    resources = Resources(workers=2, min_workers=fewest)
    options = Options(home=Home.at(tmp_path), address=address, resources=resources)
    with pytest.raises(
        BadInput, match=rf"--min-workers.*received {fewest}.*{said}|{said}.*{fewest}"
    ):
        require_sane(launch, options)


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_is_lost_in_silence_takes_the_first_one_along():
    """A node without power closes no connection: the first worker would wait in its collective."""

    @ray.remote(num_cpus=0)
    class Other:
        def fit(self, seconds):
            time.sleep(seconds)

    left = queue.Queue()
    others = [Other.remote() for _ in range(2)]
    with leaving_with([other.fit.remote(600) for other in others], leave=left.put, grace_s=0.2):
        ray.kill(others[1])
        assert left.get(timeout=60) == 1
    ray.kill(others[0])

    other = Other.remote()
    with leaving_with([other.fit.remote(0)], leave=left.put, grace_s=0.2):
        time.sleep(1)
    with leaving_with([other.fit.remote(600)], leave=left.put, grace_s=5):
        ray.kill(other)
    assert left.empty(), "who ends in order, or notices by itself, is left alone"
