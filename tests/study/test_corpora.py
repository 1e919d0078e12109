"""The corpus as an axis: every cell has its own text, and nothing compares losses across text."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
from mlflow.tracking import MlflowClient

from moe.config import TrialConfig
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from moe.metrics import VAL_LOSS
from moe.train.training_run import resolve as resolve_run
from orchestrator.base.errors import BadInput
from orchestrator.driver.tune_adapters import LedgerSearcher, make_scheduler
from orchestrator.report.pareto import pareto_points
from orchestrator.report.records import read_launch
from orchestrator.report.table_text import as_json, body, headings
from orchestrator.report.tables import table_of
from orchestrator.study import All, Better, Effect, LargerEffect, Study
from orchestrator.study.plan import plan, write_configs
from orchestrator.study.resolve import resolve
from search_spaces.axes import describe_axes
from search_spaces.cells import Cell
from search_spaces.domains import NOT_AN_AXIS, Choice
from search_spaces.overlay import get, overlay
from search_spaces.space import Space
from tests.fixtures.studies import TINY


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """CORPUS SPEC of text that is nothing like the other corpus."""
    path = tmp_path_factory.mktemp("numbers") / "numbers.jsonl"
    draw = random.Random(1)
    texts = [" ".join(str(draw.randrange(10**6)) for _ in range(90)) for _ in range(60)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return f"files:{path}"


@pytest.fixture
def two_corpora(grid_study, numbers):
    """Two cells that differ in nothing but their text, and one more on the second."""
    cells = [
        Cell(name="words", overrides={}),
        Cell(name="numbers", overrides={"data.corpus": numbers}),
        Cell(name="frozen", overrides={"data.corpus": numbers, "moe.router": "frozen"}),
    ]
    return dataclasses.replace(grid_study, name="two", cells=cells, baseline="words", seeds=(0,))


def finish(session, losses):
    """Completes every trial with the loss that its cell has in `losses`."""
    while assignment := session.ledger.next():
        record = assignment.record
        loss = losses(record)
        entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: loss}
        session.ledger.started(record.number)
        session.ledger.progressed(record.number, {**entry, "step": 4})
        session.ledger.completed(record.number, entry, tokens=1024)


def test_each_cell_trains_on_its_own_corpus(two_corpora, corpus, numbers, home, hold):
    with hold(two_corpora) as session:
        points = {p.cell: p for p in session.launch.points()}
        assert points["words"].config.data.corpus == corpus
        assert points["numbers"].config.data.corpus == numbers
        assert len({p.config_hash for p in points.values()}) == 3
        text = {}
        for name, point in points.items():
            store = TokenStore.open(session.tokens.of(point))
            assert store.digest == point.config.data.digest
            ids, _ = next(store.documents("train"))
            text[name] = store.decode(ids).decode()
        assert text["numbers"] == text["frozen"]
        assert text["numbers"].replace(" ", "").isdigit()
        assert not text["words"][:1].isdigit()
        finish(session, lambda record: 2.0)
    client = MlflowClient(home.mlflow_uri)
    for record in read_launch("two", home=home).trials:
        run = client.get_run(record.run_id)
        (used,) = run.inputs.dataset_inputs
        config = points[record.cell].config.data
        assert (used.dataset.name, used.dataset.digest) == (config.corpus, config.digest)
        assert run.data.tags["corpus_digest"] == points[record.cell].corpus_digest
        assert run.data.params["data.corpus"] == config.corpus


def test_the_name_holds_all_corpora_and_is_what_it_was_with_one(two_corpora, corpus, numbers):
    launch = resolve(two_corpora, corpus_spec=corpus)
    _, _, text = launch.name.split("/")
    label, _, digest = text.partition("@")
    assert label == "files:documents.jsonl,files:numbers.jsonl"
    assert digest == launch.corpus_digest[:8]
    turned = dataclasses.replace(two_corpora, cells=two_corpora.cells[::-1])
    assert resolve(turned, corpus_spec=corpus).name == launch.name
    one = dataclasses.replace(two_corpora, cells=two_corpora.cells[:1])
    alone = resolve(one, corpus_spec=corpus)
    assert alone.name == f"two/smoke/files:documents.jsonl@{alone.corpora[corpus].digest[:8]}"
    assert not alone.has_corpora
    assert launch.has_corpora


def test_changed_text_of_any_corpus_is_another_launch(two_corpora, corpus, numbers, tmp_path):
    changed = tmp_path / "numbers.jsonl"
    changed.write_text(json.dumps({"text": "1 2 3 " * 40}) + "\n")
    cells = [two_corpora.cells[0], Cell(name="n", overrides={"data.corpus": f"files:{changed}"})]
    other = resolve(dataclasses.replace(two_corpora, cells=cells), corpus_spec=corpus)
    assert other.name != resolve(two_corpora, corpus_spec=corpus).name


def test_two_names_of_one_text_are_one_cell(two_corpora, corpus, corpus_folder, tmp_path):
    import shutil

    copy = shutil.copy(corpus_folder / "documents.jsonl", tmp_path / "copy.jsonl")
    cells = [two_corpora.cells[0], Cell(name="copy", overrides={"data.corpus": f"files:{copy}"})]
    launch = resolve(dataclasses.replace(two_corpora, cells=cells), corpus_spec=corpus)
    assert launch.merged == {"copy": "words"}
    assert not launch.has_corpora


def test_plan_and_written_configs_name_each_corpus(two_corpora, corpus, numbers, tmp_path):
    launch = resolve(two_corpora, corpus_spec=corpus)
    planned = plan(launch)
    assert {cell["cell"]: cell["corpus"] for cell in planned["cells"]} == {
        "words": corpus,
        "numbers": numbers,
        "frozen": numbers,
    }
    assert planned["corpora"] == {spec: c.digest for spec, c in launch.corpora.items()}
    write_configs(launch, tmp_path)
    for name, spec in (("words", corpus), ("numbers", numbers)):
        written = TrialConfig.from_json((tmp_path / f"{name}-seed0.json").read_text())
        assert written.data.corpus == spec
        store = TokenStore.open(prepare(written.data, tmp_path / "tokens"))
        assert resolve_run(written, store) == written


def test_a_corpus_that_cannot_be_read_leaves_its_own_hashes_out(two_corpora, corpus):
    cells = [*two_corpora.cells[:1], Cell(name="gone", overrides={"data.corpus": "files:/no/x"})]
    study = dataclasses.replace(two_corpora, cells=cells)
    with pytest.raises(BadInput, match="/no/x"):
        resolve(study, corpus_spec=corpus)
    launch = resolve(study, corpus_spec=corpus, need_corpus=False)
    hashes = {p.cell: p.config_hash for p in launch.points()}
    assert hashes["words"]
    assert hashes["gone"] is None
    assert not launch.is_read


def test_rows_stand_by_corpus_and_rank_within_it(two_corpora, numbers, corpus, home, hold):
    published = {name: {"P": p} for name, p in (("words", 9.0), ("numbers", 2.0), ("frozen", 3.0))}
    study = dataclasses.replace(two_corpora, published=published)
    loss = {"words": 1.0, "numbers": 3.0, "frozen": 2.0}
    with hold(study) as session:
        finish(session, lambda record: loss[record.cell])
    launch = read_launch("two", home=home)
    table = launch.table(study)
    assert [row.corpus for row in table.rows] == [corpus, numbers, numbers]
    assert headings(table)[1] == "corpus"
    assert [cells[1].partition("@")[0] for cells in body(table)] == [
        "files:documents.jsonl",
        *["files:numbers.jsonl"] * 2,
    ]
    # Over all three cells the ranks would agree in part; on the one corpus with two they do not.
    taus = {name.partition(",")[0]: found for name, found in table.rank_correlation.items()}
    assert {found.n for found in table.rank_correlation.values()} == {1, 2}
    assert "P" in taus
    assert [row["corpus_digest"] for row in as_json(table)["rows"]] == [
        launch.info.corpora[corpus],
        *[launch.info.corpora[numbers]] * 2,
    ]
    best = table_of("two", "x", launch.trials, best_first=True)
    assert [row.cell for row in best.rows] == ["words", "frozen", "numbers"]
    front = {p.cell for p in pareto_points(launch.trials, home, metric=VAL_LOSS) if p.on_front}
    assert front == {"words", "frozen"}
    assert read_launch("two", home=home, corpus=numbers).info.name == launch.info.name
    with pytest.raises(BadInput, match="--corpus"):
        read_launch("two", home=home, corpus="stdlib")


def test_a_table_of_one_corpus_is_what_it_was(grid_study, home, hold):
    with hold(grid_study, seeds=(0,)) as session:
        finish(session, lambda record: 2.0)
    launch = read_launch("tiny-grid", home=home)
    assert "corpus" not in headings(launch.table(grid_study))
    assert all(record.corpus is None for record in launch.trials)


@pytest.mark.parametrize(
    "claim",
    [
        Better(id="C", statement="s", a="words", b="numbers"),
        LargerEffect(
            id="C",
            statement="s",
            effect=Effect(name="text", pairs=(("words", "numbers"),)),
            than=(Effect(name="router", pairs=(("numbers", "frozen"),)),),
        ),
        All(
            id="C",
            statement="s",
            parts=(
                Better(id="C.1", statement="s", a="numbers", b="frozen"),
                Better(id="C.2", statement="s", a="frozen", b="words"),
            ),
        ),
    ],
    ids=lambda claim: type(claim).__name__,
)
def test_a_claim_across_corpora_is_refused(two_corpora, corpus, claim):
    study = dataclasses.replace(two_corpora, claims=(claim,))
    with pytest.raises(BadInput, match=r"within a corpus.*words on files:"):
        resolve(study, corpus_spec=corpus)


def test_a_claim_within_a_corpus_is_judged(two_corpora, corpus):
    claim = Better(id="C", statement="s", a="numbers", b="frozen")
    resolve(dataclasses.replace(two_corpora, claims=(claim,)), corpus_spec=corpus)


def test_a_claim_made_later_across_corpora_is_undecided(two_corpora, home, hold):
    loss = {"words": 1.0, "numbers": 3.0, "frozen": 2.0}
    with hold(two_corpora, seeds=(0, 1, 2)) as session:
        finish(session, lambda record: loss[record.cell] + record.seed / 100)
    later = Better(id="C", statement="s", a="words", b="numbers")
    study = dataclasses.replace(two_corpora, claims=(later,))
    (verdict,) = read_launch("two", home=home).judgement(study).verdicts
    assert verdict.verdict == "undecided"
    assert "different text" in verdict.reason


@pytest.fixture
def corpus_search(sampled_study, numbers, corpus):
    axes = {
        "data.corpus": Choice((corpus, numbers)),
        "moe.num_experts": Choice((2, 4, 6, 8, 10, 12)),
    }
    return dataclasses.replace(sampled_study, name="texts", space=Space(axes=axes), trials=6)


def test_a_space_over_corpora_is_a_search_of_each(corpus_search, numbers, corpus, home, hold):
    with hold(corpus_search, corpus_spec=None) as session:
        digests = {p.config.data.corpus: p.config.data.digest for p in session.launch.base_points()}
        assert len(set(digests.values())) == 2
        # On the second text every loss is far lower; it gets its share of the points and no more.
        finish(session, lambda r: 0.1 if r.params["data.corpus"] == numbers else 2.0)
        drawn = [r.params["data.corpus"] for r in session.records]
        assert sorted(drawn) == sorted([corpus, numbers] * 3)
        for record in session.records:
            point = session.ledger.queue.point_of(record)
            assert point.config.data.corpus == record.params["data.corpus"]
            assert point.config.data.digest == digests[record.params["data.corpus"]]
    launch = read_launch("texts", home=home)
    rows = launch.table(corpus_search).rows
    assert [row.corpus for row in rows[:3]] == [rows[0].corpus] * 3
    assert [row.corpus for row in rows[3:]] == [rows[3].corpus] * 3 != [rows[0].corpus] * 3
    assert launch.importances() == {}


def test_early_stopping_ranks_within_a_corpus(corpus_search, numbers, hold):
    from types import SimpleNamespace

    with hold(corpus_search, corpus_spec=None) as session:
        scheduler = make_scheduler(session.launch, session.ledger)
        stopped = {}
        for _ in range(4):
            record = session.ledger.next().record
            session.ledger.started(record.number)
            easy = record.params["data.corpus"] == numbers
            job = {"number": record.number, "config": {"train": {"num_steps": 8}}}
            trial = SimpleNamespace(config={"job": job})
            loss = (0.1 if easy else 2.0) - record.number / 100  # each better than those before
            said = scheduler.on_trial_result(None, trial, {"step": 2, VAL_LOSS: loss})
            stopped.setdefault(easy, []).append(said)
    assert stopped == {True: ["CONTINUE"] * 2, False: ["CONTINUE"] * 2}


def test_a_corpus_that_would_change_nothing_is_refused(corpus_search, two_corpora, corpus, numbers):
    with pytest.raises(BadInput, match=r"--corpus changes.*data\.corpus is what this study varies"):
        resolve(corpus_search, corpus_spec=corpus)
    varied = dataclasses.replace(two_corpora, cells=two_corpora.cells[1:], baseline="numbers")
    with pytest.raises(BadInput, match="--corpus changes"):
        resolve(varied, corpus_spec=corpus)
    for study in (corpus_search, varied):  # also where it says what the scale says
        with pytest.raises(BadInput, match="--corpus changes"):
            resolve(study, corpus_spec="stdlib")
    assert resolve(varied).corpus_specs == (numbers,)
    assert resolve(varied).corpus_option is None
    assert resolve(two_corpora, corpus_spec=corpus).corpus_option == corpus


# Every axis ------------------------------------------------------------------------------------

_OTHER = {  # a value that is not the base's, where the type alone suggests none
    "data.tokenizer": {"data.tokenizer": "bpe", "data.vocab_size": 300},
    "data.sequence_labels": {"data.sequence_labels": "language"},
    "data.vocab_size": {"data.vocab_size": 310, "data.tokenizer": "bpe"},
    "model.num_heads": {"model.num_heads": 4},
    "model.context_length": {"model.context_length": 32},
    "model.ffn_multiple": {"model.ffn_multiple": 2.0, "moe.num_experts": 0},
    "moe.prefix_length": {
        "moe.prefix_length": 4,
        "moe.sequence_representation": "prefix",
        "moe.routing_unit": "sequence",
        "moe.gate": "double_softmax",
        "train.loss_start": 4,
    },
    "moe.balance_scope": {"moe.balance_scope": "sequence", "moe.balance": "switch"},
    "moe.layer_stride": {"moe.layer_stride": 2, "model.num_layers": 2},
    "train.batch_tokens": {"train.batch_tokens": 256},
    "train.micro_batch_tokens": {"train.micro_batch_tokens": 32},
}


def _cell_setting(axis, numbers):
    if axis.path == "data.corpus":
        return {axis.path: numbers}
    if axis.path in _OTHER:
        return _OTHER[axis.path]
    value = get(TINY, axis.path)
    if axis.choices:
        return {axis.path: next(choice for choice in axis.choices if choice != value)}
    if axis.type is str:
        return {axis.path: "topic"}
    if axis.type is float:
        return {axis.path: value / 2 if value else 0.25}
    return {axis.path: value + 2}


def test_no_value_of_a_cell_is_overwritten_on_its_way_to_training(
    grid_study, corpus, numbers, home, hold
):
    """For every axis: a cell that sets it trains with that value, or is refused with the reason."""
    refused = {}
    accepted = 0
    for axis in describe_axes():
        name = axis.path.replace(".", "-")
        try:
            overrides = _cell_setting(axis, numbers)
            cells = [Cell(name="base", overrides={}), Cell(name=name, overrides=overrides)]
            study = dataclasses.replace(grid_study, cells=cells, baseline="base", seeds=(3,))
            launch = resolve(study, corpus_spec=corpus)
        except (BadInput, ValueError) as error:
            refused[axis.path] = str(error)
            continue
        if name in launch.merged:  # said by `run`: the axis has no effect there
            assert launch.merged == {name: "base"}
            continue
        (point,) = [p for p in launch.points() if p.cell == name]
        sent = TrialConfig.from_dict(point.config.to_dict())  # as a job travels
        store = TokenStore.open(prepare(sent.data, home.tokens))
        trained = resolve_run(sent, store)
        assert {path: get(trained, path) for path in overrides} == overrides
        assert trained.train.seed == 3
        assert trained.data.digest == store.digest
        assert store.meta["corpus"]["spec"] == trained.data.corpus
        assert store.meta["tokenizer"]["spec"] == trained.data.tokenizer
        accepted += 1
    assert set(NOT_AN_AXIS) <= set(refused), refused
    assert accepted > len(describe_axes()) * 2 // 3, refused


def test_no_value_of_a_scale_is_overwritten(grid_study, corpus):
    pinned = overlay(TINY, {"data.digest": "0" * 16})
    study = dataclasses.replace(grid_study, scales={"smoke": pinned})
    with pytest.raises(BadInput, match=r"data\.digest is computed"):
        resolve(study, corpus_spec=corpus)
    right = resolve(grid_study, corpus_spec=corpus).points()[0].config.data.digest
    study = dataclasses.replace(grid_study, scales={"smoke": overlay(TINY, {"data.digest": right})})
    assert resolve(study, corpus_spec=corpus).points()[0].config.data.digest == right
    with pytest.raises(ValueError, match=r"train\.seed"):
        dataclasses.replace(grid_study, scales={"smoke": overlay(TINY, {"train.seed": 7})})


def test_each_tokenizer_has_its_own_tokens(grid_study, corpus, hold):
    cells = [
        Cell(name="byte", overrides={}),
        Cell(name="bpe", overrides={"data.tokenizer": "bpe", "data.vocab_size": 280}),
        Cell(name="larger", overrides={"data.tokenizer": "bpe", "data.vocab_size": 300}),
    ]
    study: Study = dataclasses.replace(grid_study, cells=cells, baseline="byte", seeds=(0,))
    with hold(study) as session:
        sizes = {}
        for point in session.launch.points():
            store = TokenStore.open(session.tokens.of(point))
            assert store.digest == point.config.data.digest
            sizes[point.cell] = store.vocab_size
        assert not session.launch.has_corpora
    assert sizes == {"byte": 257, "bpe": 280, "larger": 300}


def test_a_point_whose_text_cannot_feed_it_fails_with_the_reason(sampled_study, hold):
    """The next point is tried: a context longer than all text is no fault of the others."""
    axes = {"model.context_length": Choice((16, 16384))}
    long = overlay(TINY, {"train.batch_tokens": 16384, "train.micro_batch_tokens": 16384})
    study = dataclasses.replace(
        sampled_study, name="long", scales={"smoke": long}, space=Space(axes=axes), trials=2
    )
    with hold(study) as session:

        def make_job(assignment):
            session.tokens.of(assignment.point)
            return SimpleJob(number=assignment.record.number)

        first = session.ledger.next()
        searcher = LedgerSearcher(session.ledger, make_job, first=first, may_start=lambda: True)
        started = []
        while isinstance(suggested := searcher.suggest("x"), dict):
            number = suggested["job"]["number"]
            session.ledger.started(number)
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: 2.0}
            session.ledger.completed(number, entry, tokens=1024)
            started.append(number)
        states = {r.params["model.context_length"]: r for r in session.records}
        assert states[16].number in started
        assert states[16384].state == "failed"
        assert "model.context_length=16384" in states[16384].error


@dataclasses.dataclass
class SimpleJob:
    number: int
