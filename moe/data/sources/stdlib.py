"""The embedded corpus: the source files of the Python that runs, labelled by package.

Real text on every machine, with a true label and no network. A document is a source file and its
`topic` the top-level package that it lies in. Single-file modules have no package, and nearly all
of them would be the only document of their topic, so they share the topic `modules`: a mixture of
everything, which an analysis of topics may leave out. Left out of the corpus are tests, and files
that are data written as code (codec tables, the help texts of pydoc, HTML entities, the tables of
msilib, this build's configuration, which also names paths of the machine).
"""

from __future__ import annotations

import os
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moe.data.digest import ContentDigest

SINGLE_MODULES = "modules"
_LEFT_OUT_FOLDERS = {
    *("test", "tests", "idle_test", "__phello__"),
    *("encodings", "pydoc_data"),
    *("site-packages", "dist-packages", "__pycache__"),
}
_LEFT_OUT_FILES = {"html/entities.py", "msilib/schema.py", "msilib/sequence.py"}


@dataclass(frozen=True)
class StandardLibrary:
    """The corpus `stdlib`."""

    sequence_labels = ("topic",)
    survey_limit = None

    def with_text_column(self, column: str) -> StandardLibrary:
        return self

    def label_candidates(self) -> tuple[str, ...]:
        return self.sequence_labels

    @cached_property
    def _files(self) -> list[tuple[str, Path]]:
        root = Path(sysconfig.get_path("stdlib"))
        files = [(_topic(name), root / name) for name in _source_names(root)]
        if not files:
            raise ValueError(
                f"the corpus stdlib needs Python's standard library as source files; {root} holds "
                "none. Use a Python that has them, or another corpus (files:GLOB)."
            )
        return files

    def digest(self) -> str:
        digest = ContentDigest("stdlib")
        for topic, path in self._files:
            digest.add(topic, path.read_bytes())
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        return {
            "kind": "stdlib",
            "python_version": platform.python_version(),
            "files": len(self._files),
            "bytes": sum(path.stat().st_size for _, path in self._files),
        }

    def rows(self, scratch: Path | None = None) -> Iterator[dict[str, Any]]:
        for topic, path in self._files:
            yield {"text": path.read_text(encoding="utf-8"), "topic": topic}


def _topic(name: str) -> str:
    package, _, rest = name.partition("/")
    return package if rest else SINGLE_MODULES


def _source_names(root: Path) -> list[str]:
    names = []
    for folder, subfolders, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        subfolders[:] = [  # what is taken out here is not walked: site-packages may be large
            name
            for name in subfolders
            if name not in _LEFT_OUT_FOLDERS and not name.startswith("config-")
        ]
        names += [(inside / name).as_posix() for name in files if name.endswith(".py")]
    return sorted(
        name
        for name in names
        if name not in _LEFT_OUT_FILES and not name.startswith("_sysconfigdata")
    )
