from __future__ import annotations

import io
import math
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from moe.train.routing_stats import RoutingHistory, RoutingSnapshot, RoutingTotals, saturation


def _routing(probs_UN, counts_N, kept_UK=None, served_N=None):
    counts_N = torch.tensor(counts_N)
    served_N = counts_N if served_N is None else torch.tensor(served_N)
    return SimpleNamespace(probs=probs_UN, counts_N=counts_N, kept=kept_UK, served_N=served_N)


def _snapshot(*batches, num_experts, bias_LN=None, probe_LUK=None):
    """From lists of routings, one list a batch."""
    totals = RoutingTotals(len(batches[0]), num_experts, "cpu")
    for batch in batches:
        totals.add(batch)
    probe_LUK = torch.zeros(len(batches[0]), 3, 1) if probe_LUK is None else probe_LUK
    return RoutingSnapshot.of(totals, bias_LN, probe_LUK)


def test_health_of_known_loads():
    probs_UN = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.3, 0.5, 0.1, 0.1]])
    even = [_routing(probs_UN, [2.0, 2.0, 2.0, 2.0])]
    health = _snapshot(even, even, num_experts=4).health()
    assert health["router/load_entropy"] == pytest.approx(1)
    assert health["router/max_violation"] == pytest.approx(0)
    assert health["router/dead_experts"] == 0
    assert health["router/confidence"] == pytest.approx(0.6)

    collapsed = [_routing(probs_UN, [8.0, 0.0, 0.0, 0.0])]
    health = _snapshot(collapsed, num_experts=4).health()
    assert health["router/load_entropy"] == 0
    assert health["router/max_violation"] == pytest.approx(3)
    assert health["router/dead_experts"] == 3


def test_dead_is_below_a_tenth_of_an_even_share_and_counted_over_blocks():
    probs_UN = torch.full((1, 2), 0.5)
    blocks = [_routing(probs_UN, [95.1, 4.9]), _routing(probs_UN, [94.9, 5.1])]
    assert _snapshot(blocks, num_experts=2).health()["router/dead_experts"] == 1


def test_sums_over_batches_equal_one_large_batch():
    probs_UN = torch.rand(6, 4).softmax(-1)
    whole = _snapshot([_routing(probs_UN, [3.0, 1.0, 1.0, 1.0])], num_experts=4)
    parts = _snapshot(
        [_routing(probs_UN[:4], [3.0, 1.0, 0.0, 0.0])],
        [_routing(probs_UN[4:], [0.0, 0.0, 1.0, 1.0])],
        num_experts=4,
    )
    np.testing.assert_allclose(parts.load_LN, whole.load_LN)
    np.testing.assert_allclose(parts.probability_LN, whole.probability_LN)
    np.testing.assert_allclose(parts.probability_LN[0], probs_UN.mean(0), rtol=1e-6)


def test_router_without_probabilities_has_no_confidence():
    health = _snapshot([_routing(None, [1.0, 3.0])], num_experts=2).health()
    assert "router/confidence" not in health
    assert health["router/max_violation"] == pytest.approx(0.5)


def test_single_expert_is_evenly_loaded():
    health = _snapshot([_routing(None, [5.0])], num_experts=1).health()
    assert health == {
        "router/load_entropy": 1.0,
        "router/max_violation": 0.0,
        "router/dead_experts": 0.0,
    }


def test_shares_of_what_is_dropped():
    """Two batches of two blocks, of three units with two choices each."""
    some, none = (torch.tensor([[True, True], [k, False], [k, k]]) for k in (True, False))
    batches = [
        [_routing(None, [4.0, 2.0], kept, served) for kept, served in ((some, a), (none, b))]
        for a, b in (([3.0, 2.0], [1.0, 1.0]), ([3.0, 2.0], [1.0, 1.0]))
    ]
    health = _snapshot(*batches, num_experts=2).health()
    assert health["router/dropped"] == pytest.approx((1 / 6 + 4 / 6) / 2)
    assert health["router/unserved"] == pytest.approx((0 + 2 / 3) / 2)
    assert health["router/max_violation"] == pytest.approx(1 / 3), "the load is what was chosen"


def test_saturation_leaves_out_choices_that_took_no_place():
    final_LUK = np.array([[[0, 1], [2, -1]]])
    assert saturation(np.array([[[0, -1], [-1, -1]]]), final_LUK) == 1
    assert saturation(np.array([[[0, -1], [-1, 3]]]), final_LUK) == 0.5
    assert math.isnan(saturation(np.full((1, 2, 2), -1), final_LUK))


def test_saturation_counts_the_overlap_whatever_its_order():
    final_LUK = np.array([[[0, 1], [2, 3]]])
    assert saturation(final_LUK, final_LUK) == 1
    assert saturation(final_LUK[..., ::-1], final_LUK) == 1
    assert saturation(np.array([[[0, 2], [0, 1]]]), final_LUK) == 0.25


def test_saturation_by_chance_is_k_over_n():
    generator = np.random.default_rng(0)
    draw = np.argsort(generator.random((2, 1, 20000, 8)), axis=-1)[..., :2]
    assert saturation(draw[0], draw[1]) == pytest.approx(2 / 8, abs=0.01)


def test_history_survives_a_checkpoint_and_becomes_a_table():
    history = RoutingHistory(layers=(1, 3))
    probs_UN = torch.tensor([[0.9, 0.1]])
    for step in (5, 10):
        blocks = [_routing(probs_UN, [3.0, 1.0]), _routing(None, [float(step), 0.0])]
        probe_LUK = torch.full((2, 4, 1), step // 10)
        history.add(step, _snapshot(blocks, num_experts=2, probe_LUK=probe_LUK))
    again = RoutingHistory.from_tensors((1, 3), history.to_tensors())
    assert again.saturations() == history.saturations() == {5: 0.0, 10: 1.0}

    table = pq.read_table(io.BytesIO(again.to_parquet())).to_pylist()
    assert len(table) == 8
    assert table[0] | {"mean_probability": None} == {
        "step": 5,
        "layer": 1,
        "expert": 0,
        "load": 0.75,
        "mean_probability": None,
        "bias": None,
    }
    assert math.isclose(table[0]["mean_probability"], 0.9, rel_tol=1e-6)
    assert [row["load"] for row in table if row["layer"] == 3] == [1.0, 0.0, 1.0, 0.0]
    assert all(row["mean_probability"] is None for row in table if row["layer"] == 3)


def test_history_of_a_checkpoint_of_before_has_no_shares_of_what_is_dropped():
    history = RoutingHistory(layers=(1,))
    history.add(5, _snapshot([_routing(None, [3.0, 1.0])], num_experts=2))
    tensors = history.to_tensors()
    old = {k: v for k, v in tensors.items() if k not in ("dropped_L", "unserved_L")}
    (again,) = RoutingHistory.from_tensors((1,), old).snapshots
    assert again.health() == history.snapshots[0].health()
    assert "router/dropped" not in again.health()


def test_empty_history_survives_a_checkpoint():
    history = RoutingHistory(layers=())
    assert RoutingHistory.from_tensors((), history.to_tensors()).steps == []
