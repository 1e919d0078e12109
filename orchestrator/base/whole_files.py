"""Files and folders that are whole when they appear: written beside their place, then renamed.

A reader sees the old one or the new one, whenever the writer is killed. `moe.train.run_folder` does
the same for checkpoints, on any file system of PyArrow's and for one writer at a time, and
`moe.data.prepare` for tokens, which replace a damaged folder under a lock.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a free path in the same folder, to make a file or a folder at; it becomes `path` as
    the block ends, and is removed where the block fails.

    For one writer at a time. A file replaces an earlier one; a folder must be new.
    """
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        _remove(partial)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
