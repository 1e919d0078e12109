"""A request that can never fit is refused before anything starts; one that may is let wait."""

from __future__ import annotations

import pytest

from orchestrator.base.errors import BadInput
from orchestrator.cluster.capacity import Growth, capacity, fits
from orchestrator.cluster.connection import Resources
from orchestrator.cluster.ray_private import monitor_config

CONFIG = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4}, "max_workers": 0},
        "small": {"resources": {"CPU": 2}, "max_workers": 9},
        "gpu": {"resources": {"CPU": 8, "GPU": 2}, "max_workers": 2},
        "off": {"resources": {"CPU": 64}, "max_workers": 0},
    },
}


def nodes(*resources):
    return [(node, 1) for node in resources]


def test_an_autoscaler_s_maximum_is_read_from_its_cluster_yaml():
    growth = Growth.of_config(CONFIG)
    assert [(t.name, t.most) for t in growth.types] == [("small", 5), ("gpu", 2)]
    assert growth.most == 5
    kinds = [(t.resources, t.most) for t in growth.types]
    one = Resources(workers=1, gpus_per_worker=2)
    assert fits(one, kinds, most=growth.most)
    assert fits(Resources(workers=2, gpus_per_worker=2), kinds, most=growth.most)
    assert not fits(Resources(workers=3, gpus_per_worker=2), kinds, most=growth.most)
    # Two large nodes, and three small ones: not five of those beside them.
    assert capacity(Resources(cpus_per_worker=1), kinds, most=growth.most) == 2 * 8 + 3 * 2


def test_a_node_type_without_resources_may_hold_anything():
    kinds = [({}, 3)]
    assert fits(Resources(workers=8, gpus_per_worker=1), kinds)
    assert not fits(Resources(workers=4, placement="strict_spread"), kinds)


@pytest.mark.parametrize(
    ("placement", "held"), [("pack", 6), ("spread", 6), ("strict_pack", 4), ("strict_spread", 2)]
)
def test_placement_decides_what_fits(placement, held):
    asked = Resources(workers=5, placement=placement)
    assert capacity(asked, nodes({"CPU": 4}, {"CPU": 2}, {"GPU": 1})) == held


def test_a_fraction_of_a_gpu_lies_on_one():
    node = nodes({"CPU": 16, "GPU": 3})
    assert capacity(Resources(gpus_per_worker=0.25), node) == 12
    assert capacity(Resources(gpus_per_worker=0.4), node) == 6
    assert capacity(Resources(gpus_per_worker=2), node) == 1


@pytest.mark.usefixtures("ray_cluster")
def test_a_live_cluster_without_autoscaler_refuses_with_what_it_has():
    from orchestrator.cluster.capacity import require_fits

    assert require_fits(Resources(workers=4)) is None
    refused = pytest.raises(BadInput, match=r"5 workers of 1 CPU.*4 CPUs and 0 GPUs on 1 nodes.*4 ")
    with refused:
        require_fits(Resources(workers=5))
    with pytest.raises(BadInput, match="holds 0 such workers"):
        require_fits(Resources(gpus_per_worker=0.25))


def test_no_monitor_of_another_cluster_is_read():
    assert monitor_config("192.0.2.1:6379") == (False, None)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"gpus_per_worker": 1.5}, "whole number"),
        ({"placement": "anywhere"}, "strict_pack"),
        ({"placement": "strict_spread", "workers": 2}, "one node"),
    ],
)
def test_what_no_cluster_can_place_is_refused(hold, grid_study, asked, told):
    options = {"resources": Resources(**asked), "cpus": 2}
    with (
        pytest.raises(BadInput, match=told),
        hold(grid_study, start_cluster=True, options=options),
    ):
        pytest.fail("the launch was opened")
