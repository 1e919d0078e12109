"""Studies of other papers' architectures compare what they say they compare, at every scale."""

from __future__ import annotations

import pytest

from moe.accounting import account
from moe.config.upcycling_rules import require_upcyclable
from moe.identity import cell_hash
from orchestrator.study.library import load_study
from search_spaces.families import FAMILIES, family
from search_spaces.overlay import diff, overlay
from studies import block_family, deepseek_moe, olmoe_ablations


def configs(name: str, scale: str) -> dict:
    study = load_study(name)
    base = study.scales[scale]
    return {cell.name: cell.config(base) for cell in study.cells_over(base)}


EQUAL_ACTIVE = {
    "granularity": (),
    "deepseek_moe": (deepseek_moe.WIDE_GSHARD, deepseek_moe.DENSE_TOTAL),
    "olmoe_ablations": (),
}


@pytest.mark.parametrize("name", EQUAL_ACTIVE)
@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu", "paper"])
def test_what_has_equal_active_parameters_has_them_with_routers(scale, name):
    found = configs(name, scale)
    sizes = {
        cell: account(config).params_active
        for cell, config in found.items()
        if cell not in EQUAL_ACTIVE[name]
    }
    assert len(sizes) >= 5
    largest, smallest = max(sizes.values()), min(sizes.values())
    assert largest - smallest <= 0.01 * largest, sizes


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu", "paper"])
def test_deepseek_is_compared_with_what_it_says(scale):
    found = configs("deepseek_moe", scale)
    wide, gshard = found[deepseek_moe.WIDE_GSHARD], found[deepseek_moe.GSHARD]
    assert abs(wide.d_expert - 1.5 * gshard.d_expert) <= 0.5
    total = [found[name] for name in (deepseek_moe.DENSE_TOTAL, deepseek_moe.QUARTERS)]
    dense, finest = (account(config).params_total for config in total)
    assert abs(dense - finest) <= 0.01 * finest
    assert {c.moe.shared_experts for c in found.values() if not c.moe.is_dense} == {0, 1}


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu", "paper"])
def test_olmoes_mixture_is_the_finest(scale):
    fine = configs("olmoe_ablations", scale)[olmoe_ablations.FINE.name]
    assert (fine.moe.total_experts, fine.moe.active_experts) == (64, 8)


def test_a_dense_trial_adds_a_mixture_that_starts_from_it_and_changes_no_other():
    study = load_study("olmoe_ablations")
    base = overlay(study.scales["smoke"], {"moe.upcycled_from": "0" * 16})
    found = {cell.name: cell.config(base) for cell in study.cells_over(base)}
    upcycled = found.pop(olmoe_ablations.UPCYCLED)
    assert {name: cell_hash(config) for name, config in found.items()} == {
        name: cell_hash(config) for name, config in configs("olmoe_ablations", "smoke").items()
    }
    require_upcyclable(upcycled, found["dense-1x-active"])


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu", "paper"])
def test_cells_of_two_families_differ_in_their_blocks_alone(scale):
    found = configs("block_family", scale)
    of_gpt2 = block_family.CELLS["gpt2"]
    for name in FAMILIES:
        for what, cell in block_family.CELLS[name].items():
            one, other = found[of_gpt2[what].name], found[cell.name]
            assert set(diff(one, other)) <= set(family(name))
