from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.accounting import account
from moe.config import ConfigError, TrialConfig
from moe.identity import cell_hash
from search_spaces.budget import count, dense_baselines, match
from search_spaces.overlay import diff, overlay
from studies.scales import GPU, PAPER

GPT2_SMALL = overlay(
    TrialConfig(),
    {
        "model.num_layers": 12,
        "model.d_model": 768,
        "model.num_heads": 12,
        "model.d_ff": 3072,
        "model.context_length": 1024,
        "data.tokenizer": "gpt2",
        "data.vocab_size": 50257,
        "moe.num_experts": 4,
        "moe.top_k": 2,
    },
)
SMALL = overlay(TrialConfig(), {"moe.num_experts": 4, "moe.top_k": 2})


def relative_gap(config: TrialConfig, baseline: TrialConfig, on: str) -> float:
    return abs(count(config, on) - count(baseline, on)) / count(baseline, on)


def test_the_papers_dense_baselines_come_out():
    baselines = dense_baselines(GPT2_SMALL)
    assert {name: c.model.ffn_multiple for name, c in baselines.items()} == {
        "dense-active": 2.0,
        "dense-total": 4.0,
    }
    assert all(c.moe.is_dense for c in baselines.values())
    assert account(baselines["dense-active"]).params_total == pytest.approx(181.1e6, rel=1e-3)
    assert account(baselines["dense-total"]).params_total == pytest.approx(294.48e6, rel=1e-3)
    top1 = overlay(GPT2_SMALL, {"moe.top_k": 1, "moe.gate": "switch"})
    assert dense_baselines(top1)["dense-active"].model.ffn_multiple == 1.0


def test_a_dense_baseline_is_the_hand_written_one_to_the_hash():
    """So that a table and its neighbours train dense 2x once."""
    for base in (GPT2_SMALL, SMALL):
        by_hand = overlay(base, {"moe.num_experts": 0, "model.ffn_multiple": 4.0})
        assert cell_hash(dense_baselines(base)["dense-total"]) == cell_hash(by_hand)
        assert diff(base, by_hand) == {"model.ffn_multiple": 4.0, "moe.num_experts": 0}


@settings(deadline=None, derandomize=True, max_examples=100)
@given(config=st.from_type(TrialConfig), on=st.sampled_from(("active", "total")))
def test_both_dense_baselines_keep_the_budget(config, on):
    if config.moe.is_dense:
        with pytest.raises(ConfigError, match="config with experts"):
            dense_baselines(config)
        return
    # Half a column of the widest FFN against everything else: at these sizes 5% is never missed.
    baselines = dense_baselines(config, tolerance=0.05)
    assert relative_gap(baselines[f"dense-{on}"], config, on) <= 0.05
    assert set(diff(config, baselines[f"dense-{on}"])) <= {"moe.num_experts", "model.ffn_multiple"}


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    config=st.from_type(TrialConfig),
    baseline=st.from_type(TrialConfig),
    on=st.sampled_from(("active", "total")),
    tolerance=st.sampled_from((0.001, 0.01, 0.1)),
)
def test_a_matched_cell_is_within_tolerance_or_refused(config, baseline, on, tolerance):
    matched, refusal = None, ""
    try:
        matched = match(config, baseline, on, tolerance)
    except ConfigError as error:
        refusal = str(error)
    if matched is None:
        assert f"a baseline of {count(baseline, on):,}, to which the nearest achievable" in refusal
        return
    assert relative_gap(matched, baseline, on) <= tolerance
    width = "model.ffn_multiple" if config.moe.is_dense else "moe.d_expert"
    assert set(diff(config, matched)) <= {width}


@settings(deadline=None, derandomize=True, max_examples=50)
@given(config=st.from_type(TrialConfig), on=st.sampled_from(("active", "total")))
def test_a_config_matches_itself_unchanged(config, on):
    matched = match(config, config, on)
    assert (matched.d_ff_dense, matched.d_expert) == (config.d_ff_dense, config.d_expert)


def test_an_expert_width_is_solved():
    wide = overlay(SMALL, {"moe.num_experts": 8, "moe.top_k": 4})
    active = match(wide, SMALL, "active")
    total = match(wide, SMALL, "total")
    assert active.d_expert == pytest.approx(128, abs=2)
    assert total.d_expert == pytest.approx(128, abs=2)
    dense = overlay(SMALL, {"moe.num_experts": 0})
    assert match(SMALL, dense, "active").d_expert == pytest.approx(128, abs=2)
    assert match(SMALL, dense, "total").d_expert == pytest.approx(64, abs=2)


def test_router_kinds_of_one_shape_get_one_width():
    """Routers differ in parameters; a width that made up for it would confound their contrast."""
    fine = overlay(SMALL, {"moe.num_experts": 32, "moe.top_k": 8, "model.d_ff": 32})
    widths = set()
    for router in ("learned", "frozen", "random", "hash"):
        cell = overlay(fine, {"moe.router": router})
        widths.add(match(cell, SMALL, "active").d_expert)
        widths |= {-b.d_ff_dense for b in dense_baselines(cell).values()}
    assert len(widths) == 3
    assert count(fine, "total") == account(fine).params_total


def test_budgets_hold_with_routers():
    """Of 64 narrow experts the router is a tenth of what a token passes, and counts."""
    fine = overlay(SMALL, {"moe.num_experts": 64, "moe.top_k": 2, "moe.d_expert": 128})
    assert account(fine).params_router > 0.04 * account(fine).params_active
    for name, dense in dense_baselines(fine).items():
        of = "params_active" if name == "dense-active" else "params_total"
        ours, theirs = getattr(account(fine), of), getattr(account(dense), of)
        assert abs(ours - theirs) <= 0.01 * ours
    one = match(overlay(fine, {"moe.num_experts": 4, "moe.d_expert": 0}), fine)
    gap = account(one).params_active - account(fine).params_active
    assert abs(gap) <= 0.01 * account(fine).params_active


def test_shared_experts_and_dense_layers_count():
    mixed = overlay(SMALL, {"moe.shared_experts": 1, "moe.layer_stride": 2})
    for name, dense in dense_baselines(mixed).items():
        assert relative_gap(dense, mixed, name.removeprefix("dense-")) <= 0.01
    # Half of the layers hold 2 + 1 active of 4 + 1 experts, the others one FFN.
    assert dense_baselines(mixed)["dense-active"].model.ffn_multiple == pytest.approx(2, abs=0.02)
    assert dense_baselines(mixed)["dense-total"].model.ffn_multiple == pytest.approx(3, abs=0.02)


def test_an_unreachable_budget_names_the_nearest():
    tiny = overlay(SMALL, {"moe.num_experts": 0, "model.num_layers": 1, "model.d_model": 8})
    with pytest.raises(ConfigError, match=r"nearest achievable is [\d,]+ \(at FFN width 1\)"):
        match(SMALL, tiny, "active")
    with pytest.raises(ConfigError, match="active or total"):
        match(SMALL, SMALL, "both")


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    config=st.from_type(TrialConfig),
    baseline=st.from_type(TrialConfig),
    tolerance=st.sampled_from((0.01, 0.1)),
)
def test_matched_experts_in_bf16_have_a_width_of_the_grouped_kernels(config, baseline, tolerance):
    """Unless none of these is within the tolerance: then the width is as in fp32."""
    try:
        exact = match(config, baseline, "active", tolerance)
    except ConfigError:
        return
    matched = match(overlay(config, {"train.precision": "bf16"}), baseline, "active", tolerance)
    assert relative_gap(matched, baseline, "active") <= tolerance
    assert matched.d_ff_dense == exact.d_ff_dense
    if config.moe.is_dense or exact.d_expert % 8 == 0:
        assert matched.d_expert == exact.d_expert
    elif matched.d_expert % 8:
        assert matched.d_expert == exact.d_expert
        below = exact.d_expert // 8 * 8
        for width in (max(8, below), below + 8):
            other = overlay(matched, {"moe.d_expert": width})
            assert relative_gap(other, baseline, "active") > tolerance
    else:
        assert abs(matched.d_expert - exact.d_expert) < 8


@pytest.mark.parametrize("scale", [GPU, PAPER])
def test_the_widths_that_no_kernel_takes_are_not_made(scale):
    """Five of eight experts: 614 and 1229 wide before, which a GPU's bf16 kernels refuse."""
    five = overlay(scale, {"moe.num_experts": 8, "moe.top_k": 5})
    exact = match(overlay(five, {"train.precision": "fp32"}), scale, "active")
    matched = match(five, scale, "active")
    assert exact.d_expert % 8, "the case is one"
    assert matched.d_expert % 8 == 0
    assert relative_gap(matched, scale, "active") <= 0.01
