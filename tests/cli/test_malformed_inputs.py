"""Whatever is typed wrongly, at any command, ends with exit code 2, one message, and no file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from orchestrator.base.home import Home
from orchestrator.stores.optuna_storage import open_storage
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import METRICS, MOE_DIGEST
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve
from orchestrator.trials.grid import distributions_of, grid_distributions
from search_spaces.axes import describe_axes

SECRET = "s3cret-pw"
HEAD = "from studies.quickstart import STUDY\nimport dataclasses\n"
SEARCH = "from studies.search import STUDY\nimport dataclasses\n"

# name: text of a study file, and what its message says
STUDY_FILES = {
    "syntax": ("STUDY = (", "SyntaxError"),
    "not utf-8": (b"STUDY = '\xff\xfe'", "must run"),
    "null bytes": (b"STUDY\x00 = 1", "must run"),
    "no STUDY": ("x = 1", "exposes STUDY"),
    "STUDY of another kind": ("STUDY = 'a study'", "is str"),
    "leaves Python": ("import sys; sys.exit(0)", "must run"),
    "missing import": ("import no_such_module", "ModuleNotFoundError"),
    "name with a path": (HEAD + "STUDY = dataclasses.replace(STUDY, name='../up')", "Rename it"),
    "name with a quote": (HEAD + "STUDY = dataclasses.replace(STUDY, name=\"a'b\")", "Rename it"),
    "scale with a path": (
        HEAD + "STUDY = dataclasses.replace(STUDY, scales={'smoke': STUDY.scales['smoke'],"
        " '../x': STUDY.scales['smoke']})",
        "a scale's name",
    ),
    "cells that raise": (
        HEAD + "def cells(base):\n    return [base.no_such_field]\n"
        "STUDY = dataclasses.replace(STUDY, cells=cells)",
        "AttributeError",
    ),
    "cells that are none": (HEAD + "STUDY = dataclasses.replace(STUDY, cells=['x'])", "Cell"),
    "no cells": (HEAD + "STUDY = dataclasses.replace(STUDY, cells=[])", "at least one"),
    "doubled cell": (
        HEAD + "from search_spaces.cells import Cell\n"
        "cells = [Cell(name='a', overrides={}), Cell(name='a', overrides={'moe.top_k': 1})]\n"
        "STUDY = dataclasses.replace(STUDY, cells=cells, claims=())",
        "once",
    ),
    "points that are none": (SEARCH + "STUDY = dataclasses.replace(STUDY, first=['x'])", "a dict"),
    "point out of the space": (
        SEARCH + "STUDY = dataclasses.replace(STUDY, first=[{'moe.top_k': 99}])", "received 99",
    ),
    "rule that raises": (
        SEARCH + "from search_spaces.space import Rule\n"
        "rule = Rule(holds=lambda c: c.nothing, reason='mine')\n"
        "of = STUDY.space\n"
        "space = lambda base: dataclasses.replace(of(base), rules=(rule,))\n"
        "STUDY = dataclasses.replace(STUDY, space=space)",
        "'mine' raised AttributeError",
    ),
    "seed that is none": (HEAD + "STUDY = dataclasses.replace(STUDY, seeds=('0',))", "seed"),
}  # fmt: skip


def late_row(text):
    """A Parquet file whose last of many rows is this: its schema says nothing of that."""
    sink, texts = io.BytesIO(), pa.array([b"some words of text"] * 1500 + [text], pa.binary())
    whole = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
    pq.write_table(pa.table({"text": whole}), sink)
    return sink.getvalue()


def archive():
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for i in range(9):
            member = tarfile.TarInfo(f"{i}.txt")
            member.size = 9
            tar.addfile(member, io.BytesIO(b"some text"))
    return sink.getvalue()


def damaged_at_its_end():
    sink = io.BytesIO()
    texts = [f"some text {i}" for i in range(1500)]
    pq.write_table(pa.table({"text": texts}), sink, row_group_size=500, use_dictionary=False)
    data = bytearray(sink.getvalue())
    at = pq.ParquetFile(sink).metadata.row_group(2).column(0).data_page_offset
    data[at + 60 : at + 90] = b"\xff" * 30
    return bytes(data)


# name: content of a corpus file, its suffix, and what its message says
CORPUS_FILES = {
    "not utf-8": (b"\xff\xfe\x00text" * 50, ".txt", "UTF-8"),
    "spaces only": (b" \n\t \n", ".txt", "at least one document"),
    "broken JSON lines": (b'{"text": "a"}\n{"text":', ".jsonl", "Mend or remove"),
    "JSON without text": (b'{"body": "a"}\n', ".jsonl", "text"),
    "text that is a number": (b'{"text": 3}\n', ".jsonl", "text"),
    "JSON lines of lists": (b"[1, 2]\n", ".jsonl", "Mend or remove"),
    "no Parquet": (b"PAR1 not really", ".parquet", "Check that"),
    "no CoNLL-U": (b"1\tword\n", ".conllu", "Add it"),
    "unknown suffix": (b"text", ".docx", "received"),
    "empty": (b"", ".txt", "is empty"),
    "NUL bytes": (b"text\0text", ".txt", "NUL bytes"),
    "UTF-16": ("text".encode("utf-16"), ".csv", "UTF-16"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", ".jsonl", "lfs pull"),
    "nested too deep": (b'{"text": "a"}\n' + b'{"n":' * 990 + b"1" + b"}" * 990, ".jsonl", "nests"),
    "huge number": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", ".jsonl", "digits"),
    "late bad line": (b'{"text": "a b c"}\n' * 3000 + b"{", ".jsonl", "line 3001"),
    "late bad row": (b"text,n\n" + b"some text,1\n" * 3000 + b"x\n", ".csv", "line 3002"),
    "late bad sentence": (
        b"# text = a b c\n1\ta\n\n" * 3000 + b"1\tb\n\n",
        ".conllu",
        "line 9001",
    ),
    "late text of Parquet": (late_row(b"\xff\xfe"), ".parquet", "valid UTF-8"),
    "late page of Parquet": (damaged_at_its_end(), ".parquet", "was copied whole"),
    "the same key twice": (b'{"text": "a", "text": "b"}\n', ".jsonl", "twice"),
    "table without a header": (
        b"one two three four five six seven eight nine,x\n" * 9,
        ".csv",
        "Add a line of names",
    ),
    "table of another delimiter": (b"text;label\na;b\n" * 9, ".csv", "semicolons"),
    "tar that was cut": (archive()[:4196], ".tar", "cut off"),
    "broken JSON array": (b'[{"text": "a"},', ".JSON", "Mend the file"),
    "JSON of a number": (b"3", ".json", "Mend the file"),
    "open quote": (b'text\n"never closed\n', ".tsv", "Mend the quotes"),
    "no tar": (b"no tar" * 200, ".tar", "Check that"),
    "no Arrow": (b"no arrow" * 200, ".arrow", "Check that"),
    "no Zstandard": (b"no zstd" * 200, ".jsonl.zst", "Check its permissions"),
    "two columns of text": (
        b'{"a": "one two three four five", "b": "one two three four five"}\n',
        ".jsonl",
        "data.text_column=NAME",
    ),
    "one document": (b"a single document that cannot be split", ".txt", "split"),
}

# what stands for --set, and what its message says
OVERRIDES = {
    "no section": ("num_layers=2", "model.num_layers"),
    "empty path": ("=2", "PATH=VALUE"),
    "empty value": ("model.num_layers=", "integer"),
    "a path as path": ("../../etc/passwd=1", "received"),
    "float for integer": ("model.num_layers=2.5", "integer"),
    "infinite": ("optim.learning_rate=inf", "finite"),
    "not a number": ("optim.learning_rate=nan", "finite"),
    "beyond a float": ("optim.learning_rate=1e999", "finite"),
    "negative": ("model.d_model=-4", "at least 1"),
    "huge integer": ("model.d_model=" + "9" * 5000, "received"),
    "missing tokenizer": ("data.tokenizer=tokenizer:/nowhere.json", "received"),
    "tokenizer with quotes": ("data.tokenizer=o'x\"; DROP TABLE studies;--", "received"),
    "text column that is none": ("data.text_column=body", "has the columns text"),
    "text column inside none": ("data.text_column=text.body", "has the columns text"),
    "sequence labels that are none": ("data.sequence_labels=mood", "received 'mood'"),
    "digest by --set": ("data.digest=abc", "--corpus"),
    "surrogate": ("train.precision=\udcff", "text in UTF-8"),
    "indivisible heads": ("model.num_heads=7", "must divide"),
}


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cases(folder, corpus, recorded, port):
    """{name: (arguments, what the message says)}"""
    run = ("run", "quickstart", "--corpus", corpus)
    read = ("--home", recorded)
    found = {}
    for name, (text, expected) in STUDY_FILES.items():
        path = written(folder, f"{name.replace(' ', '_')}.py", text)
        found[f"study file: {name}"] = (("run", path, "--corpus", corpus), expected)
    for name, (content, suffix, expected) in CORPUS_FILES.items():
        path = written(folder, f"corpus {name}{suffix}", content)
        found[f"corpus: {name}"] = (("run", "quickstart", "--corpus", f"files:{path}"), expected)
        if name.endswith("of Parquet"):  # found when its text is counted
            plan = ("plan", "quickstart", "--corpus", f"files:{path}")
            found[f"plan of a corpus: {name}"] = (plan, expected)
    for name, (text, expected) in OVERRIDES.items():
        found[f"--set: {name}"] = ((*run, "--set", text), expected)
        if name.startswith(("surrogate", "no section")):
            found[f"plan --set: {name}"] = (("plan", "quickstart", "--set", text), expected)
    not_a_database = written(folder, "text.db", "this is a text file\n" * 100)
    truncated = written(folder, "truncated.db", (recorded / "optuna.db").read_bytes()[:5000])
    old = folder / "old.db"
    old.write_bytes((recorded / "optuna.db").read_bytes())
    import sqlite3

    with contextlib.closing(sqlite3.connect(old)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'v3.0.0.a'")
    journal = written(folder, "journal.log", "no journal\n")
    foreign = folder / "foreign.db"
    with contextlib.closing(sqlite3.connect(foreign)) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num text)")
    pg = f"postgresql://moe:{SECRET}@127.0.0.1"
    storages = {
        "no scheme": ("optuna.db", "Use one of these"),
        "empty": ("", "Use one of these"),
        "mysql": (f"mysql://moe:{SECRET}@h/x", "Use one of these"),
        "redis": (f"redis://:{SECRET}@h/0", "Use one of these"),
        "closed port": (f"{pg}:{port}/x", "nothing answers"),
        "port that is none": (f"{pg}:port/x", "with a port"),
        "port too high": (f"{pg}:99999/x", "with a port"),
        "bracket": (f"postgresql://moe:{SECRET}@[::1/x", "HOST:PORT"),
        "spaces": (f"postgresql://moe:a {SECRET}@127.0.0.1:{port}/x", "nothing answers"),
        "slash in the password": (f"postgresql://moe:a/{SECRET}@127.0.0.1/x", "HOST:PORT"),
        "password in the query": (
            f"postgresql://127.0.0.1:{port}/x?user=moe&password={SECRET}", "nothing answers"
        ),
        "socket": (f"postgresql://moe:{SECRET}@/x?host=/nowhere", "nothing answers at the socket"),
        "folder": (f"sqlite:///{folder}", "received"),
        "missing folder": ("sqlite:////nowhere/x.db", "folder that exists"),
        "sqlite with a query": (f"sqlite:///{folder}/x.db?timeout=5", "received"),
        "text file": (f"sqlite:///{not_a_database}", "not a database"),
        "truncated": (f"sqlite:///{truncated}", "received"),
        "of an old Optuna": (f"sqlite:///{old}", "upgrade"),
        "of another program": (f"sqlite:///{foreign}", "another program's"),
        "no journal": (f"journal:{journal}", "not the log"),
        "journal without a name": ("journal:", "received"),
    }  # fmt: skip
    for name, (url, expected) in storages.items():
        found[f"storage: {name}"] = ((*run, "--optuna-storage", url), expected)
        if name in ("text file", "truncated", "of an old Optuna", "no journal", "closed port"):
            options = ("--optuna-storage", url, "--home", recorded)
            found[f"status of a storage: {name}"] = (("status", "quickstart", *options), expected)
    trackings = {
        "no scheme": ("mlflow.db", "received"),
        "closed port": (f"http://moe:{SECRET}@127.0.0.1:{port}", "nothing answers"),
        "no host": (f"http://moe:{SECRET}@", "nothing answers"),
        "bad host": (f"http://moe:{SECRET}@\udcff:{port}", "text in UTF-8"),
        "databricks": ("databricks", "received"),
        "text file": (f"sqlite:///{not_a_database}", "cannot be used"),
        "sqlite with a query": (f"sqlite:///{folder}/x.db?a=b", "received"),
    }
    for name, (uri, expected) in trackings.items():
        found[f"MLflow: {name}"] = ((*run, "--mlflow-uri", uri), expected)
        found[f"deliver to MLflow: {name}"] = (("deliver", *read, "--mlflow-uri", uri), expected)
    bad_result = folder / "results" / "one"
    bad_result.mkdir(parents=True)
    written(bad_result, "result.json", "[1, 2]")
    wrong_types = folder / "wrong types" / "one"
    wrong_types.mkdir(parents=True)
    keys = ("config_hash", "moe_digest", "status", "error", "metrics", "curve", "late_metrics")
    written(wrong_types, "result.json", json.dumps(dict.fromkeys((*keys, "tokens"), 1)))
    nothing, linked = folder / "nothing", folder / "linked"
    nothing.mkdir()
    linked.mkdir()
    link = linked / "link.txt"
    link.symlink_to("nowhere.txt")
    table = written(folder, "probe.tsv", "text\tlabel\na\tb\n")
    for name, arguments, expected in (
        ("status: no launch of the study", ("status", "search", *read), "launches here are"),
        ("status: another scale", ("status", "quickstart", "--scale", "paper", *read), "launches"),
        ("status: missing home", ("status", "quickstart", "--home", folder / "no"), "not exist"),
        ("status: home is a file", ("status", "quickstart", "--home", table), "received"),
        ("table: format", ("table", "quickstart", "--format", "xml", *read), "markdown, csv"),
        ("table: --set", ("table", "quickstart", "--set", "moe.topk=1", *read), "moe.top_k"),
        ("claims: unknown study", ("claims", "quickstrat", *read), "quickstart"),
        ("claims: missing home", ("claims", "quickstart", "--home", folder / "no"), "not exist"),
        ("analyze: no probe", ("analyze", "quickstart", *read), "--probe"),
        ("analyze: unknown probe", ("analyze", "quickstart", "--probe", "x:y", *read), "complete"),
        ("analyze: nothing trained", (
            "analyze", "quickstart", "--probe", f"table:{table}:text:label", *read), "complete"),
        ("analyze: --permutations", (
            "analyze", "quickstart", "--probe", "corpus:topic", "--permutations", "0", *read),
            "at least 1"),
        ("ingest: missing folder", ("ingest", "quickstart", folder / "no", *read), "received"),
        ("ingest: no result", (
            "ingest", "quickstart", folder / "results", "--corpus", corpus), "result.json"),
        ("ingest: wrong types", (
            "ingest", "quickstart", folder / "wrong types", "--corpus", corpus), "result.json"),
        ("deliver: missing home", ("deliver", "--home", folder / "no"), "not exist"),
        ("plan: configs into a file", (
            "plan", "quickstart", "--corpus", corpus, "--write-configs", table), "received"),
        ("plan: configs of a sampled study", (
            "plan", "search", "--corpus", corpus, "--write-configs", folder / "new"), "grid"),
        ("run: no study", ("run",), "STUDY"),
        ("run: unknown option", (*run, "--sedes", "0"), "--seeds"),
        ("run: workers that are text", (*run, "--workers", "two"), "integer"),
        ("run: GPUs that are none", (*run, "--gpus-per-worker", "nan"), "--gpus-per-worker"),
        ("run: negative GPUs", (*run, "--gpus-per-worker", "-1"), "--gpus-per-worker"),
        ("run: failures", (*run, "--max-failures", "-1"), "--max-failures"),
        ("run: concurrency", (*run, "--concurrency", "0"), "--concurrency"),
        ("run: empty seeds", (*run, "--seeds", ""), "whole numbers"),
        ("run: negative seed", (*run, "--seeds", "-1"), "whole numbers"),
        ("run: huge seed", (*run, "--seeds", "9" * 5000), "below"),
        ("run: other digits", (*run, "--seeds", "٣"), "whole numbers"),
        ("run: address", (*run, "--address", f"moe:{SECRET}@nowhere:port"), "--address"),
        ("run: address with a scheme", (*run, "--address", f"ftp://h:{port}"), "--address"),
        ("run: home with a query", (*run, "--home", folder / "a?b"), "home"),
        ("run: home with braces", (*run, "--home", folder / "{a}"), "home"),
        ("run: home with a percent", (*run, "--home", folder / "a%20b"), "home"),
        ("run: hub that is none", ("run", "quickstart", "--corpus", "hub:../../etc"), "is neither"),
        ("run: empty glob", ("run", "quickstart", "--corpus", "files:"), "stdlib"),
        ("run: folder without text", (
            "run", "quickstart", "--corpus", f"files:{nothing}"), "holds none of a kind"),
        ("run: link to nowhere", ("run", "quickstart", "--corpus", f"files:{link}"), "a link to"),
        ("run: folder with such a link", (
            "run", "quickstart", "--corpus", f"files:{link.parent}"), "a link to"),
        ("run: study is a folder", ("run", f"{folder}/"), "study file"),
        ("unknown command", ("runn", "quickstart"), "runn"),
    ):  # fmt: skip
        found[name] = (arguments, expected)
    return found


def tree(folder):
    """Every path under a folder, with the digest of what it holds."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, corpus, mlflow_template):
    """A home with a launch of quickstart: one trial complete, by the record, without weights."""
    home = Home(tmp_path_factory.mktemp("recorded"))
    home.create()
    (home.root / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    launch = resolve(load_study("quickstart"), corpus_spec=corpus)
    storage = open_storage(home.optuna_storage, create=True)
    store = OptunaTrials.open(storage, launch, now=datetime.now(UTC))
    points = launch.points()
    distributions = grid_distributions(points)
    made = store.add_waiting(points[0], distributions=distributions_of(points[0], distributions))
    store.set_state(made.trial_id, TrialState.RUNNING)
    store.set_attributes(made.trial_id, {MOE_DIGEST: "code", METRICS: {}})
    store.set_state(made.trial_id, TrialState.COMPLETE, 2.0)
    return home.root


@pytest.fixture(scope="module")
def world(tmp_path_factory, corpus, recorded):
    """All malformed inputs, beside where they could leave a file."""
    folder = tmp_path_factory.mktemp("malformed")
    for name in ("inputs", "tmp", "user", "here"):
        (folder / name).mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return folder, cases(folder / "inputs", corpus, recorded, port), port


@pytest.fixture
def refused(world, recorded, moe_study, monkeypatch):
    """Calls a command that must be refused; returns its message."""
    folder = world[0]
    monkeypatch.chdir(folder / "here")
    monkeypatch.setenv("HOME", str(folder / "user"))
    monkeypatch.setenv("TMPDIR", str(folder / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    monkeypatch.setenv("MOE_STUDY_HOME", str(folder / "home"))
    before = tree(folder) | tree(recorded)

    def call(*arguments, may_succeed=False):
        code, out, err = moe_study(*arguments)
        if code == 0 and may_succeed:
            return ""
        message = " ".join(err.split())
        assert "Traceback" not in err, err[-300:]
        assert (code, out) == (2, ""), err[-300:]
        assert err.count("moe-study: ") == 1, err[-300:]
        assert SECRET not in err
        left = tree(folder) | tree(recorded)
        assert [path for path in before | left if before.get(path, "") != left.get(path, "")] == []
        return message

    return call


def case_names():
    """Without the files: their names are what the cases are parametrised by."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "optuna.db").touch()
        import sqlite3

        with contextlib.closing(sqlite3.connect(f"{folder}/optuna.db")) as database, database:
            database.execute("CREATE TABLE alembic_version (version_num text)")
        return [*cases(Path(folder), "", Path(folder), 1)]


NAMES = case_names()


def test_there_are_more_than_fifty_kinds():
    assert len(NAMES) > 50


@pytest.mark.parametrize("name", NAMES)
def test_malformed_input_is_one_message_and_nothing_made(name, world, refused):
    arguments, expected = world[1][name]
    assert expected in refused(*arguments)


# Anything that a shell can pass: no NUL; single surrogates stand for bytes that are no UTF-8.
TEXT = st.text(st.characters(exclude_characters="\0"), max_size=40)
PATHS = st.one_of(st.sampled_from([axis.path for axis in describe_axes()]), TEXT)
NUMBERS = st.one_of(st.integers(), st.floats()).map(str)
FUZZ = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(path=PATHS, value=st.one_of(TEXT, NUMBERS), seeds=st.one_of(TEXT, NUMBERS))
@example(path="model.context_length", value="9" * 400, seeds="0")
@example(path="train.num_steps", value=str(10**30), seeds="0")
@example(path="moe.label_column", value="' OR 1=1 --", seeds="0")
def test_paths_values_and_seeds_of_any_kind(refused, path, value, seeds):
    refused("plan", "search", "--set", f"{path}={value}", "--json", may_succeed=True)
    refused("plan", "search", f"--seeds={seeds}", "--json", may_succeed=True)


@st.composite
def urls(draw):
    """Addresses with a piece or two wrong; a port that nobody listens at stands as PORT."""
    scheme = draw(st.sampled_from(["postgresql", "postgresql+psycopg", "http", "https", "ftp"]))
    user = draw(st.one_of(st.just(""), TEXT.map(lambda text: f"{text}:{SECRET}{text}@")))
    host = draw(st.sampled_from(["127.0.0.1", "[::1]", "[", "", "..", "a" * 70]))
    port = draw(st.sampled_from([":PORT", ":99999", ":-1", ":x", ":PORT:1"]))
    return f"{scheme}://{user}{host}{port}/{draw(TEXT)}"


@FUZZ
@given(url=st.one_of(urls(), TEXT.map("sqlite:///no-folder/{}".format), TEXT))
@example(url="sqlite:///")
@example(url="sqlite:////")
@example(url="journal:/")
@example(url="http://")
def test_addresses_of_any_kind(refused, world, recorded, url):
    url = url.replace("PORT", str(world[2]))
    refused("status", "quickstart", "--home", recorded, f"--optuna-storage={url}")
    refused("deliver", "--home", recorded, f"--mlflow-uri={url}")


@FUZZ
@given(spec=st.one_of(TEXT, TEXT.map("files:{}".format), TEXT.map("stdlib:{}".format)))
@example(spec="")
@example(spec="files:" + "a" * 300)
@example(spec="files:[")
@example(spec="files:**/../**/x")
def test_corpora_and_probes_of_any_kind(refused, recorded, spec):
    refused("run", "search", f"--corpus={spec}")
    refused("analyze", "quickstart", "--home", recorded, f"--probe={spec}")
    refused("status", f"./{spec}", "--home", recorded)
