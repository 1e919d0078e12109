"""A study at several sizes: the law is found again, intervals hold it, refusals are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import curve_fit

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report.granularity_law import fit_grains
from orchestrator.report.records import LaunchRecords
from orchestrator.report.scaling import fit, predicted, scaling
from orchestrator.stores.optuna_launches import LaunchInfo
from orchestrator.stores.trial_record import (
    BATCH_TOKENS,
    CONFIG,
    FLOPS_PER_TOKEN,
    METRICS,
    MOE_DIGEST,
    PARAMS_ACTIVE,
    TrialRecord,
)

TRUE = {"dense": (2.0, 60.0, 0.16), "moe": (1.7, 40.0, 0.13)}
FLOPS = (1e12, 1e13, 1e14, 1e15)


def launch(tmp_path, flops, *, seeds=5, noise=0.002, cells=TRUE, digest="text", tokens="tokens"):
    rng = np.random.default_rng(int(np.log10(flops)))
    trials = [
        TrialRecord(
            number=10 * i + seed,
            trial_id=10 * i + seed,
            state="complete",
            cell=cell,
            seed=seed,
            config_hash=f"{cell}-{seed}-{flops}",
            cell_hash=f"{cell}-{flops}",
            run_id=None,
            value=float(predicted(law, flops) + noise * rng.normal()),
            tokens=1000,
            params={},
            error=None,
            attempt=1,
            attributes={
                MOE_DIGEST: "code-1",
                CONFIG: {"data.digest": tokens},
                BATCH_TOKENS: 100,
                FLOPS_PER_TOKEN: flops / 1000,
                PARAMS_ACTIVE: int(flops / 6000),
                METRICS: {"val/bits_per_byte": 1.5},
            },
            curve={10: 1.0},
        )
        for i, (cell, law) in enumerate(cells.items())
        for seed in range(seeds)
    ]
    about = {"study": "s", "metric": "val/loss", "sampled": False, "baseline": "dense"}
    about |= {"corpus": "stdlib", "corpus_digest": digest, "overrides": {}, "scale": "cpu"}
    info = LaunchInfo(study_id=1, name=f"s/{flops:.0e}", attributes=about)
    return LaunchRecords(home=Home(tmp_path), info=info, trials=trials)


@pytest.mark.parametrize("law", [*TRUE.values(), (0.0, 25.0, 0.08)])
def test_a_law_without_noise_is_found_again(law):
    flops = np.array(FLOPS)
    e, _, alpha = found = fit(flops, predicted(law, flops))
    assert alpha == pytest.approx(law[2], abs=0.006)  # the grid's step
    assert e == pytest.approx(law[0], abs=0.06)
    np.testing.assert_allclose(predicted(found, flops), predicted(law, flops), atol=2e-3)


def test_the_fit_is_no_worse_than_scipys_from_the_truth():
    flops, rng = np.array(FLOPS), np.random.default_rng(0)
    for _ in range(20):
        means = predicted(TRUE["moe"], flops) + 0.01 * rng.normal(size=4)
        ours = ((predicted(fit(flops, means), flops) - means) ** 2).sum()

        def form(x, e, a, alpha):
            return e + a * (x / 1e13) ** -alpha

        start = (1.7, 40.0 * 1e13**-0.13, 0.13)
        best, _ = curve_fit(form, flops, means, start, bounds=(0, [10, 10, 1.5]))
        theirs = ((form(flops, *best) - means) ** 2).sum()
        assert ours <= theirs * 1.05 + 1e-7


def test_laws_gaps_and_their_intervals(tmp_path):
    found = scaling([launch(tmp_path, flops) for flops in FLOPS])
    assert (found.reference, list(found.cells)) == ("dense", ["dense", "moe"])
    assert [size.flops for size in found.cells["moe"]] == pytest.approx(FLOPS)
    for name, (e, _, alpha) in TRUE.items():
        law = found.laws[name]
        assert law.alpha_bounds[0] - 0.01 <= alpha <= law.alpha_bounds[1] + 0.01
        assert law.e_bounds[0] - 0.05 <= e <= law.e_bounds[1] + 0.05
    (gap,) = found.gaps
    assert gap.flops == pytest.approx(1e16)
    true = float(predicted(TRUE["moe"], 1e16) - predicted(TRUE["dense"], 1e16))
    assert gap.bounds[0] - 0.005 <= true <= gap.bounds[1] + 0.005
    assert found.to_dict()["cells"][1]["law"]["alpha"] == found.laws["moe"].alpha


def test_where_the_order_changes_is_found(tmp_path):
    cells = {"dense": (2.0, 60.0, 0.16), "moe": (2.05, 30.0, 0.145)}
    found = scaling([launch(tmp_path, flops, cells=cells, noise=0) for flops in FLOPS])
    grid = np.geomspace(1e12, 1e16, 100_000)
    sign = np.sign(predicted(cells["moe"], grid) - predicted(cells["dense"], grid))
    true = grid[np.flatnonzero(sign[:-1] * sign[1:] < 0)]
    assert len(true) == 1
    (gap,) = found.gaps
    assert gap.crossings[-1] == pytest.approx(true[0], rel=0.5)
    before = f"s/{max(f for f in FLOPS if f < true[0]):.0e}"
    assert found.turns["moe"][0][0] == before


def test_what_cannot_be_said_is_not(tmp_path):
    two = scaling([launch(tmp_path, flops) for flops in FLOPS[:2]])
    assert (two.laws, two.gaps) == ({}, [])
    assert "a law needs 3 sizes" in " ".join(two.notes)
    one_seed = scaling([launch(tmp_path, flops, seeds=1) for flops in FLOPS])
    assert one_seed.laws["moe"].alpha_bounds is None
    assert (one_seed.gaps[0].bounds, one_seed.gaps[0].share_crossing) == (None, None)
    other = [launch(tmp_path, FLOPS[0]), launch(tmp_path, FLOPS[1], tokens="others")]
    assert scaling(other).metric == "val/bits_per_byte"
    for wrong in (
        [launch(tmp_path, FLOPS[0])],
        [launch(tmp_path, FLOPS[0]), launch(tmp_path, FLOPS[1], digest="another")],
    ):
        with pytest.raises(BadInput, match="received"):
            scaling(wrong)


def grain_points(noise=0.0):
    rng = np.random.default_rng(0)
    e, a, b, alpha, gamma = 1.8, 20.0, 15.0, 0.12, 0.6
    return [
        (flops, grain, e + (a + b * grain**-gamma) * flops**-alpha + noise * rng.normal())
        for flops in FLOPS
        for grain in (1.0, 2.0, 4.0, 8.0)
    ]


def test_the_law_over_granularity_is_found_again():
    flops, grain, loss = np.array(grain_points()).T
    e, a, b, alpha, gamma = fit_grains(flops, grain, loss)
    fitted = e + (a + b * grain**-gamma) * flops**-alpha
    np.testing.assert_allclose(fitted, loss, atol=2e-3)
    assert (e, alpha, gamma) == pytest.approx((1.8, 0.12, 0.6), rel=0.15)


def test_cells_that_differ_in_granularity_alone_share_a_law(tmp_path):
    """The others (dense, another router) have no part in it."""
    cells = {"g1": (1.7, 45.0, 0.13), "g2": (1.7, 42.0, 0.13), "g4": (1.7, 40.0, 0.13)}
    launches = [launch(tmp_path, flops, cells={**cells, **TRUE}) for flops in FLOPS]
    for each in launches:
        for record in each.trials:
            told = record.attributes[CONFIG]
            if record.cell in cells:
                told["moe.num_experts"] = 4
                told |= {"moe.granularity": int(record.cell[1])} if record.cell != "g1" else {}
            elif record.cell == "moe":
                told |= {"moe.num_experts": 4, "moe.router": "frozen"}
    found = scaling(launches)
    assert found.grains.cells == ("g1", "g2", "g4")
    assert found.grains.alpha == pytest.approx(0.13, abs=0.04)
    low, high = found.grains.gamma_bounds
    assert 0 < low <= found.grains.gamma <= high
    assert found.to_dict()["grains"]["form"].startswith("L(C, G)")
    without = scaling([launch(tmp_path, flops) for flops in FLOPS])
    assert without.grains is None


def test_the_command_tells_sizes_laws_and_gaps(tmp_path, monkeypatch, moe_study):
    launches = [launch(tmp_path, flops) for flops in FLOPS]
    expected = scaling(launches, reach=10.0)
    monkeypatch.setattr("orchestrator.report.records.read_launches", lambda *_, **__: launches)
    code, out, _ = moe_study("scaling", "quickstart", "--home", tmp_path, "--json")
    told = json.loads(out)
    assert (code, told["study"]) == (0, "quickstart")
    (law,) = [of["law"] for of in told["cells"] if of["cell"] == "moe"]
    assert law["alpha"] == expected.laws["moe"].alpha
    assert told["gaps"][0]["bounds"] == list(expected.gaps[0].bounds)
    code, out, _ = moe_study("scaling", "quickstart", "--home", tmp_path)
    assert code == 0
    for title in ("**Sizes**", "**Laws**", "**Gaps: difference from dense, by the laws**"):
        assert title in out
    assert f"{expected.laws['moe'].alpha:.3f}" in out
    code, out, err = moe_study("scaling", "quickstart", "--home", tmp_path, "--reach", "0")
    assert (code, out) == (2, "")
    assert "--reach" in err
