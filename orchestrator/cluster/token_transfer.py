"""Prepared tokens on every node: brought once from the driver's, verified, memory-mapped.

The driver has prepared them (`driver.prepared_corpora`); no other node needs the corpus or sees the
home. A node's workers share one copy. It travels through Ray's object store a block at a time, so
that no more than a block is in memory, and it is named by its digest only when it is whole and
verified.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from moe.data.layout import META_FILE, verify
from orchestrator.base.whole_files import whole
from orchestrator.cluster.ray_private import session_folder

NODE_CACHE_VARIABLE = "MOE_STUDY_NODE_CACHE"
BLOCK_BYTES = 8 << 20


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class TokenSource:
    """Reads the driver's prepared tokens, on the driver's node."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def read(self, digest: str, name: str, offset: int) -> bytes:
        folder = self._root / digest
        known = folder.parent == self._root and folder.is_dir()
        if not known or (name != META_FILE and name not in _files(folder)):
            raise ValueError(f"prepared tokens have no file {digest}/{name}")
        with (folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(BLOCK_BYTES)


def _files(folder: Path) -> dict[str, Any]:
    return json.loads((folder / META_FILE).read_text(encoding="utf-8"))["files"]


@contextmanager
def token_source(root: Path, name: str) -> Iterator[None]:
    """The source under `name`, on this driver's node, for the time of the context."""
    here = NodeAffinitySchedulingStrategy(this_node(), soft=False)
    actor = TokenSource.options(name=name, scheduling_strategy=here).remote(str(root))
    try:
        yield
    finally:
        ray.kill(actor)


def this_node() -> str:
    return ray.get_runtime_context().get_node_id()


def node_cache() -> Path:
    """This node's own folder: as its variable says, else in Ray's session folder there."""
    if chosen := os.environ.get(NODE_CACHE_VARIABLE):
        return Path(chosen)
    return session_folder() / "moe-study" / this_node()[:16]


def tokens_here(prepared: Path, *, driver_node: str | None, source: str | None) -> Path:
    """The folder of the driver's `prepared` tokens on this node.

    Raises OSError where this node has no room for them.
    """
    if source is None or this_node() == driver_node:
        return prepared
    return bring(prepared.name, source, node_cache() / "tokens")


@cache
def bring(digest: str, source: str, root: Path) -> Path:
    """Once in a process: a copy that is there already is verified, and made anew if damaged."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root / digest
    with FileLock(root / f".{digest}.lock"):
        try:
            verify(folder)
            return folder
        except (ValueError, OSError):
            shutil.rmtree(folder, ignore_errors=True)
        with whole(folder) as partial:
            partial.mkdir()
            actor = ray.get_actor(source)
            _copy(actor, digest, META_FILE, partial)
            for name in _files(partial):
                _copy(actor, digest, name, partial)
            verify(partial)
    return folder


def _copy(source: Any, digest: str, name: str, folder: Path) -> None:
    offset = 0
    with (folder / name).open("xb") as file:
        while block := ray.get(source.read.remote(digest, name, offset)):
            file.write(block)
            offset += len(block)
