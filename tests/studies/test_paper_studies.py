"""What the paper's studies promise: every published row, the paper's sizes, clean contrasts."""

from __future__ import annotations

import pytest

from moe.accounting import account
from moe.config import TrialConfig
from moe.identity import cell_hash
from orchestrator.base.errors import BadInput
from orchestrator.study import All, Better, Claim, Equivalent, Study
from orchestrator.study.library import load_study, study_names
from orchestrator.study.resolve import resolve
from search_spaces.cells import Cell
from search_spaces.overlay import diff
from studies import paper, paper_balance, paper_table3, sequence_leak
from studies.paper_cells import by_label
from studies.published import paper as published_file
from studies.published import published
from studies.scales import SCALES

TABLES = ("paper_table1", "paper_table2", "paper_table3")
AROUND_THE_PAPER = sorted(set(study_names()) - {"quickstart", "search", "cpu_scale", "dense_gain"})
# No file: so that nothing is read, and the label column is that of a corpus with languages.
NO_CORPUS = "files:/nowhere/documents.parquet"


def configs(study: Study, scale: str) -> dict[str, TrialConfig]:
    base = study.scales[scale]
    return {cell.name: cell.config(base) for cell in study.cells_over(base)}


def leaves(claims) -> list[Claim]:
    return [
        leaf
        for claim in claims
        for leaf in (leaves(claim.parts) if isinstance(claim, All) else [claim])
    ]


def moved(study: Study, a: str, b: str) -> set[str]:
    """What two cells differ in, the gate apart: it follows from unit and K."""
    by_name = configs(study, "smoke")
    return set(diff(by_name[a], by_name[b])) - {"moe.gate"}


@pytest.mark.parametrize("name", TABLES)
def test_every_published_row_has_a_cell_and_every_cell_a_row(name):
    rows = published_file()["tables"][name.removeprefix("paper_")]
    study = load_study(name)
    resolved = configs(study, "paper")
    assert [row["cell"] for row in rows] == list(resolved)
    assert set(study.published) == set(resolved)
    for row in rows:
        config = resolved[row["cell"]]
        moe = config.moe
        if "ffn_multiple" in row:
            assert moe.is_dense
            assert config.model.ffn_multiple == row["ffn_multiple"]
            continue
        assert (moe.routing_unit, moe.routing_scope) == (row["unit"], row["scope"])
        assert (moe.router, moe.num_experts, moe.top_k) == (
            row["router"],
            row["num_experts"],
            row["top_k"],
        )
        assert moe.gate == gate_of_the_paper(row["unit"], row["top_k"])


def gate_of_the_paper(unit: str, top_k: int) -> str:
    if top_k == 1:
        return "switch"
    return "softmax_topk" if unit == "token" else "double_softmax"


def test_figure_1_has_its_cells():
    rows = published_file()["tables"]["figure1"]
    resolved = configs(paper_balance.STUDY, "paper")
    assert {row["cell"]: row["balance"] for row in rows} == {
        row["cell"]: resolved[row["cell"]].moe.balance for row in rows
    }


def test_the_sizes_of_the_paper():
    """2402.13089 prints 124M, 182M and 295M; tests/moe/model/test_accounting.py derives ours."""
    resolved = configs(load_study("paper_table1"), "paper")
    sizes = {name: account(config) for name, config in resolved.items()}
    assert [sizes[f"dense-{m}x"].params_total for m in (1, 2, 4)] == [
        124_439_808,
        181_099_776,
        294_419_712,
    ]
    mixture = sizes["token-layer-learned-N4-K2"]
    assert mixture.params_total == 294_484_224
    assert mixture.params_active - mixture.params_router == 181_108_992
    for row in published_file()["tables"]["table1"]:
        ours = sizes[row["cell"]]
        assert ours.params_total / 1e6 == pytest.approx(row["params_total_m"], abs=1)
        assert ours.params_active / 1e6 == pytest.approx(row["params_active_m"], abs=1)


def test_the_paper_scale_is_the_papers_configuration():
    base = load_study("paper_table1").scales["paper"]
    assert (base.model.num_layers, base.model.d_model, base.model.num_heads) == (12, 768, 12)
    assert (base.model.d_ff, base.model.context_length, base.model.dropout) == (3072, 1024, 0.2)
    assert (base.train.num_steps, base.train.batch_tokens) == (6000, 1_048_576)
    assert (base.optim.learning_rate, base.optim.weight_decay) == (9.6e-4, 0.5)
    assert (base.optim.beta1, base.optim.beta2, base.optim.grad_clip) == (0.9, 0.95, 1.0)
    assert base.data.tokenizer == "gpt2"
    assert base.data.corpus.startswith("hub:")


def test_every_claim_of_the_paper_has_one_home():
    homes = [claim.id for name in AROUND_THE_PAPER for claim in load_study(name).claims]
    assert sorted(id for id in homes if id in {f"C{i}" for i in range(1, 12)}) == sorted(
        f"C{i}" for i in range(1, 12)
    )
    assert len(set(homes)) == len(homes)


@pytest.mark.parametrize("name", AROUND_THE_PAPER)
@pytest.mark.parametrize("scale", SCALES)
def test_study_resolves_with_the_cells_of_its_claims(name, scale):
    study = load_study(name)
    launch = resolve(study, scale=scale, corpus_spec=NO_CORPUS, need_corpus=False)
    names = [cell.name for cell in launch.cells]
    assert {cell for claim in study.claims for cell in claim.cells} <= set(names)
    assert study.baseline in names
    assert len(launch.seeds) == (2 if scale == "smoke" else 3)
    hashes = {point.cell_hash for point in launch.points()}
    assert len(hashes) == len(set(names)) == len(names)


@pytest.mark.parametrize("scale", SCALES)
def test_a_cell_of_two_studies_has_one_hash(scale):
    """sequence_leak and table1_causal leave positions out of the loss, balance_scope has its own
    micro-batch, and the studies of other papers their own blocks and widths: theirs are other
    runs."""
    seen: dict[str, str] = {}
    others = {"sequence_leak", "table1_causal", "balance_scope"}
    others |= {"deepseek_moe", "olmoe_ablations", "granularity"}
    for name in set(AROUND_THE_PAPER) - others:
        for cell, config in configs(load_study(name), scale).items():
            assert seen.setdefault(cell, cell_hash(config)) == cell_hash(config), cell
    assert len(set(seen.values())) == len(seen)


def test_contrasts_move_what_they_are_about():
    expected = {
        "unit": {"moe.routing_unit"},
        "K": {"moe.top_k"},
        "N": {"moe.num_experts"},
        "scope": {"moe.routing_scope"},
        "router": {"moe.router"},
    }
    claim = paper.STUDY.claims[0]
    for effect in (claim.effect, *claim.than):
        for a, b in effect.pairs:
            assert moved(paper.STUDY, a, b) == expected[effect.name], (a, b)
    for part in leaves(load_study("paper_table3").claims[:1]):
        assert moved(paper_table3.STUDY, part.a, part.b) == {"moe.router"}
    for part in leaves(paper_balance.STUDY.claims):
        assert moved(paper_balance.STUDY, part.a, part.b) == {"moe.balance"}
    for claim in load_study("router_init").claims:
        for part in claim.parts:
            assert moved(load_study("router_init"), part.a, part.b) == {"moe.router_init_std"}


def test_the_random_router_is_no_part_of_the_largest_effect():
    assert not any("random" in cell for cell in paper.STUDY.claims[0].cells)


def test_main_contrasts_are_judged_at_half_and_twice_the_rate():
    by_name = configs(paper.STUDY, "smoke")
    rate = SCALES["smoke"].optim.learning_rate
    rates = [claim for claim in paper.STUDY.claims if claim.id.endswith("-rates")]
    assert len(rates) == 5
    for claim in rates:
        found = [{by_name[cell].optim.learning_rate for cell in part.cells} for part in claim.parts]
        assert found == [{rate / 2}, {rate * 2}]
        for part in claim.parts:
            assert isinstance(part, Better | Equivalent)


@pytest.mark.parametrize("scale", SCALES)
def test_leak_counts_the_same_positions_in_all_cells(scale):
    study = sequence_leak.STUDY
    by_name = configs(study, scale)
    starts = {config.train.loss_start for config in by_name.values()}
    prefixes = {c.moe.prefix_length for c in by_name.values() if c.moe.uses_prefix}
    assert starts == prefixes == {study.scales[scale].model.context_length // 4}
    for claim in study.claims[:2]:
        changed = moved(study, claim.a, claim.b)
        assert changed == {"moe.sequence_representation", "moe.prefix_length"}


@pytest.mark.parametrize("scale", SCALES)
def test_the_causal_table_moves_what_sequences_read_and_what_counts_alone(scale):
    table, causal = (configs(load_study(name), scale) for name in ("paper_table1", "table1_causal"))
    leak = configs(sequence_leak.STUDY, scale)
    assert table.keys() == causal.keys()
    for cell, config in causal.items():
        assert not config.leaks_future, cell
        expected = {"train.loss_start"}
        if table[cell].moe.routing_unit == "sequence" and table[cell].moe.num_experts:
            expected |= {"moe.sequence_representation", "moe.prefix_length"}
        assert set(diff(table[cell], config)) == expected, cell
    shared = {cell_hash(c) for c in causal.values()} & {cell_hash(c) for c in leak.values()}
    assert len(shared) == 3, "trained once with sequence_leak"


@pytest.mark.parametrize("scale", SCALES)
def test_balance_scopes_differ_in_every_step(scale):
    for config in configs(load_study("balance_scope"), scale).values():
        assert config.train.batch_tokens // config.train.micro_batch_tokens >= 8


def label_column(**asked) -> str:
    launch = resolve(paper_table3.STUDY, need_corpus=False, **asked)
    (column,) = {
        p.config.moe.label_column for p in launch.points() if p.config.moe.router == "label"
    }
    return column


def test_the_language_router_follows_a_column_that_the_corpus_has(corpus):
    assert label_column(corpus_spec="stdlib") == "topic"
    assert label_column(corpus_spec=corpus) == "language"
    assert label_column(scale="paper", corpus_spec=NO_CORPUS) == "language"
    assert label_column(corpus_spec="hub:nowhere,en+fr") == "config"
    domain = {"moe.label_column": "domain"}
    assert label_column(corpus_spec=NO_CORPUS, overrides=domain) == "domain"


def test_a_corpus_without_labels_leaves_the_language_router_out():
    launch = resolve(
        paper_table3.STUDY,
        corpus_spec=NO_CORPUS,
        overrides={"moe.label_column": ""},
        need_corpus=False,
    )
    assert len(launch.cells) == 7
    assert not by_label(launch.base)


def test_balance_reaches_all_cells_that_can_be_balanced():
    launch = resolve(
        paper_table3.STUDY,
        corpus_spec=NO_CORPUS,
        overrides={"moe.balance": "switch"},
        need_corpus=False,
    )
    balance = {p.config.moe.router: p.config.moe.balance for p in launch.points()}
    assert balance == {"learned": "switch", "frozen": "switch", "random": "none", "label": "none"}


def test_published_values_of_several_tables():
    values = published("table1", "table2", "table3")
    assert len(values) == 20
    assert values["token-layer-learned-N6-K2"] == {"multiwiki": 9.467}
    assert values["sequence-layer-learned-N4-K2"]["multiwiki"] == 10.667


def test_a_claim_about_a_cell_that_is_not_there_is_refused():
    study = Study(
        name="misspelt",
        question="?",
        baseline="dense",
        held_fixed="all",
        scales=SCALES,
        cells=[Cell(name="dense", overrides={"moe.num_experts": 0})],
        claims=(Better(id="C1", statement="s", a="dense", b="dens"),),
    )
    with pytest.raises(BadInput, match=r"claim C1 .* 'dens'.* Did you mean dense\?"):
        resolve(study, corpus_spec=NO_CORPUS, need_corpus=False)


def test_seeds_of_a_scale_are_distinct_and_of_a_scale_that_exists():
    fields = {"name": "s", "question": "?", "baseline": "d", "held_fixed": "all", "scales": SCALES}
    cells = [Cell(name="dense", overrides={"moe.num_experts": 0})]
    with pytest.raises(ValueError, match="distinct"):
        Study(**fields, cells=cells, scale_seeds={"cpu": (0, 0)})
    with pytest.raises(ValueError, match="received big"):
        Study(**fields, cells=cells, scale_seeds={"big": (0,)})
