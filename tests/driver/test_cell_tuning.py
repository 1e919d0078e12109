"""A grid whose cells are tuned: in two launches, of which the second goes by what the first chose,
whatever is killed, and read the same everywhere."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import contextmanager

import numpy as np
import optuna
import pytest
from mlflow.tracking import MlflowClient

from moe.metrics import DEVICE_S, VAL_LOSS
from orchestrator.archive import container
from orchestrator.archive.archived_launch import pack, read, records_of
from orchestrator.archive.export_launch import export_launch
from orchestrator.archive.import_launch import import_launch
from orchestrator.base.errors import BadInput, StudyError
from orchestrator.base.home import Home
from orchestrator.driver.cell_tuning import to_be_tuned, tuned
from orchestrator.driver.options import Options
from orchestrator.driver.session import opened
from orchestrator.report.edited_study import edit_line
from orchestrator.report.records import read_launch
from orchestrator.report.table_columns import columns_of
from orchestrator.report.table_text import as_json, footnotes
from orchestrator.stores.optuna_launches import launches_in
from orchestrator.stores.optuna_storage import open_storage
from orchestrator.study import Better, Sequential
from orchestrator.study.chosen_values import TUNED, Choices
from orchestrator.study.resolve import resolve
from orchestrator.trials.spending import Limits
from search_spaces.cells import Cell

RATE = "optim.learning_rate"
RATES = (0.002, 0.004, 0.008, 0.016)
BEST = {"dense": 0.004, "learned": 0.008, "frozen": 0.016}  # in truth; frozen's at the end
CHOSEN = {name: {RATE: rate} for name, rate in BEST.items()}
CELLS = [
    Cell(name="dense", overrides={"moe.num_experts": 0}),
    Cell(name="learned", overrides={"moe.router": "learned"}),
    Cell(name="frozen", overrides={"moe.router": "frozen"}),
    Cell(name="own", overrides={"moe.router": "random", RATE: 0.001}),
]


@pytest.fixture
def study(grid_study):
    return dataclasses.replace(
        grid_study, name="mine", cells=CELLS, tune={RATE: RATES}, tune_seeds=(70, 71)
    )


def loss_of(point):
    """Worse the further the rate is from the cell's best; None where that is far above it."""
    name, rate = point.cell.partition("-lr")[0], point.config.optim.learning_rate
    off = np.log2(rate / BEST.get(name, 0.001))
    if off >= 2:
        return None
    noise = np.random.default_rng([point.seed, *name.encode()]).normal(0, 0.002)
    return float(3.0 - 0.1 * (name != "dense") + 0.2 * abs(off) + noise)


def work(session, most=None, loss=loss_of):
    """As many trials as are left, or `most`: the hashes of those that were trained."""
    done = []
    while (most is None or len(done) < most) and (assignment := session.ledger.next()):
        number, point = assignment.record.number, assignment.point
        session.ledger.started(number)
        value = loss(point)
        if value is None:
            session.ledger.failed(number, "it diverged", tokens=512, diverged_at=4)
        else:
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: value}
            session.ledger.completed(number, {**entry, DEVICE_S: 2.0}, tokens=1024)
        done.append(point.config_hash)
    return done


@pytest.fixture
def tuning(corpus, home, said):
    """A context manager: the launch that tries the values of a study, held."""

    @contextmanager
    def hold_tuning(study, *, options=None, **asked):
        options = Options(**{"home": home, **(options or {})})
        launch = resolve(study, **{"corpus_spec": corpus, **asked})
        found = to_be_tuned(launch, options.storage_url, retry_failed=options.retry_failed)
        assert found is not None
        with opened(found, options, say=said.append, start_cluster=False) as session:
            yield session

    return hold_tuning


@pytest.fixture
def left(corpus, home):
    def to_tune(study, **asked):
        return to_be_tuned(resolve(study, corpus_spec=corpus, **asked), home.optuna_storage)

    return to_tune


def given(session):
    return {cell.name: cell.overrides[RATE] for cell in session.launch.cells}


def test_each_cell_is_judged_with_its_own_best(study, tuning, hold, said, home, left):
    with tuning(study) as session:
        assert len(work(session)) == 3 * 4 * 2
        assert {record.seed for record in session.records} == {70, 71}
        assert session.launch.name.startswith("mine-tuning/smoke/")
    assert left(study) is None
    said.clear()
    with hold(study) as session:
        assert len(work(session)) == 8
        assert given(session) == {**BEST, "own": 0.001}
        assert {record.seed for record in session.records} == {0, 1}
        assert {r.cell: r.params[RATE] for r in session.records} == given(session)
        assert session.info.attributes[TUNED]["untuned"] == ["own"]
        assert session.exit_code == 0
    (line,) = [line for line in said if line.startswith("tuned: dense has")]
    assert f"{RATE}=0.016: diverged at seed 70, 71" in line
    assert any("of frozen is the largest that was tried: 0.016" in line for line in said)
    assert sum("that was tried" in line for line in said) == 1
    launch = read_launch("mine", home=home)
    assert edit_line(study, launch.info, launch.trials) is None
    table = launch.table(study)
    assert RATE.partition(".")[2] in {column.name for column in columns_of(table)}
    (told,) = [line for line in footnotes(table) if line.startswith("Tuned: ")]
    assert "seeds 70, 71, which are not judged" in told
    assert f"dense {RATE}=0.004; learned {RATE}=0.008" in told
    assert launch.tuned_paths == {RATE}


def test_the_identity_of_a_cell_is_that_of_its_tuned_configuration(study, tuning, hold, corpus):
    with tuning(study) as session:
        work(session)
    with hold(study) as session:
        ours = {(p.cell, p.seed): p.config_hash for p in session.launch.points()}
    written = [
        dataclasses.replace(cell, overrides={**cell.overrides, RATE: BEST[cell.name]})
        for cell in CELLS[:3]
    ]
    plain = dataclasses.replace(study, tune={}, tune_seeds=(), cells=written)
    for point in resolve(plain, corpus_spec=corpus).points():
        assert ours[point.cell, point.seed] == point.config_hash


@pytest.mark.parametrize("kills", [(0, 5), (5, 11, 20)])
def test_a_kill_changes_nothing_and_nothing_is_trained_twice(
    study, tuning, hold, tmp_path, mlflow_template, corpus, kills
):
    """Killed in the tuning, between both, and among the judged trials."""
    found = {}
    for name, stops in (("whole", ()), ("killed", kills)):
        (tmp_path / name).mkdir()
        shutil.copy(mlflow_template, tmp_path / name / "mlflow.db")
        options = {"home": Home(tmp_path / name)}
        trained = []
        for most in stops:
            with tuning(study, options=options) as session:
                trained += work(session, most - len(trained))
                session.ledger.next()  # handed out, and lost
        with tuning(study, options=options) as session:
            trained += work(session)
        if stops:
            with hold(study, options=options):
                pass  # chosen, and killed before any trial
            with hold(study, options=options) as session:
                trained += work(session, 3)
                session.ledger.next()
        with hold(study, options=options) as session:
            trained += work(session)
            found[name] = (
                session.info.attributes[TUNED]["cells"],
                [(r.cell, r.seed, r.config_hash, r.value) for r in session.records],
            )
        assert len(trained) == len(set(trained)) == 24 + 8
    assert found["whole"] == found["killed"]


def test_what_was_chosen_stands_without_the_trials_that_it_was_chosen_by(
    study, tuning, hold, home, left
):
    with tuning(study) as session:
        work(session)
        name = session.launch.name
    with hold(study) as session:
        chosen = given(session)
    optuna.delete_study(study_name=name, storage=home.optuna_storage)
    assert left(study) is None
    assert left(study, seeds=(0, 1, 2)) is None
    with hold(study, seeds=(0, 1, 2)) as session:
        assert len(work(session)) == 12
        assert given(session) == chosen


def test_seeds_that_claims_ask_for_have_the_same_values(study, tuning, hold):
    study = dataclasses.replace(
        study,
        design=Sequential(max_seeds=6),
        seeds=(0, 1, 2),
        claims=(Better(id="easy", statement="s", a="learned", b="dense"),),
    )
    with tuning(study) as session:
        work(session)
    with hold(study, options={"until_decided": True}) as session:
        work(session)
        rates = {(r.cell, r.params[RATE]) for r in session.records}
        assert rates == {*BEST.items(), ("own", 0.001)}
        assert not {r.seed for r in session.records} & {70, 71}


def test_nothing_is_judged_before_the_tuning_is_at_its_end(study, tuning, hold, home, tmp_path):
    with pytest.raises(BadInput, match="this home has none of it"), hold(study):
        pass
    assert not (home.root / "optuna.db").exists()
    with tuning(study) as session:
        work(session, 20)
    refused = pytest.raises(BadInput, match=r"4 of its trials have yet to be trained. `moe-study")
    with refused, hold(study):
        pass
    names = [info.study for info in launches_in(open_storage(home.optuna_storage, create=False))]
    assert names == ["mine-tuning"]


def test_a_cell_of_which_no_value_trains_is_named_and_may_be_tried_again(study, tuning, hold, left):
    def lost(point):
        return None if point.cell.startswith("learned") else loss_of(point)

    with tuning(study) as session:
        work(session, loss=lost)
    assert left(study) is None
    refused = pytest.raises(StudyError, match="of learned none was trained to its end")
    with refused as found, hold(study):
        pass
    assert found.value.exit_code == 1
    with tuning(study, options={"retry_failed": True}) as session:
        work(session)
    with hold(study) as session:
        assert given(session)["learned"] == 0.008


def test_a_longer_list_is_asked_anew_and_only_what_it_adds_is_trained(
    study, tuning, hold, home, left
):
    """The caution says to add a value: the same command does what is missing."""
    BEST["frozen"] = 0.032
    try:
        with tuning(study) as session:
            work(session)
        with hold(study) as session:
            work(session)
            assert given(session)["frozen"] == 0.016
        longer = dataclasses.replace(study, tune={RATE: (*RATES, 0.032)})
        launch = read_launch("mine", home=home)
        assert "it tunes" in edit_line(longer, launch.info, launch.trials)
        with tuning(longer) as session:
            assert len(work(session)) == 6
        with hold(longer) as session:
            assert len(work(session)) == 2, "the cells that have what they had are trained"
            assert given(session) == {**BEST, "own": 0.001}
        older = [r for r in read_launch("mine", home=home).trials if r.is_older]
        assert {r.cell for r in older} == {f"frozen ({RATE}=0.016)"}
    finally:
        BEST["frozen"] = 0.016


def test_a_further_cell_is_tuned_alone(study, tuning, hold, left):
    fewer = dataclasses.replace(study, cells=[*CELLS[:2], CELLS[3]])
    with tuning(fewer) as session:
        work(session)
    with hold(fewer) as session:
        work(session)
    with tuning(study) as session:
        assert {cell.name.partition("-lr")[0] for cell in session.launch.cells} == {"frozen"}
        assert len(work(session)) == 8
    with hold(study) as session:
        assert len(work(session)) == 2
        assert given(session) == {**BEST, "own": 0.001}
        assert list(session.info.attributes[TUNED]["cells"]) == ["dense", "learned", "frozen"]


def test_a_seed_that_was_judged_before_is_none_to_tune_on(study, tuning, hold):
    plain = dataclasses.replace(study, tune={}, tune_seeds=())
    with hold(plain, seeds=(0, 70)) as session:
        work(session)
    with pytest.raises(BadInput, match="received 70 among both"), tuning(study):
        pass  # before it is paid for


def test_a_study_that_tunes_no_more_has_its_cells_as_they_are(study, tuning, hold, home):
    with tuning(study) as session:
        work(session)
    with hold(study) as session:
        work(session)
    with hold(dataclasses.replace(study, tune={}, tune_seeds=())) as session:
        assert len(work(session)) == 6
    launch = read_launch("mine", home=home)
    assert launch.origin_lines() == []
    assert Choices.of(launch.info.attributes) is None


def test_a_tuning_counts_within_the_limits_of_its_launch(study, tuning, hold):
    with tuning(study) as session:
        work(session)
        spent = sum(record.tokens for record in session.records)
    tokens = {"limits": Limits(tokens=spent + 2 * 1024)}
    with hold(study, options=tokens) as session:
        assert len(work(session)) == 2
        assert f"{spent + 2048:,} are spent" in str(session.left_out)
    hours = {"limits": Limits(device_s=1.0)}
    with hold(study, options=hours) as session:
        assert work(session) == []


def test_a_file_brings_the_choice_with_it(study, tuning, hold, home, tmp_path, corpus):
    with tuning(study) as session:
        work(session)
    with hold(study) as session:
        work(session)
    here = read_launch("mine", home=home)
    file = tmp_path / "mine.moe-study"
    container.write(file, pack(export_launch(here, MlflowClient(home.mlflow_uri))))

    def shown(launch):
        table = as_json(launch.table(study))
        rows = [{k: v for k, v in row.items() if k != "run_ids"} for row in table["rows"]]
        return rows, footnotes(launch.table(study))

    with records_of(read(file)) as archived:
        assert shown(archived) == shown(here)
    other = Home(tmp_path / "other")
    import_launch(read(file), other, say=lambda line: None)
    assert shown(read_launch("mine", home=other)) == shown(here)
    launch = resolve(study, corpus_spec=corpus)
    assert to_be_tuned(launch, other.optuna_storage) is None
    with hold(study, seeds=(0, 1, 2), options={"home": other}) as session:
        assert len(work(session)) == 4
        assert given(session) == {**BEST, "own": 0.001}

    third = {"home": Home(tmp_path / "third")}
    with tuning(study, options=third) as session:
        work(session, loss=lambda point: 3.0 - point.config.optim.learning_rate)
    with hold(study, options=third):
        pass
    with pytest.raises(BadInput, match=r"has dense with .*0\.016 here and .*0\.004 in the file"):
        import_launch(read(file), third["home"], say=lambda line: None)


FILE = """
from orchestrator.study import Study
from search_spaces.cells import Cell
from tests.fixtures.studies import TINY

STUDY = Study(
    name="mine", question="?", baseline="dense", held_fixed="the rest", scales={"smoke": TINY},
    cells=[
        Cell(name="dense", overrides={"moe.num_experts": 0}),
        Cell(name="learned", overrides={"moe.router": "learned"}),
        Cell(name="frozen", overrides={"moe.router": "frozen"}),
        Cell(name="own", overrides={"moe.router": "random", "optim.learning_rate": 0.001}),
    ],
    tune={"optim.learning_rate": (0.002, 0.004, 0.008, 0.016)}, tune_seeds=(70, 71), seeds=(0, 1),
)
"""


@pytest.fixture
def where(home, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.driver.tune_loop.run", work)
    monkeypatch.setattr("orchestrator.driver.publish.publish", lambda session: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    return "--home", home.root, "--corpus", corpus


def test_one_command_does_both_and_every_command_reads_the_same(where, home, moe_study):
    code, out, err = moe_study("plan", "mine.py", *where, "--json")
    assert code == 0, err
    planned = json.loads(out)
    assert (planned["trials"], planned["tuning"]["trials"]) == (8, 24)
    assert planned["tuning"]["chosen"] is None
    assert "come first; with what is judged 32 trials" in moe_study("plan", "mine.py", *where)[1]

    code, out, err = moe_study("run", "mine.py", *where, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert {n: c["values"] for n, c in told["tuning"]["cells"].items()} == CHOSEN
    assert told["states"]["complete"] == len(told["trials"]) == 8
    assert err.count("tuned: ") == 3
    assert "tuning first: mine-tuning/smoke/" in err
    code, out, err = moe_study("run", "mine.py", *where)
    assert code == 0
    assert "tuning first" not in err

    planned = json.loads(moe_study("plan", "mine.py", *where, "--json")[1])
    chosen = {cell["cell"]: cell["overrides"][RATE] for cell in planned["cells"]}
    assert chosen == {**BEST, "own": 0.001}
    assert planned["tuning"]["chosen"]["tokens"] > 0
    trials = json.loads(moe_study("status", "mine.py", *where[:2], "--json")[1])["trials"]
    assert {trial["cell"]: trial["params"][RATE] for trial in trials} == chosen
    code, out, _ = moe_study("table", "mine.py", *where[:2])
    assert code == 0
    assert "which are not judged" in out
    for name in ("mine-tuning", "mine.py-tuning"):
        code, out, err = moe_study("table", name, *where[:2], "--format", "json")
        assert code == 0, err
        assert "edited" not in err
        assert len(json.loads(out)["rows"]) == 12
    assert moe_study("table", "none-tuning", *where[:2])[0] == 2


def test_configs_of_the_tuning_are_written_first_then_those_of_the_cells(
    where, moe_study, tmp_path
):
    code, _, err = moe_study("plan", "mine.py", *where, "--write-configs", "first")
    assert code == 0, err
    assert "they are those of mine-tuning" in err
    assert len(list((tmp_path / "first").iterdir())) == 24
    assert moe_study("run", "mine.py", *where)[0] == 0
    assert moe_study("plan", "mine.py", *where, "--write-configs", "then")[0] == 0
    config = json.loads((tmp_path / "then" / "learned-seed1.json").read_text())
    assert config["optim"]["learning_rate"] == BEST["learned"]
    assert len(list((tmp_path / "then").iterdir())) == 8


def test_what_follows_a_tuning_is_refused_before_it_is_paid_for(where, home, moe_study):
    code, _, err = moe_study("run", "mine.py", *where, "--until-decided")
    assert code == 2
    assert "--until-decided adds seeds" in err
    assert not (home.root / "optuna.db").exists()


def test_a_budget_that_ends_within_the_tuning_is_said_and_a_larger_one_goes_on(where, moe_study):
    code, out, err = moe_study("run", "mine.py", *where, "--max-tokens", 10 * 1024, "--json")
    assert "stopped by --max-tokens" in err
    assert json.loads(out)["study"] == "mine-tuning"
    code, out, err = moe_study("run", "mine.py", *where, "--json")
    assert code == 0
    assert json.loads(out)["study"] == "mine"


def test_both_choices_are_one_function_of_the_record(study, tuning, home, corpus):
    with tuning(study) as session:
        work(session)
    launch = resolve(study, corpus_spec=corpus)
    first, again = (tuned(launch, home.optuna_storage)[1] for _ in range(2))
    assert first == again
    assert first.values == CHOSEN
