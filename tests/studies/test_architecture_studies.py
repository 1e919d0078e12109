"""Studies of other papers' architectures compare what they say they compare, at every scale."""

from __future__ import annotations

import pytest

from moe.config.upcycling_rules import require_upcyclable
from moe.identity import cell_hash
from orchestrator.study.library import load_study
from search_spaces.budget import count
from search_spaces.families import FAMILIES, family
from search_spaces.overlay import diff, overlay
from studies import block_family, deepseek_moe, olmoe_ablations


def configs(name: str, scale: str) -> dict:
    study = load_study(name)
    base = study.scales[scale]
    return {cell.name: cell.config(base) for cell in study.cells_over(base)}


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu", "paper"])
def test_mixtures_of_deepseek_have_one_budget(scale):
    found = configs("deepseek_moe", scale)
    mixtures = {
        name: config
        for name, config in found.items()
        if not config.moe.is_dense and name != deepseek_moe.WIDE_GSHARD
    }
    assert len(mixtures) == 4
    for on, dense in (("active", "dense-2x"), ("total", "dense-16x")):
        for config in mixtures.values():
            assert count(config, on) == count(found[dense], on)
    wide, gshard = found[deepseek_moe.WIDE_GSHARD], found[deepseek_moe.GSHARD]
    assert wide.d_expert == 1.5 * gshard.d_expert
    assert {c.moe.shared_experts for c in mixtures.values()} == {0, 1}


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu", "paper"])
def test_mixtures_of_olmoe_have_one_budget_and_differ_in_one_choice(scale):
    found = configs("olmoe_ablations", scale)
    fine = found[olmoe_ablations.FINE.name]
    assert (fine.moe.total_experts, fine.moe.active_experts) == (64, 8)
    for name, config in found.items():
        if name != olmoe_ablations.NO_QK_NORM.name:  # whose norms are weights
            assert count(config, "active") == count(fine, "active"), name
        if not config.moe.is_dense and name != olmoe_ablations.NO_QK_NORM.name:
            assert count(config, "total") == count(fine, "total"), name


def test_a_dense_trial_adds_a_mixture_that_starts_from_it_and_changes_no_other():
    study = load_study("olmoe_ablations")
    base = overlay(study.scales["smoke"], {"moe.upcycled_from": "0" * 16})
    found = {cell.name: cell.config(base) for cell in study.cells_over(base)}
    upcycled = found.pop(olmoe_ablations.UPCYCLED)
    assert {name: cell_hash(config) for name, config in found.items()} == {
        name: cell_hash(config) for name, config in configs("olmoe_ablations", "smoke").items()
    }
    require_upcyclable(upcycled, found["dense-1x"])


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu", "paper"])
def test_cells_of_two_families_differ_in_their_blocks_alone(scale):
    found = configs("block_family", scale)
    of_gpt2 = block_family.CELLS["gpt2"]
    for name in FAMILIES:
        for what, cell in block_family.CELLS[name].items():
            one, other = found[of_gpt2[what].name], found[cell.name]
            assert set(diff(one, other)) <= set(family(name))
