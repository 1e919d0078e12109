"""Prepared tokens are brought to a node once, whole and verified, a block at a time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray

from moe.config import DataConfig
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore, verify
from orchestrator.cluster.token_transfer import bring, this_node, token_source, tokens_here

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, corpus):
    return prepare(DataConfig(corpus=corpus), tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def source(prepared, request):
    name = f"tokens-of-{request.node.name}"
    with token_source(prepared.parent, name):
        yield name


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_copy_is_equal_and_made_once_though_many_ask(prepared, source, tmp_path):
    root = tmp_path / "cache"
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: bring(prepared.name, source, root), range(4)))
    assert found == {root / prepared.name}
    assert files(found.pop()) == files(prepared)
    assert TokenStore.open(root / prepared.name).digest == prepared.name
    left = [p.name for p in root.iterdir() if p.name.endswith(".partial")]
    assert left == []


def test_a_file_is_asked_for_block_by_block(prepared, source, tmp_path, monkeypatch):
    actor, largest = ray.get_actor(source), prepared / "train.arrow"
    first = ray.get(actor.read.remote(prepared.name, "train.arrow", 0))
    assert first == largest.read_bytes()[: 8 << 20]
    assert ray.get(actor.read.remote(prepared.name, "train.arrow", 1000)) == first[1000:]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "half-made"])
def test_a_damaged_copy_is_made_anew(damage, prepared, source, tmp_path):
    copy = tmp_path / prepared.name
    if damage == "half-made":
        (tmp_path / f".{prepared.name}.partial").mkdir()
        (tmp_path / f".{prepared.name}.partial" / "train.arrow").write_bytes(b"half")
    else:
        copy.mkdir()
        for name, data in files(prepared).items():
            (copy / name).write_bytes(data)
        data = (copy / "val.arrow").read_bytes()
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        (copy / "val.arrow").write_bytes(data[:-9] if damage == "truncated" else flipped)
    assert bring(prepared.name, source, tmp_path) == copy
    verify(copy)
    assert files(copy) == files(prepared)


@pytest.mark.parametrize("asked", [("../{0}", "meta.json"), ("{0}", "../../passwd"), ("x", "y")])
def test_nothing_else_of_the_driver_s_machine_is_read(asked, prepared, source):
    digest, name = (part.format(prepared.name) for part in asked)
    with pytest.raises(ray.exceptions.RayTaskError, match="have no file"):
        ray.get(ray.get_actor(source).read.remote(digest, name, 0))


def test_the_driver_s_node_reads_what_is_there(prepared, source):
    assert tokens_here(prepared, driver_node=this_node(), source=source) == prepared
    assert tokens_here(prepared, driver_node=None, source=None) == prepared


def test_a_node_without_room_leaves_nothing(prepared, source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.cluster.token_transfer.verify", full)
    with pytest.raises(OSError, match="No space"):
        bring(prepared.name, source, tmp_path / "full")
    assert [p for p in os.listdir(tmp_path / "full") if not p.endswith(".lock")] == []
