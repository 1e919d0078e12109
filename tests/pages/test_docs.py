"""The documentation is true: its commands run, its queries answer, its links lead somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from orchestrator.cli.parameters import app

ROOT = Path(__file__).parents[2]
_REFERENCE = runpy.run_path(str(ROOT / "docs" / "reference.py"))
PAGES, renewed = _REFERENCE["PAGES"], _REFERENCE["renewed"]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Only parsed here, each with the test that runs it.
ONLY_PARSED = {
    "ui": "tests/pages/test_browser.py",
    "compare": "tests/report/test_comparison.py",
    "ingest": "tests/driver/test_ingest.py",
    "deliver": "tests/stores/test_mlflow_server.py",
    "submit": "tests/cluster/test_submit.py",
    "recommend": "tests/driver/test_recommending.py",
}
CLUSTER_OPTIONS = ("--address", "--workers", "--gpus-per-worker")


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)


def commands():
    """Of the tutorial and then the README, each once, in their order."""
    lines = [
        line for text in blocks(ROOT / "docs/tutorial.md", "console") for line in text.splitlines()
    ]
    lines += re.findall(r"^    (moe-study .*)$", (ROOT / "README.md").read_text("utf-8"), re.M)
    lines += [x for text in blocks(ROOT / "docs/studies.md", "console") for x in text.splitlines()]
    return list(dict.fromkeys(lines))


def words_of(line):
    words = shlex.split(line, comments=True)
    assert words[0] == "moe-study", line
    return words[1:]


def parse(words):
    """Raises where the command or one of its options does not exist."""
    group = get_command(app)
    group.commands[words[0]].make_context(words[0], list(words[1:]))


def made_small(words, small):
    """`run` with a small model; what the line itself sets stays as it is."""
    own = {word.partition("=")[0] for word in words}
    kept = [re.sub(r"^train.num_steps=.*", "train.num_steps=12", word) for word in words]
    if "--trials" in kept:
        kept[kept.index("--trials") + 1] = "3"
    for setting in small[1::2]:
        if setting.partition("=")[0] not in own:
            kept += ["--set", setting]
    kept += ["--concurrency", "1"]  # one process for all trials: each more takes seconds to start
    return kept if "--seeds" in kept else [*kept, "--seeds", "0"]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("no_pdf")
def test_the_commands_of_readme_and_tutorial(
    tmp_path, monkeypatch, mlflow_template, ray_cluster, moe_study, small
):
    """In one folder, as a newcomer would; only the sizes are smaller, and `make` is left out."""
    import shutil

    monkeypatch.chdir(tmp_path)
    (tmp_path / "moe-runs").mkdir()
    shutil.copy(mlflow_template, tmp_path / "moe-runs/mlflow.db")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/words.txt").write_text("\n".join(f"word {i} of many" for i in range(4000)))
    ran = []
    for line in commands():
        words = words_of(line)
        parse(words)
        name = words[0]
        if name in ONLY_PARSED or any(option in words for option in CLUSTER_OPTIONS):
            continue
        if name == "new" and Path(f"{words[1]}.py").exists():
            continue
        if name == "doctor":
            words = [*words, "--no-ray"]
        elif name == "run":
            words = made_small(words, small)
        elif name == "analyze":
            words = [*words, "--max-tokens", "2000", "--permutations", "20"]
        code, out, err = moe_study(*words)
        assert code == 0, f"{line}\n{out}\n{err}"
        ran.append(name)
    assert {"doctor", "list", "plan", "run", "status", "table", "new", "claims"} <= set(ran)
    assert {"analyze", "report"} <= set(ran)
    assert (tmp_path / "my_router.html").stat().st_size > 10**6


def slug(heading):
    """As GitHub makes anchors."""
    text = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def test_links_lead_to_files_and_headings_that_are_there():
    found = 0
    for path in DOCUMENTS:
        text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("http://", "https://")):
                continue
            name, _, anchor = target.partition("#")
            to = (path.parent / name).resolve() if name else path
            assert to.exists(), f"{path.name} links to {target}"
            assert to.is_relative_to(ROOT), f"{path.name} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", to.read_text("utf-8"), re.M)
                assert anchor in map(slug, headings), f"{path.name} links to {target}"
            found += 1
    assert found > 50


def test_every_page_is_reached_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[\w./]+)\)", (ROOT / "README.md").read_text("utf-8")))
    for path in DOCUMENTS[1:]:
        linked |= {
            f"docs/{name}" for name in re.findall(r"\]\((\w+\.md)\)", path.read_text("utf-8"))
        }
    assert {f"docs/{path.name}" for path in DOCUMENTS[1:]} <= linked


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_what_the_code_says(name):
    text = (ROOT / "docs" / name).read_text("utf-8")
    assert text == renewed(text, PAGES[name]()), "run `python docs/reference.py`"


def test_the_map_has_every_room_and_leads_to_most_files():
    text = (ROOT / "docs/map.md").read_text("utf-8")
    files = [
        path.relative_to(ROOT)
        for floor in ("moe", "search_spaces", "orchestrator")
        for path in (ROOT / floor).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    rooms = {path.parent.as_posix() for path in files}
    assert {room for room in rooms if f"`{room}/`" not in text} == set()
    unnamed = {path.as_posix() for path in files if f"(../{path.as_posix()})" not in text}
    assert len(unnamed) < len(files) / 2, sorted(unnamed)


def test_the_queries_answer(in_finished):
    """Each block of docs/querying.md, in order, in one namespace; those for the page's search box
    through the client here, and typed in tests/pages/test_browser.py."""
    code = blocks(ROOT / "docs/querying.md", "python")
    assert len(code) >= 9
    space = {}
    for block in code:
        exec(compile(block, "docs/querying.md", "exec"), space)
    name = {run.info.run_id: run.data.tags.get("cell") for run in space["runs"]("")}

    def metric(run):
        return run.data.metrics["val/loss"]

    complete = space["runs"]("attributes.status = 'FINISHED' and tags.cell LIKE '%'")
    assert len(complete) == 14
    typed = [space["runs"](query) for query in blocks(ROOT / "docs/querying.md", "text")]
    assert len(typed) >= 11
    assert [sorted(run.data.tags["seed"] for run in found) for found in typed[1:3]] == [
        ["0", "1"]
    ] * 2
    failed, pruned, good, dead, trial_3, reused, _, parent = map(list, typed[3:])
    assert list(map(len, (failed, pruned, trial_3, reused, parent))) == [1, 1, 1, 0, 1]
    assert 0 < len(good) <= 14
    assert all(run.data.metrics["router/dead_experts"] > 0 for run in dead)
    assert trial_3[0].data.tags["optuna.trial_number"] == "3"
    assert metric(space["best_run"]) == min(map(metric, complete))
    assert set(space["best_at"].values()) <= set(name.values())
    assert len(space["best_at"]) >= 2
    assert set(space["difference"]) == {"0", "1"}
    assert list(space["reasons"].values()) == ["OutOfMemoryError: told by the test"]
    assert space["best_run"].info.run_id in {run.info.run_id for run in space["same"]}
    assert len(space["on_it"]) == 16
    assert [step for step, _ in space["curve"]] == [4, 8]
    assert {"report.html", "table.md", "claims.json", "figures"} <= set(space["files"])


def test_the_notebook_page_runs(in_finished):
    space = {}
    for block in blocks(ROOT / "docs/notebook.md", "python"):
        exec(compile(block, "docs/notebook.md", "exec"), space)
    table, trials, curves = space["table"], space["trials"], space["curves"]
    assert len(table) == 8
    assert list(trials.state.value_counts().sort_index()) == [14, 1, 1]
    assert trials.value.notna().sum() == 14
    assert trials[trials.state == "failed"].error.tolist() == ["OutOfMemoryError: told by the test"]
    one_seed = table[table.n == 1]
    assert len(one_seed) == 2
    assert one_seed.ci_low.isna().all()
    assert set(curves.columns) >= {"cell", "seed", "step", "value"}
    assert set(space["claims"].id) == {"mixture", "frozen"}
    assert space["pareto"].on_front.any()
    assert (space["differences"]["token-learned"].dropna() == 0).all()
    assert space["launch"].is_evidence() is False
    assert "<h1>" in space["page"]
