"""The digest of what trains: equal however it is written, another where it trains otherwise."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

import moe
from moe import code_digest
from moe.code_digest import digest_of, moe_digest, trains_as
from moe.digests_alike import ALIKE
from tests.fixtures.old_archives import unpack

HERE = Path(moe.__file__).parent
OLD_CODE = Path(__file__).parents[1] / "upgrade" / "code-016369d.tar.xz"


@pytest.fixture
def code(tmp_path):
    """A copy of the package, to be changed."""
    folder = tmp_path / "moe"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def unchanged():
    return moe_digest()


def replaced(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), "utf-8")


def test_a_copy_has_the_same_digest(code, unchanged):
    assert digest_of(code) == unchanged == digest_of(HERE)


def reprinted(code: Path) -> None:
    """All comments, blank lines and the layout go."""
    for file in code.rglob("*.py"):
        file.write_text(ast.unparse(ast.parse(file.read_text("utf-8"))), "utf-8")


def without_docstrings(code: Path) -> None:
    for file in code.rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (
                ast.get_docstring(node) is not None
            ):
                node.body[0].value.value = "Other words."
        file.write_text(ast.unparse(tree), "utf-8")


def without_annotations(code: Path) -> None:
    """Of functions and local variables; those of a dataclass are its fields."""
    for file in code.rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.returns = None
            if isinstance(node, ast.arg):
                node.annotation = None
        file.write_text(ast.unparse(tree), "utf-8")


def annotated(code: Path) -> None:
    file = code / "train" / "trainer.py"
    name = re.search(r"^        (\w+) = ", file.read_text("utf-8"), re.MULTILINE)[1]
    replaced(file, f"        {name} = ", f"        {name}: object = ")


def imports_added_and_sorted_otherwise(code: Path) -> None:
    for file in code.rglob("*.py"):
        text = file.read_text("utf-8")
        lines = text.splitlines()
        at = [i for i, line in enumerate(lines) if re.match(r"(import|from) \S+.*[^(,]$", line)]
        at = [i for i in at if "__future__" not in lines[i]]
        moved = [lines[i] for i in reversed(at)]
        for i, line in zip(at, moved, strict=True):
            lines[i] = line
        file.write_text("\n".join([*lines, "import zoneinfo"]) + "\n", "utf-8")


def imported_under_another_name(code: Path) -> None:
    file = code / "model" / "router.py"
    text = file.read_text("utf-8")
    assert "import torch\n" in text
    text = re.sub(r"\btorch\.(?=[a-z_]+\()", "pytorch.", text)
    file.write_text(text.replace("import torch\n", "import torch\nimport torch as pytorch\n"))


def moved(code: Path) -> None:
    """A file under another name, in another room."""
    (code / "model" / "experts.py").rename(code / "train" / "mixture.py")
    for file in code.rglob("*.py"):
        text = file.read_text("utf-8")
        file.write_text(text.replace("moe.model.experts import", "moe.train.mixture import"))


def definitions_in_another_order(code: Path) -> None:
    file = code / "model" / "transformer.py"
    tree = ast.parse(file.read_text("utf-8"))
    kept = [n for n in tree.body if not isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    tree.body = kept + [n for n in reversed(tree.body) if n not in kept]
    file.write_text(ast.unparse(tree))


def an_error_said_otherwise(code: Path) -> None:
    replaced(code / "train" / "training_run.py", '"a run trains on', '"every run trains on')


def an_axis_documented_otherwise(code: Path) -> None:
    replaced(code / "config" / "model.py", '"attention heads"', '"heads of attention"')
    replaced(code / "config" / "router_kinds.py", 'meaning="', 'meaning="It is ')


def an_axis_added_to_the_config(code: Path) -> None:
    replaced(
        code / "config" / "model.py",
        "    num_heads: int",
        '    num_key_heads: int = axis(4, "heads that keys share")\n    num_heads: int',
    )
    replaced(code / "config" / "model.py", '"num_heads", ', '"num_heads", "num_key_heads", ')


def a_metric_described_otherwise(code: Path) -> None:
    text = (code / "metrics.py").read_text("utf-8")
    (code / "metrics.py").write_text(text.replace("held-out", "kept apart"), "utf-8")


def all_that_trains_nothing_gone(code: Path) -> None:
    for name in ("analysis", "probes", "data/sources"):
        shutil.rmtree(code / name)
    for name in ("train/command.py", "accounting.py", "data/prepare.py", "data/tokenizer.py"):
        (code / name).unlink()


@pytest.mark.parametrize(
    "change",
    [
        reprinted,
        without_docstrings,
        without_annotations,
        annotated,
        imports_added_and_sorted_otherwise,
        imported_under_another_name,
        moved,
        definitions_in_another_order,
        an_error_said_otherwise,
        an_axis_documented_otherwise,
        an_axis_added_to_the_config,
        a_metric_described_otherwise,
        all_that_trains_nothing_gone,
    ],
    ids=lambda change: change.__name__,
)
def test_what_trains_nothing_changes_nothing(code, unchanged, change):
    change(code)
    assert digest_of(code) == unchanged


def an_import_of_something_else(code: Path) -> None:
    """The same name, another function behind it."""
    file = code / "model" / "transformer.py"
    assert "import torch.nn.functional as F\n" in file.read_text("utf-8")
    replaced(file, "import torch.nn.functional as F\n", "import torch.special as F\n")


def calls_in_another_order(code: Path) -> None:
    file = code / "train" / "trainer.py"
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            calls = [i for i, s in enumerate(node.body) if isinstance(s, ast.Expr)]
            calls = [i for i in calls if isinstance(node.body[i].value, ast.Call)]
            if len(calls) > 1:
                i, j = calls[:2]
                node.body[i], node.body[j] = node.body[j], node.body[i]
                file.write_text(ast.unparse(tree), "utf-8")
                return
    raise AssertionError("no function with two calls")


def a_reported_value_reckoned_otherwise(code: Path) -> None:
    replaced(code / "metrics.py", "return math.exp(loss)", "return math.exp(2 * loss)")


def a_name_bound_again(code: Path) -> None:
    file = code / "train" / "step_log.py"
    replaced(file, "PAPER_WINDOW = 100", "PAPER_WINDOW = 10\nPAPER_WINDOW = 100")
    first = digest_of(code)
    replaced(file, "PAPER_WINDOW = 10\nPAPER_WINDOW = 100", "PAPER_WINDOW = 100\nPAPER_WINDOW = 10")
    assert digest_of(code) != first


@pytest.mark.parametrize(
    "change",
    [
        an_import_of_something_else,
        calls_in_another_order,
        a_reported_value_reckoned_otherwise,
        a_name_bound_again,
    ],
    ids=lambda change: change.__name__,
)
def test_what_trains_otherwise_has_another_digest(code, unchanged, change):
    change(code)
    assert digest_of(code) != unchanged


class Mutant(ast.NodeTransformer):
    """Changes one node: the `at`-th that `kind` knows how to change."""

    def __init__(self, kind: str, at: int) -> None:
        self.kind, self.at, self.seen = kind, at, 0

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, (ast.Raise, ast.AnnAssign, ast.arg)):
            return node
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            return node
        self.generic_visit(node)
        other = None
        if self.kind == "operator" and isinstance(node, ast.BinOp):
            if not isinstance(node.op, ast.BitOr):  # of types
                other = ast.BinOp(node.left, ast.LShift(), node.right)
        elif self.kind == "comparison" and isinstance(node, ast.Compare):
            other = ast.Compare(node.left, [ast.Gt() for _ in node.ops], node.comparators)
            other = other if not isinstance(node.ops[0], ast.Gt) else None
        elif self.kind == "number" and type(getattr(node, "value", None)) in (int, float):
            other = ast.Constant(node.value + 1)
        if other is None:
            return node
        self.seen += 1
        return other if self.seen == self.at else node


# Each file that decides a number of a result, and what of it is changed.
MUTATED = [
    ("model/balance.py", "operator"),
    ("model/expert_capacity.py", "comparison"),
    ("model/dispatch.py", "number"),
    ("model/experts.py", "comparison"),
    ("model/experts_by_loop.py", "comparison"),
    ("model/experts_by_sequence.py", "number"),
    ("model/moe_layer.py", "comparison"),
    ("model/router.py", "operator"),
    ("model/router.py", "number"),
    ("model/seeding.py", "number"),
    ("model/transformer.py", "operator"),
    ("model/transformer.py", "number"),
    ("config/trial.py", "operator"),
    ("data/token_store.py", "operator"),
    ("data/shuffle.py", "operator"),
    ("train/optim.py", "operator"),
    ("train/trainer.py", "operator"),
    ("train/evaluate.py", "operator"),
    ("train/distributed.py", "comparison"),
    ("train/routing_stats.py", "operator"),
    ("train/step_log.py", "number"),
    ("train/training_run.py", "operator"),
    ("train/training_run.py", "comparison"),
]


@pytest.mark.parametrize(("name", "kind"), MUTATED)
def test_a_changed_operator_or_number_has_another_digest(code, unchanged, name, kind):
    file = code / name
    source = file.read_text("utf-8")
    mutant = Mutant(kind, at=2)
    changed = mutant.visit(ast.parse(source))
    if mutant.seen < 2:
        mutant = Mutant(kind, at=1)
        changed = mutant.visit(ast.parse(source))
    assert mutant.seen, f"{name} has no {kind}"
    file.write_text(ast.unparse(ast.fix_missing_locations(changed)), "utf-8")
    assert digest_of(code) != unchanged


_COMMAND_LINE = (
    *("__init__", "__main__", "command", "machine", "many_runs", "results_archive"),
    *("launched_world", "run_recorder"),
)


def test_every_module_that_trains_takes_part():
    """None of the model or of training is forgotten, but the command line and what it tells of."""
    taking_part = set(code_digest._taking_part(HERE))
    for room in ("config", "model", "train"):
        for file in (HERE / room).glob("*.py"):
            if file.stem not in _COMMAND_LINE:
                assert f"moe.{room}.{file.stem}" in taking_part


def test_no_two_modules_that_train_define_one_public_name():
    """The digest knows a definition by its name alone, so that a file may be moved."""
    homes: dict[str, str] = {}
    for module, (tree, _) in code_digest._taking_part(HERE).items():
        for node in tree.body:
            names = [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []
            if isinstance(node, ast.Assign):
                names = [t.id for t in node.targets if isinstance(t, ast.Name)]
            for name in names:
                if not name.startswith("_"):
                    assert homes.setdefault(name, module) == module, name


def test_a_folder_without_the_package_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not have it"):
        digest_of(tmp_path)


def test_the_code_before_the_rule_stands_for_itself(tmp_path):
    """The table names, beside the digest that commit 016369d had, the one it has by this rule."""
    unpack(OLD_CODE, tmp_path)
    assert trains_as(digest_of(tmp_path / "moe")) == "96dacceb6cfecc15"


def test_digests_alike_are_one_code():
    known = [digest for group in ALIKE for digest in group]
    assert len(known) == len(set(known))
    first, second = ALIKE[0][:2]
    assert trains_as(first) == trains_as(second) == first
    assert trains_as(f"{first}+{second}") == first
    assert trains_as("another") == "another"
    assert trains_as(f"{second}+another") == f"{first}+another"
    assert trains_as("") == ""
