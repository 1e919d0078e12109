"""Results of finished runs in one file: what `moe-study ingest` takes, without checkpoints."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from moe.train.run_folder import CONFIG_FILE, LOSSES_FILE, ROUTING_FILE, Storage

RESULT_FILE = "result.json"
METRICS_FILE = "metrics.jsonl"
_KEPT = (RESULT_FILE, CONFIG_FILE, METRICS_FILE, LOSSES_FILE, ROUTING_FILE)


def pack(folders: Sequence[Path], file: Path) -> int:
    """Writes what the runs' folders have of results into `file`, a tar.gz; returns how many.

    Folders without a result are left out. The file appears whole or not at all, and equal results
    give equal bytes. Raises OSError where it cannot be written.
    """
    finished = [folder for folder in folders if (folder / RESULT_FILE).is_file()]
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for folder in sorted(finished, key=lambda folder: folder.name):
            for name in _KEPT:
                if (folder / name).is_file():
                    data = (folder / name).read_bytes()
                    member = tarfile.TarInfo(f"{folder.name}/{name}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    Storage.at(file.absolute().parent).write(file.name, buffer.getvalue())
    return len(finished)


def unpack(file: Path, folder: Path) -> None:
    """Writes the runs of `file` under `folder`. Raises ValueError if `pack` did not write it."""
    try:
        with tarfile.open(file, "r:gz") as tar:
            members = tar.getmembers()
            strange = [m.name for m in members if not _is_kept(m)]
            if strange or not members:
                raise ValueError(f"it holds {strange[0]}" if strange else "it holds no run")
            for member in members:  # each a plain file: extractall's filters came with 3.11.4
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as packed:
                    target.write_bytes(packed.read())
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            "an archive of results is what `python -m moe.train --archive` wrote; received "
            f"{file} ({error}). Bring it here again, or give the folder of the runs."
        ) from None


def _is_kept(member: tarfile.TarInfo) -> bool:
    parts = member.name.split("/")
    return member.isfile() and len(parts) == 2 and parts[0] not in ("", "..") and parts[1] in _KEPT
