"""Which code trained: a digest of what decides a result, not of how it is written.

It is taken over the syntax trees of the modules that a run imports, from `moe.train.training_run`
on. So the command line, probes, analysis and the preparation of text are no part of it (prepared
tokens have a digest of their own, in `moe.data.prepare`). Left out of the trees, since they train
nothing: docstrings, comments, annotations, the text of errors, what a config refuses
(`require`) and how it documents its fields (`axis`; their values are in `config_hash`). Imports are
left out too: a name stands for what it was imported from, so that `relu` under another alias is the
same, and `gelu` under the alias `relu` is not. Files are no part either: the digest is of the
sorted definitions of all modules, so no two modules define one public name (a test). Of the
metrics only the functions count that a run calls.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from moe.digests_alike import ALIKE

DIGEST_LENGTH = 16

_PACKAGE = "moe"
_ENTRY = "moe.train.training_run"
_NOT_TRAINING = ("moe.identity", "moe.code_digest", "moe.digests_alike")  # names of runs and code
_METRICS = "moe.metrics"  # names and descriptions of what is reported, and functions of it
_CONFIG = "moe.config"
_TYPING = ("typing.", "collections.abc.")
_REFUSES, _DOCUMENTS, _TEXTS = "require", "axis", ("meaning", "source")


@cache
def moe_digest() -> str:
    """Digest of the code that trains: results of different code are not pooled silently."""
    return digest_of(Path(__file__).parent)


@cache
def trains_as(digest: str) -> str:
    """The digest under which results of this code are pooled, found and kept.

    Of code that trains the same to the bit, however it is written, the first that was known
    (`moe.digests_alike`). `digest` may name several, joined by `+`, where code changed under a run.
    """
    return "+".join(dict.fromkeys(_first_alike().get(one, one) for one in digest.split("+")))


@cache
def _first_alike() -> dict[str, str]:
    return {digest: group[0] for group in ALIKE for digest in group}


def digest_of(package: Path) -> str:
    """Digest of the package `moe` that lies in the folder `package`.

    Raises ValueError where the module is not there from which a run begins.
    """
    modules = _taking_part(package)
    if _ENTRY not in modules:
        raise ValueError(f"a run begins in {_ENTRY}; received {package}, which does not have it")
    definitions, called = [], set()
    for name, (tree, imported) in modules.items():
        if name not in (*_NOT_TRAINING, _METRICS):
            plain = _Plain(imported, modules.keys(), is_config=name.startswith(_CONFIG))
            definitions += _definitions(plain, tree.body)
            called |= plain.of_metrics
    if _METRICS in modules:
        tree, imported = modules[_METRICS]
        own = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in called]
        definitions += _definitions(_Plain(imported, modules.keys(), is_config=False), own)
    whole = hashlib.sha256("\n".join(sorted(definitions)).encode())
    return whole.hexdigest()[:DIGEST_LENGTH]


def _definitions(plain: _Plain, body: list[ast.stmt]) -> list[str]:
    """Each statement of a module as text; what is bound twice there is one, in that order."""
    found: dict[Any, str] = {}
    for at, node in enumerate(body):
        bound = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else at
        if (kept := plain.visit(node)) is not None:
            found[bound] = f"{found[bound]} {_text(kept)}" if bound in found else _text(kept)
    return list(found.values())


def _taking_part(package: Path) -> dict[str, tuple[ast.Module, dict[str, str]]]:
    """Every module that importing the entry brings with it, by name, and what each imports."""
    found: dict[str, tuple[ast.Module, dict[str, str]]] = {}
    waiting = [_ENTRY]
    while waiting:
        name = waiting.pop()
        if name in found or (file := _file_of(package, name)) is None:
            continue
        tree = ast.parse(file.read_text("utf-8"))
        found[name] = tree, _imported(tree, name)
        for source in (name, *found[name][1].values()):
            parts = source.split(".")
            waiting += [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
    return found


def _file_of(package: Path, module: str) -> Path | None:
    first, *rest = module.split(".")
    if first != _PACKAGE:
        return None
    path = package.joinpath(*rest)
    for file in (path / "__init__.py", path.with_name(path.name + ".py") if rest else None):
        if file is not None and file.is_file():
            return file
    return None


def _imported(tree: ast.AST, module: str) -> dict[str, str]:
    """Names that imports bind, anywhere in the module, with the dotted name of what they mean."""
    names: dict[str, str] = {}
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                names[alias.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*module.split(".")[: -node.level or None], node.module or ""])
            source = base.strip(".") if node.level else node.module
            for alias in node.names:
                names[alias.asname or alias.name] = f"{source}.{alias.name}"
    return names


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements within, but those that only a type checker sees."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for node in getattr(tree, block, ()):
            if not _for_type_checkers(node):
                yield node
                yield from _statements(node)


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and _dotted(node.test).endswith("TYPE_CHECKING")


class _Plain(ast.NodeTransformer):
    """Takes from a module's tree all that is there for readers, and puts full names for short.

    `names`: what imports bind; `modules`: those of the package; `is_config`: the module holds a
    config, whose `__post_init__` refuses values and decides nothing about those that it lets pass.
    `of_metrics` are the names of the metrics' module that it came by.
    """

    def __init__(self, names: Mapping[str, str], modules: Collection[str], is_config: bool) -> None:
        self._names, self._modules, self._is_config = names, modules, is_config
        self.of_metrics: set[str] = set()

    def _drop(self, node: ast.AST) -> None:
        return None

    visit_Import = visit_ImportFrom = visit_TypeAlias = visit_Pass = _drop

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        value = node.value
        if isinstance(value, ast.Constant):
            return None
        called = _dotted(value.func) if isinstance(value, ast.Call) else ""
        if called == _REFUSES or called.startswith("logger."):
            return None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if _for_type_checkers(node) else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Which error, not its words."""
        error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return self.generic_visit(ast.Raise(exc=error, cause=None))

    def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
        is_text = self._is_config and node.arg in _TEXTS
        return None if is_text else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return self.visit_Assign(ast.Assign(targets=[node.target], value=node.value))

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        value = node.value
        if isinstance(value, ast.Call) and _dotted(value.func) == _DOCUMENTS:
            return None
        is_alias = isinstance(value, ast.Subscript) and self._meant(value.value).startswith(_TYPING)
        if is_alias or _dotted(node.targets[0]) == "__all__":
            return None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Bare annotations are the fields of some classes, and notes for readers in the others."""
        makers = [ast.unparse(of) for of in (*node.decorator_list, *node.bases)]
        if any("dataclass" in maker or "NamedTuple" in maker for maker in makers):
            node.body = [_field(statement) for statement in node.body]
        node.type_params = []
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        if self._is_config and node.name == "__post_init__":
            return None
        node.returns, node.type_params = None, []
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(arg=node.arg)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return _chain(meant) if (meant := self._meant(node)) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return _chain(meant) if (meant := self._meant(node)) else self.generic_visit(node)

    def _meant(self, node: ast.AST) -> str:
        """The full name of what `a` or `a.b` means where an import bound `a`, else empty; where a
        definition of this package lies is no part of its name."""
        first, dot, rest = _dotted(node).partition(".")
        if first not in self._names:
            return ""
        whole = self._names[first] + dot + rest
        if whole.partition(".")[0] != _PACKAGE:
            return whole
        module = whole.rpartition(".")[0]
        while module not in self._modules:
            module = module.rpartition(".")[0]
        if module == _METRICS:
            self.of_metrics.add(whole.removeprefix(f"{module}."))
        return whole.removeprefix(f"{module}.")


def _field(node: ast.stmt) -> ast.stmt:
    bare = isinstance(node, ast.AnnAssign) and node.value is None
    return ast.Expr(node.target) if bare else node


def _dotted(node: ast.AST) -> str:
    """`a.b.c` as text; empty where it is anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{before}.{name}" if (before := _dotted(value)) else ""
    return ""


def _chain(name: str) -> ast.expr:
    first, *rest = name.split(".")
    node: ast.expr = ast.Name(id=first)
    for part in rest:
        node = ast.Attribute(value=node, attr=part)
    return node


def _text(node: Any) -> str:
    """A tree as text that is the same under every version of Python."""
    if isinstance(node, list):
        return "[" + " ".join(map(_text, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = (
        f"{name}={_text(value)}"
        for name, value in ast.iter_fields(node)
        if name not in ("ctx", "kind", "type_comment") and not (value is None or value == [])
    )
    return f"{type(node).__name__}({' '.join(fields)})"
