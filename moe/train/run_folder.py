"""A run's folder, on a local path or an object store: what is written appears complete or not.

Locally a folder is written under a temporary name, synced and renamed. An object store has no
rename, so there the manifest is written last. Either way a folder without a manifest, or with a
file that differs from it, is damaged, and `read_folder` says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from pyarrow import fs

CONFIG_FILE = "config.json"
ROUTING_FILE = "routing.parquet"
LOSSES_FILE = "losses.parquet"  # of the documents that a run was judged on
MANIFEST = "manifest.json"
STATE_FOLDER = "state"  # what several processes wrote together, in a folder of its own
_CLAIM = "claim"
_TEMPORARY = ".tmp-"

Writer = Callable[[IO[bytes]], None]


class DamagedError(RuntimeError):
    """A stored folder that does not hold what its manifest says."""


class TakenOverError(RuntimeError):
    """Another process has claimed the folder since: this one may write nothing more to it."""


class _HashingStream:
    """Counts and hashes what passes, so that a large file is not held in memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        self.sha256.update(data)
        self.num_bytes += len(data)
        try:
            self._stream.write(data)
        except OSError as error:
            self.failure = error
            raise
        return len(data)

    def flush(self) -> None:
        self._stream.flush()

    def tell(self) -> int:
        return self.num_bytes

    def close(self) -> None:
        """For writers that end each tensor so; the file is closed by who opened it."""

    @property
    def record(self) -> dict[str, Any]:
        """What the manifest says of the file."""
        return {"bytes": self.num_bytes, "sha256": self.sha256.hexdigest()}


def _record_of(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Storage:
    """The folder `root` of a pyarrow file system. Raises OSError as the file system does."""

    def __init__(self, filesystem: fs.FileSystem, root: str, uri: str | None = None) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._uri = uri
        self._is_local = isinstance(filesystem, fs.LocalFileSystem)
        self._claim: bytes | None = None

    @classmethod
    def at(cls, out: Path | str) -> Storage:
        """`out` is a local path, or a URI that pyarrow knows: s3://, gs://, file://, ..."""
        if isinstance(out, str) and "://" in out:
            filesystem, root = fs.FileSystem.from_uri(out)
            if not isinstance(filesystem, fs.LocalFileSystem):
                return cls(filesystem, root, uri=out)
            out = root
        return cls(fs.LocalFileSystem(), str(Path(out).absolute()))

    def __str__(self) -> str:
        """The place without credentials, for messages."""
        if self._uri is None:
            return self._root
        parts = urlsplit(self._uri)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def location(self, name: str) -> Path | str:
        """Where `name` lies: a Path if it is local, else a URI."""
        if self._uri is None:
            return Path(self._root, name)
        parts = urlsplit(self._uri)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()

    def names(self, folder: str = "") -> list[str]:
        """Names directly inside `folder`, sorted; none if it is missing. Leftovers are left out."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        names = (info.base_name for info in self._fs.get_file_info(selector))
        return sorted(name for name in names if not name.startswith(_TEMPORARY))

    def claim(self) -> None:
        """Makes this process the folder's one writer. What an earlier claimant still writes raises
        TakenOverError there: the worker of a lost driver or node may outlive the news of its death.
        """
        self._claim = None
        token = uuid.uuid4().hex.encode()
        self.write(_CLAIM, token)
        self._claim = token

    def _require_claim(self) -> None:
        if self._claim is not None and self.read(_CLAIM) != self._claim:
            raise TakenOverError(
                f"a run's folder belongs to the process that claimed it last; {self} was claimed "
                "by another attempt while this one ran. This one ends; the other goes on."
            )

    def read(self, name: str) -> bytes:
        with self._fs.open_input_stream(self._path(name)) as stream:
            return stream.read()

    def write(self, name: str, data: bytes) -> None:
        """Replaces the file `name`: a reader sees the old or the new content, never a part."""
        path = self._path(name)
        self._fs.create_dir(os.path.dirname(path), recursive=True)
        if not self._is_local:
            self._require_claim()
            self._stream(name, lambda stream: stream.write(data))
            return
        temporary = f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            self._stream(temporary, lambda stream: stream.write(data))
            self._require_claim()
            os.replace(self._path(temporary), path)
        except BaseException:
            Path(self._path(temporary)).unlink(missing_ok=True)
            raise
        _sync(os.path.dirname(path))

    def write_folder(self, name: str, writers: dict[str, Writer], header: dict[str, Any]) -> None:
        """Writes each file through its writer, then a manifest of `header`, sizes and sha256."""
        self.finish_folder(self.begin_folder(name), name, writers, header)

    def begin_folder(self, name: str) -> str:
        """Where the files of folder `name` lie until `finish_folder`; other processes may write
        there too."""
        if not self._is_local:
            self._require_claim()
            self.delete_folder(name)
            return name
        self._fs.create_dir(self._root, recursive=True)
        return f"{_TEMPORARY}{uuid.uuid4().hex}-{name}"

    def finish_folder(
        self,
        place: str,
        name: str,
        writers: dict[str, Writer],
        header: dict[str, Any],
        written: dict[str, Any] | None = None,
    ) -> None:
        """The rest of folder `name`, begun at `place`, which then appears. `written` are sizes and
        sha256 of the files that are there already."""
        if not self._is_local:
            self._fill(place, writers, header, written)
            return
        temporary = self._path(place)
        try:
            self._fill(place, writers, header, written)
            _sync(temporary)
            self._require_claim()
            self.delete_folder(name)
            os.rename(temporary, self._path(name))
        except BaseException:
            self.abandon_folder(place)
            raise
        _sync(self._root)

    def abandon_folder(self, place: str) -> None:
        """Removes what was begun, on a local path; elsewhere it has no manifest, and is damaged."""
        if self._is_local:
            shutil.rmtree(self._path(place), ignore_errors=True)

    def read_folder(self, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Header and verified files of a folder. Raises DamagedError with what is wrong.

        What several processes wrote together is verified, and left to be read by each its part.
        """
        header, listed = self._read_manifest(name)
        files = {}
        for file, expected in listed.items():
            is_shared = file.startswith(f"{STATE_FOLDER}/")
            try:
                data = b"" if is_shared else self.read(f"{name}/{file}")
                found = self._record(f"{name}/{file}") if is_shared else _record_of(data)
            except FileNotFoundError:
                raise DamagedError(f"{self}/{name} lacks {file}") from None
            if found != expected:
                raise DamagedError(f"{self}/{name}/{file} should be {expected}, but is {found}")
            if not is_shared:
                files[file] = data
        return header, files

    def _record(self, name: str) -> dict[str, Any]:
        """Size and sha256 of a file that is too large to be held."""
        num_bytes, sha256 = 0, hashlib.sha256()
        with self._fs.open_input_stream(self._path(name)) as stream:
            while data := stream.read(1 << 24):
                num_bytes += len(data)
                sha256.update(data)
        return {"bytes": num_bytes, "sha256": sha256.hexdigest()}

    def opened(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """The file `name`, to be read at any place."""
        return self._fs.open_input_file(self._path(name))

    @contextmanager
    def hashed(self, name: str) -> Iterator[_HashingStream]:
        """A new file `name`, of a folder that was begun, to be written."""
        path = self._path(name)
        with self._fs.open_output_stream(path) as raw:
            stream = _HashingStream(raw)
            try:
                yield stream
            except RuntimeError:
                if stream.failure is None:
                    raise
                # torch.save says "unexpected pos" of a full disk.
                raise stream.failure from None
        if self._is_local:
            _sync(path)

    def make_folder(self, name: str) -> None:
        self._fs.create_dir(self._path(name), recursive=True)

    def move(self, name: str, new: str) -> None:
        self._fs.move(self._path(name), self._path(new))

    def exists(self, name: str) -> bool:
        return self._fs.get_file_info(self._path(name)).type != fs.FileType.NotFound

    def delete_file(self, name: str) -> None:
        self._fs.delete_file(self._path(name))

    def read_header(self, name: str) -> dict[str, Any]:
        """Header of a folder, its files unread. Raises DamagedError where the manifest is."""
        return self._read_manifest(name)[0]

    def _read_manifest(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            manifest = json.loads(self.read(f"{name}/{MANIFEST}"))
            return manifest["header"], dict(manifest["files"])
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{self}/{name} has no valid {MANIFEST}: {error}") from None

    def delete_folder(self, name: str) -> None:
        """Removes a folder if it is there. The manifest goes first: half-removed is damaged."""
        if self._fs.get_file_info(self._path(name)).type == fs.FileType.NotFound:
            return
        manifest = self._path(f"{name}/{MANIFEST}")
        if self._fs.get_file_info(manifest).type != fs.FileType.NotFound:
            self._fs.delete_file(manifest)
        self._fs.delete_dir(self._path(name))

    def delete_leftovers(self) -> None:
        """Removes what a killed writer left under a temporary name."""
        if self._is_local and os.path.isdir(self._root):
            for entry in os.scandir(self._root):
                if entry.name.startswith(_TEMPORARY):
                    if entry.is_dir():
                        shutil.rmtree(entry, ignore_errors=True)
                    else:
                        Path(entry).unlink(missing_ok=True)

    def _path(self, name: str) -> str:
        return "/".join([self._root, *filter(None, name.split("/"))])

    def _stream(self, name: str, writer: Writer) -> dict[str, Any]:
        with self.hashed(name) as stream:
            writer(stream)
        return stream.record

    def _fill(
        self,
        folder: str,
        writers: dict[str, Writer],
        header: dict[str, Any],
        written: dict[str, Any] | None,
    ) -> None:
        self.make_folder(folder)
        files = {file: self._stream(f"{folder}/{file}", write) for file, write in writers.items()}
        files |= written or {}
        text = json.dumps({"header": header, "files": files}, indent=2)
        self._stream(f"{folder}/{MANIFEST}", lambda stream: stream.write(text.encode()))
