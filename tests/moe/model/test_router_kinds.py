"""The table of router kinds says what the routers do, and nothing asks for a kind by its name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from moe.config import ROUTER_KINDS
from moe.model.router import ROUTERS, RouterContext
from moe.model.transformer import MoETransformer

REPOSITORY = Path(__file__).parents[3]


def test_each_row_has_its_class():
    assert list(ROUTERS) == list(ROUTER_KINDS)


@pytest.mark.parametrize("name", ROUTER_KINDS)
def test_traits_are_what_the_module_does(make_config, name):
    kind = ROUTER_KINDS[name]
    config = make_config(num_experts=4, top_k=1, router=name, gate="switch", num_layers=1)
    model = MoETransformer(config)
    (layer,) = model.moe_layers()
    router = layer.router
    x_BSD = torch.randn(3, 8, 8)

    def route(ids: int = 0, labels: int = 0, step: int = 0, x_BSD=x_BSD):
        ids_BS = torch.arange(ids, ids + 24).view(3, 8)
        label_B = torch.arange(labels, labels + 3)
        return router(x_BSD, RouterContext(ids_BS=ids_BS, label_B=label_B, step=step))

    def moves(**change) -> bool:
        return not torch.equal(route().expert_index, route(**change).expert_index)

    assert (route().logits is not None) == (layer.balance is not None) == kind.scores
    assert moves(x_BSD=torch.randn(3, 8, 8)) == kind.scores
    assert bool(router.state_dict()) == kind.stores_weights
    assert any(p.requires_grad for p in router.parameters()) == kind.trains
    assert moves(step=1) == kind.redraws
    assert moves(ids=1) == kind.reads_token_ids
    assert moves(labels=1) == kind.follows_labels
    assert (route().unit == "sequence") == kind.follows_labels == config.moe.routes_sequences
    ids_BS = torch.zeros(3, 8, dtype=torch.int64)
    model(ids_BS, ids_BS, label_B=torch.arange(3)).loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in router.parameters()) == kind.trains


def _asks_by_name(tree: ast.AST) -> list[int]:
    """Lines that compare `router`, or something's `.router`, with text."""

    def is_router(node: ast.AST) -> bool:
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        return name == "router"

    def is_kind(node: ast.AST) -> bool:
        values = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
        return any(isinstance(v, ast.Constant) and v.value in ROUTER_KINDS for v in values)

    return [
        node.lineno
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Compare)
            and is_router(node.left)
            and any(map(is_kind, node.comparators))
        )
        or (isinstance(node, ast.Match) and is_router(node.subject))
    ]


def test_product_code_asks_for_traits():
    assert _asks_by_name(ast.parse("moe.router in ('hash', 'label')")) == [1]
    assert _asks_by_name(ast.parse("moe.router == 'learned'")) == [1]
    found = {
        str(path.relative_to(REPOSITORY)): lines
        for package in ("moe", "search_spaces", "orchestrator", "studies")
        for path in (REPOSITORY / package).rglob("*.py")
        if (lines := _asks_by_name(ast.parse(path.read_text())))
    }
    assert not found
