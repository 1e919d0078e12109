"""Figures: what is drawn is what the records hold, and what is missing is not drawn."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report import figure_frame
from orchestrator.report.figure_data import specializations
from orchestrator.report.figure_frame import WIDTH_INCHES
from orchestrator.report.launch_data import LaunchData
from orchestrator.report.plotly_charts import specialization_chart, with_colours
from orchestrator.report.print_figures import (
    draw_assignment,
    draw_launch,
    launch_figures,
    one_figure,
    save_as,
)
from orchestrator.report.records import LaunchRecords
from orchestrator.report.sections import chart_sections
from orchestrator.report.statistics import mean_interval
from orchestrator.report.text_alternatives import specialization_text
from orchestrator.stores.optuna_launches import LaunchInfo
from orchestrator.stores.trial_record import FLOPS_PER_TOKEN, MOE_DIGEST, PARAMS_ACTIVE, TrialRecord
from orchestrator.study.design import Fixed

STEPS = (10, 20, 40)
BATCH_TOKENS = 512
LAYERS = (0, 2)


def trial(number, cell, seed, value, *, params=None, tokens=None, digest="code-1", **changes):
    return TrialRecord(
        **{
            "number": number,
            "trial_id": number,
            "state": "complete",
            "cell": cell,
            "seed": seed,
            "config_hash": f"{cell}-{seed}",
            "cell_hash": cell,
            "run_id": None,
            "value": value,
            "tokens": STEPS[-1] * BATCH_TOKENS if tokens is None else tokens,
            "params": params or {},
            "error": None,
            "attempt": 1,
            "attributes": {MOE_DIGEST: digest},
            "curve": {step: (value or 0) + 1 / step for step in STEPS},
            **changes,
        }
    )


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def launch_of(home, trials, **attributes):
    about = {"study": "drawn", "scale": "cpu", "metric": "val/loss", "sampled": False}
    about |= {"corpus": "stdlib", "corpus_digest": "12345678"}
    info = LaunchInfo(
        study_id=1, name="drawn/cpu/stdlib@12345678", attributes={**about, **attributes}
    )
    return LaunchRecords(home=home, info=info, trials=trials)


def keep_load(home, record, share_EMN):
    """What training leaves in a run's folder."""
    step, layer, expert = np.indices(share_EMN.shape).reshape(3, -1)
    table = pa.table(
        {
            "step": np.array(STEPS)[step],
            "layer": np.array(LAYERS, dtype=np.int32)[layer],
            "expert": expert.astype(np.int32),
            "load": share_EMN.ravel(),
        }
    )
    folder = home.run_folder(record.config_hash, record.code_digest)
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "routing.parquet")


def rows_of(cell, seeds=(0, 1), probe="corpus:topic", **changes):
    return [
        {
            "probe": probe,
            "cell": cell,
            "seed": seed,
            "layer": layer,
            "nmi": 0.1 + 0.01 * seed + 0.1 * (layer or 0),
            "nmi_null_low": 0.01,
            "nmi_null_high": 0.02 + 0.001 * seed,
            "nmi_random_router": 0.03,
            "word_form_nmi": 0.125,
            "word_form_nmi_null_mean": 0.0625,
            **changes,
        }
        for seed in seeds
        for layer in (*LAYERS, None)
    ]


def drawn(launch, home, rows=()):
    return dict(launch_figures(launch, home, rows=rows))


def axes_of(figure):
    return figure.get_axes()


def labelled(ax, start):
    return next(line for line in ax.lines if str(line.get_label()).startswith(start))


def words(figure):
    texts = [figure._supxlabel, figure._suptitle, *figure.texts]
    found = " ".join(text.get_text() for text in texts if text is not None)
    return " ".join([found, *(words(part) for part in figure.subfigs)])


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full(home):
    """Two cells that differ in the balance loss, and a dense baseline, at two seeds."""
    trials = []
    for i, (cell, params) in enumerate(
        {
            "dense": {"moe.num_experts": 0},
            "free": {"moe.router": "learned", "moe.balance": "none"},
            "balanced": {"moe.router": "learned", "moe.balance": "switch"},
        }.items()
    ):
        for seed in range(2):
            record = trial(2 * i + seed, cell, seed, 2.0 + 0.1 * i + 0.02 * seed, params=params)
            trials.append(record)
            if cell != "dense":
                share = np.full((3, 2, 4), 0.25)
                if cell == "free":  # each seed has collapsed onto a pair of its own
                    share[:] = [0.5, 0.5, 0, 0] if seed == 0 else [0, 0, 0.5, 0.5]
                keep_load(home, record, share)
    return launch_of(home, trials, baseline="dense")


def test_every_figure_becomes_two_files_with_the_same_bytes_each_time(full, home, tmp_path):
    written = draw_launch(full, home, tmp_path / "a", rows=rows_of("free"))
    again = draw_launch(full, home, tmp_path / "b", rows=rows_of("free"))
    names = ["balance-balanced", "curves", "load-balanced", "load-free", "loss"]
    stems = sorted({path.stem for path in written})
    assert stems[:5] == names
    assert stems[5].startswith("specialization-corpus_topic-")
    assert len(stems) == 6
    assert files(tmp_path / "a") == sorted(path.name for path in written)
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert (tmp_path / "a" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a" / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_every_figure_names_its_launch_and_is_as_wide_as_a_page(full, home):
    figures = drawn(full, home, rows_of("free"))
    assert all("drawn/cpu/stdlib@12345678, code code-1" in words(f) for f in figures.values())
    assert {f.get_figwidth() for f in figures.values()} == {WIDTH_INCHES}
    small = launch_of(home, full.trials, scale="smoke")
    assert all("no evidence" in words(f) for f in drawn(small, home).values())


def test_print_and_page_show_the_same_numbers(full, home):
    (ax,) = axes_of(drawn(full, home)["curves"])
    trials = [
        dataclasses.replace(r, attributes={**r.attributes, FLOPS_PER_TOKEN: 6, PARAMS_ACTIVE: 9})
        for r in full.trials
    ]
    launch = dataclasses.replace(full, trials=trials)
    sections = {section.title: section for section in chart_sections(launch, Fixed())}
    curves = sections["Curves"].figures["curves"]
    named = [trace for trace in curves["data"] if "name" in trace]
    assert {trace["name"] for trace in named} == {
        f"{c} (n = 2)" for c in ("dense", "free", "balanced")
    }
    for trace in named:
        line = labelled(ax, trace["name"])
        np.testing.assert_array_equal(line.get_xdata(), trace["x"])
        np.testing.assert_array_equal(line.get_ydata(), trace["y"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == tuple(
        curves["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")
    )
    means, differences = axes_of(drawn(full, home)["loss"])
    ends = sections["Cells at the end of training"].figures
    for shown, chart in ((means, ends["means"]), (differences, ends["differences"])):
        drawn_means = [
            x for line in shown.lines if line.get_label() == "_mean" for x in line.get_xdata()
        ]
        assert drawn_means == chart["data"][0]["x"]
    pareto = sections["Quality against compute and size"]
    assert set(pareto.figures) <= set(pareto.pictures)
    ax = axes_of(drawn(launch, home)["pareto"])[0]
    every = {x for line in ax.lines for x in line.get_xdata()}
    assert every == {x for trace in pareto.figures["pareto"]["data"] for x in trace["x"]}
    loads = sections["Expert load"].figures
    assert len(loads) == len([name for name in drawn(full, home) if name.startswith("load-")]) == 2


@pytest.mark.parametrize(("family", "font"), [("serif", b"STIXGeneral"), ("sans", b"DejaVuSans")])
@pytest.mark.parametrize("name", ["curves", "loss", "load-free"])
def test_one_figure_for_a_paper_has_its_width_letters_and_bytes(full, tmp_path, name, family, font):
    style = figure_frame.Style(family=family, width_inches=3.25, is_bare=True)
    written = []
    for folder in ("a", "b"):
        with figure_frame.styled(style):
            figure = one_figure(full, name)
            for form in ("pdf", "svg", "png"):
                path = tmp_path / f"{folder}.{form}"
                save_as(figure, path, form)
                written.append(path.read_bytes())
    assert written[:3] == written[3:]
    assert font in written[0]
    assert figure.get_figwidth() == 3.25
    assert "drawn/cpu" not in words(figure)
    assert "drawn/cpu/stdlib@12345678, code code-1" in figure.get_gid()
    assert drawn(full, full.home)[name].get_figwidth() == WIDTH_INCHES, "the style ends with it"
    with pytest.raises(BadInput, match=r"received 'other'. Choose from curves, loss, load-"):
        one_figure(full, "other")


def test_curves_show_mean_and_range_of_the_seeds_over_tokens(full, home):
    (ax,) = axes_of(drawn(full, home)["curves"])
    line = labelled(ax, "free (n = 2)")
    losses = [[record.curve[s] for s in STEPS] for record in full.trials if record.cell == "free"]
    np.testing.assert_allclose(line.get_xdata(), [step * BATCH_TOKENS for step in STEPS])
    np.testing.assert_allclose(line.get_ydata(), np.exp(np.mean(losses, axis=0)))
    assert ax.get_xlabel() == "training tokens"
    assert ax.get_ylabel() == "validation perplexity"
    assert len(ax.collections) == 3
    band = ax.collections[1].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(math.exp(min(map(min, losses))))
    assert band.max() == pytest.approx(math.exp(max(map(max, losses))))


def test_one_seed_has_no_band_and_no_interval(home):
    launch = launch_of(home, [trial(0, "a", 0, 2.0), trial(1, "b", 0, 2.5)], baseline="a")
    figures = drawn(launch, home)
    assert list(figures) == ["curves", "loss"]
    (ax,) = axes_of(figures["curves"])
    assert len(ax.collections) == 0
    for ax in axes_of(figures["loss"]):
        assert {line.get_label() for line in ax.lines} <= {"_seeds", "_zero"}


def test_loss_shows_intervals_and_paired_differences(full, home):
    left, right = axes_of(drawn(full, home)["loss"])
    found = mean_interval([2.1, 2.12])
    spans = [line.get_xdata() for line in left.lines if line.get_label() == "_interval"]
    np.testing.assert_allclose(spans[1], [found.low, found.high])
    means = [line.get_xdata()[0] for line in left.lines if line.get_label() == "_mean"]
    np.testing.assert_allclose(means, [2.01, 2.11, 2.21])
    labels = [tick.get_text() for tick in left.get_yticklabels()]
    assert labels == ["dense  (n = 2)", "free  (n = 2)", "balanced  (n = 2)"]
    differences = [line.get_xdata()[0] for line in right.lines if line.get_label() == "_mean"]
    np.testing.assert_allclose(differences, [0.1, 0.2])
    assert right.get_xlabel() == "difference in val/loss (nats/token)\nfrom dense"


def test_many_cells_share_panels_with_the_baseline_in_each(home):
    trials = [trial(i, f"cell-{i:02}", 0, 2 + 0.01 * i) for i in range(14)]
    panels = axes_of(drawn(launch_of(home, trials, baseline="cell-00"), home)["curves"])
    shown = [[line.get_label().split()[0] for line in ax.lines] for ax in panels]
    assert len(panels) == 3
    assert all(names[0] == "cell-00" for names in shown)
    assert [name for names in shown for name in names[1:]] == [f"cell-{i:02}" for i in range(1, 14)]


def test_a_reused_trial_has_its_tokens_from_its_config_or_is_drawn_over_steps(home):
    reused = trial(0, "a", 0, 2.0, tokens=0)
    (ax,) = axes_of(drawn(launch_of(home, [reused]), home)["curves"])
    assert ax.get_xlabel() == "optimiser step"
    np.testing.assert_allclose(ax.lines[0].get_xdata(), STEPS)
    folder = home.run_folder(reused.config_hash, reused.code_digest)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"train": {"batch_tokens": 7}}))
    (ax,) = axes_of(drawn(launch_of(home, [reused]), home)["curves"])
    assert ax.get_xlabel() == "training tokens"
    np.testing.assert_allclose(ax.lines[0].get_xdata(), np.array(STEPS) * 7)


def test_load_is_averaged_by_rank_so_that_a_collapse_is_seen(full, home):
    panels = axes_of(drawn(full, home)["load-free"])
    assert [ax.get_title() for ax in panels] == ["layer 0", "layer 2"]
    for ax in panels:
        means = [labelled(ax, str(rank)).get_ydata() for rank in (1, 2, 3, 4)]
        np.testing.assert_allclose(means, np.array([[0.5, 0.5, 0, 0]] * 3).T)
        np.testing.assert_allclose(labelled(ax, "1").get_xdata(), np.array(STEPS) * BATCH_TOKENS)
        assert len(ax.lines) == 4 * 3 + 1  # a mean and two seeds an expert, and the even share


def test_load_holds_what_training_wrote(home):
    record = trial(0, "a", 0, 2.0)
    share = np.random.default_rng(0).dirichlet(np.ones(3), size=(3, 2))
    share[:] = share[..., np.argsort(-share.mean(axis=(0, 1)))]
    keep_load(home, record, share)
    panels = axes_of(drawn(launch_of(home, [record]), home)["load-a"])
    for m, ax in enumerate(panels):
        order = np.argsort(-share[:, m].mean(axis=0))
        for rank, expert in enumerate(order):
            np.testing.assert_allclose(labelled(ax, str(rank + 1)).get_ydata(), share[:, m, expert])
        assert len(ax.lines) == 3 + 1  # one seed: no thin lines


def test_balance_stands_side_by_side_without_first(full, home):
    figure = drawn(full, home)["balance-balanced"]
    panels = axes_of(figure)
    assert [ax.get_title() for ax in panels] == ["layer 0", "layer 2"] * 2
    np.testing.assert_allclose(labelled(panels[0], "1").get_ydata(), 0.5)
    np.testing.assert_allclose(labelled(panels[2], "1").get_ydata(), 0.25)
    assert words(figure).index("free  (n = 2)") < words(figure).index("balanced  (n = 2)")


def test_cells_that_differ_in_more_than_balance_are_no_pair(full, home):
    other = [
        trial(9, "balanced", 0, 2.0, params={"moe.router": "frozen", "moe.balance": "switch"}),
        *(record for record in full.trials if record.cell == "free"),
    ]
    keep_load(Home(home.root / "else"), other[0], np.full((3, 2, 4), 0.25))
    assert not [name for name in drawn(launch_of(home, other), home) if name.startswith("balance")]


@pytest.mark.parametrize("damage", ["missing", "garbage", "empty"])
def test_without_routing_arrays_there_is_no_load(home, damage):
    record = trial(0, "a", 0, 2.0)
    if damage != "missing":
        keep_load(home, record, np.full((3, 2, 4), 0.25))
        path = home.run_folder(record.config_hash, record.code_digest) / "routing.parquet"
        if damage == "garbage":
            path.write_bytes(b"not parquet")
        else:
            pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert list(drawn(launch_of(home, [record]), home)) == ["curves", "loss"]


def test_specialisation_shows_rows_over_their_null(full, home):
    figures = drawn(full, home, [*rows_of("free"), *rows_of("unknown")])
    (name,) = [name for name in figures if name.startswith("specialization")]
    (ax,) = axes_of(figures[name])
    np.testing.assert_allclose(labelled(ax, "mean").get_xdata(), LAYERS)
    np.testing.assert_allclose(labelled(ax, "mean").get_ydata(), [0.105, 0.305])
    np.testing.assert_allclose(labelled(ax, "random router").get_ydata(), [0.03, 0.03])
    assert len([line for line in ax.lines if line.get_label() == "_seed"]) == 2
    bottoms = [bar.get_y() for bar in ax.patches]
    tops = [bar.get_y() + bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(bottoms, [0.01, 0.01])
    np.testing.assert_allclose(tops, [0.021, 0.021])
    assert "NMI(token; label) = 0.125, null 0.062" in words(figures[name])


def test_a_seed_stands_against_its_own_null_inside_the_band_of_all(full, home):
    """Seed 1 is above its own null, and below what another seed's null reaches."""
    of = {0: {"nmi": 0.06, "nmi_null_high": 0.05}, 1: {"nmi": 0.03, "nmi_null_high": 0.02}}
    rows = [row for seed, own in of.items() for row in rows_of("free", seeds=(seed,), **own)]
    for within in (False, True):
        if within:
            rows[0]["nmi"] = 0.04
        (figure,) = [
            f for n, f in drawn(full, home, rows).items() if n.startswith("specialization")
        ]
        (ax,) = axes_of(figure)
        found = {"_seed": [], "_seed within": []}
        for line in ax.lines:
            found.get(line.get_label(), []).extend(map(tuple, line.get_xydata()))
        assert len(found["_seed within"]) == within
        assert (LAYERS[0], 0.03) in found["_seed"], "inside the merged band, above its own"
        (panel,) = specializations(LaunchData(launch=full, home=home).cells, rows)
        assert panel.above_SM.sum() == 2 * len(LAYERS) - within
        told = specialization_text(panel)
        assert f"layer {LAYERS[0]} " in told
        assert ("1 of 2 seeds" in told) == within
        marks = specialization_chart(panel, 0.1)["data"][-2:]
        shown = [m for trace in marks for m in np.ravel(trace["marker"].get("symbol", []))]
        assert list(shown).count("circle-open") == within


def test_a_layer_without_null_or_a_probe_without_cells_is_not_drawn(full, home):
    rows = [*rows_of("free", nmi_null_low=None), *rows_of("unknown"), *rows_of("free", seeds=(7,))]
    assert not [n for n in drawn(full, home, rows) if n.startswith("specialization")]
    rows = rows_of("free", nmi_random_router=None)
    (figure,) = [f for n, f in drawn(full, home, rows).items() if n.startswith("specialization")]
    assert "random router" not in {line.get_label() for line in axes_of(figure)[0].lines}


def test_probes_that_end_alike_have_their_own_files_and_no_folders(full, home):
    probes = [f"conllu:/somewhere/{part}/pud/*.conllu" for part in ("a", "b")]
    rows = [row for probe in probes for row in rows_of("free", probe=probe)]
    names = [name for name in drawn(full, home, rows) if name.startswith("specialization")]
    assert len(set(names)) == 2
    assert not any("somewhere" in name for name in names)


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial(0, "a", 0, None, state="running")],
        [trial(0, "a", 0, None, state="pruned"), trial(1, "a", 1, None, state="failed")],
    ],
)
def test_nothing_complete_gives_no_file(home, tmp_path, trials):
    folder = tmp_path / "out"
    assert draw_launch(launch_of(home, trials), home, folder, rows=rows_of("a")) == []
    assert not folder.exists()


def test_trials_of_other_code_are_left_out_and_counted(home):
    trials = [trial(i, "a", i, 2.0 + i) for i in range(3)]
    trials.append(trial(3, "a", 3, 99.0, digest="code-0"))
    figure = drawn(launch_of(home, trials), home)["loss"]
    means = [
        line.get_xdata()[0] for line in axes_of(figure)[0].lines if line.get_label() == "_mean"
    ]
    assert means == [3.0]
    assert "1 complete trials of other code are left out" in words(figure)


def test_the_points_of_a_search_stand_over_all_of_its_axes(home):
    known = {MOE_DIGEST: "code-1", FLOPS_PER_TOKEN: 6, PARAMS_ACTIVE: 9}
    points = [
        {"moe.top_k": 1, "optim.learning_rate": 0.5, "moe.router": "learned"},
        {"moe.top_k": 2, "optim.learning_rate": 0.25, "moe.router": "frozen", "moe.balance": "a"},
        {"moe.top_k": 2, "optim.learning_rate": 0.125, "moe.router": "learned"},
    ]
    trials = [
        trial(i, f"p{i}", 0, 3.0 - i, params={**params, "moe.num_experts": 4}, attributes=known)
        for i, params in enumerate(points)
    ]
    launch = launch_of(home, trials, sampled=True, baseline="the best point")
    found = {section.title: section for section in chart_sections(launch, Fixed())}
    assert "Two axes at a time" not in found, "those of a search are told from a model of it"
    section = found["Points of the search"]
    (chart,) = section.figures.values()
    (trace,) = chart["data"]
    shown = {each["label"]: each for each in trace["dimensions"]}
    assert list(shown) == ["top_k", "learning_rate", "router", "balance", "val/loss (nats/token)"]
    assert shown["learning_rate"]["values"] == [0.5, 0.25, 0.125]
    router = [shown["router"]["ticktext"][i] for i in shown["router"]["values"]]
    assert router == ["learned", "frozen", "learned"]
    balance = [shown["balance"]["ticktext"][i] for i in shown["balance"]["values"]]
    assert balance == ["\N{EN DASH}", "a", "\N{EN DASH}"]
    assert trace["line"]["color"] == [3.0, 2.0, 1.0]
    assert "p2, has 1.0000" in next(iter(section.texts.values()))
    go.Figure(with_colours(chart))
    assert section.pictures["parallel-0"].startswith("data:image/svg+xml;base64,")
    ax = axes_of(drawn(launch, home)["parallel-0"])[0]
    lines = [line for line in ax.lines if len(line.get_xdata()) == len(shown)]
    ends = [line.get_ydata()[-1] for line in lines]
    assert ends == [1.0, 0.5, 0.0], "the best is drawn last, at the low end of the last axis"
    few = chart_sections(dataclasses.replace(launch, trials=trials[:2]), Fixed())
    assert not any(s.figures for s in few if s.title == "Points of the search")
    grid = chart_sections(launch_of(home, trials), Fixed())
    assert "Points of the search" not in {section.title for section in grid}


def test_a_sampled_study_shows_its_best_cells_best_first(home):
    trials = [trial(i, f"p{i}", 0, 3.0 - 0.1 * i) for i in range(15)]
    figures = drawn(launch_of(home, trials, sampled=True, baseline="the best point"), home)
    (ax,) = axes_of(figures["loss"])
    labels = [tick.get_text().split()[0] for tick in ax.get_yticklabels()]
    assert labels == [f"p{i}" for i in range(14, 2, -1)]


def test_a_name_that_stood_for_two_configurations_shows_the_newest(home):
    trials = [trial(0, "a", 0, 9.0, cell_hash="old"), trial(1, "a", 1, 2.0, cell_hash="new")]
    (ax,) = axes_of(drawn(launch_of(home, trials), home)["loss"])
    assert [line.get_xdata()[0] for line in ax.lines] == [2.0]


ABOUT = {"cell": "token", "seed": 0, "probe": "corpus:topic", "launch_name": "drawn/cpu"}


def test_assignment_bars_are_shares_of_each_seen_label(tmp_path, monkeypatch):
    count = np.array([[[1, 0, 30], [3, 0, 10]], [[2, 0, 20], [2, 0, 20]]])
    kept = []
    monkeypatch.setattr(
        "orchestrator.report.print_figures.save",
        lambda figure, folder, name: kept.append(figure) or [],
    )
    draw_assignment(count, layers=LAYERS, labels=["x", "unseen", "y"], folder=tmp_path, **ABOUT)
    first, second = axes_of(kept[0])
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["x", "y"]
    assert [bar.get_width() for bar in first.patches] == [0.25, 0.75, 0.75, 0.25]
    assert [bar.get_x() for bar in first.patches] == [0, 0, 0.25, 0.75]
    assert [bar.get_width() for bar in second.patches] == [0.5] * 4


def test_assignment_writes_files_or_nothing_or_refuses(tmp_path):
    count = np.ones((2, 4, 3), dtype=int)
    names = {"layers": LAYERS, "labels": ["a", "b", "$c$"], "folder": tmp_path / "out", **ABOUT}
    written = draw_assignment(count, **names)
    assert [path.suffix for path in written] == [".png", ".pdf"]
    assert all(path.stat().st_size > 1000 for path in written)
    assert draw_assignment(0 * count, **{**names, "folder": tmp_path / "none"}) == []
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match=r"received the shape \(2, 4, 3\), 1 layers"):
        draw_assignment(count, **{**names, "layers": (0,)})


def test_matplotlib_is_loaded_for_drawing_alone_and_never_pyplot(tmp_path):
    code = f"""
import sys
from pathlib import Path
import numpy as np
from orchestrator.report.print_figures import draw_assignment
assert "matplotlib" not in sys.modules
draw_assignment(np.ones((1, 2, 2)), layers=[0], labels=["a", "b"], folder=Path({str(tmp_path)!r}),
    cell="a", seed=0, probe="corpus:topic", launch_name="drawn")
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
