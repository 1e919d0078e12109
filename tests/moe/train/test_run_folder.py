from __future__ import annotations

import json

import pytest
from pyarrow import fs

from moe.train.run_folder import MANIFEST, DamagedError, Storage


def _object_store(tmp_path):
    """Not a LocalFileSystem, so it is written as an object store is: the manifest last."""
    return Storage(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "bucket/run")


@pytest.fixture(params=["local", "object store"])
def storage(request, tmp_path):
    return Storage.at(tmp_path / "run") if request.param == "local" else _object_store(tmp_path)


def _writer(data):
    return lambda stream: stream.write(data)


def test_folder_is_read_as_it_was_written(storage):
    storage.write_folder("a", {"x": _writer(b"one"), "y": _writer(b"")}, {"step": 3})
    assert storage.read_folder("a") == ({"step": 3}, {"x": b"one", "y": b""})
    storage.write_folder("a", {"x": _writer(b"two")}, {"step": 4})
    assert storage.read_folder("a") == ({"step": 4}, {"x": b"two"})
    assert storage.names() == ["a"]


def test_file_is_replaced(storage):
    storage.write("notes/a.json", b"1")
    storage.write("notes/a.json", b"2")
    assert storage.read("notes/a.json") == b"2"
    assert storage.names("notes") == ["a.json"]
    assert storage.names("missing") == []


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "no manifest", "bad manifest"])
def test_damage_is_found_and_named(tmp_path, damage):
    storage = Storage.at(tmp_path)
    storage.write_folder("a", {"x": _writer(b"content")}, {})
    file = tmp_path / "a" / "x"
    match damage:
        case "truncate":
            file.write_bytes(b"cont")
        case "flip":
            file.write_bytes(b"cOntent")
        case "remove":
            file.unlink()
        case "no manifest":
            (tmp_path / "a" / MANIFEST).unlink()
        case "bad manifest":
            (tmp_path / "a" / MANIFEST).write_text(json.dumps([]))
    with pytest.raises(DamagedError, match=MANIFEST if "manifest" in damage else "x"):
        storage.read_folder("a")


def test_failed_write_leaves_the_old_folder_and_nothing_else(tmp_path):
    def fail(stream):
        stream.write(b"half")
        raise OSError("No space left on device")

    storage = Storage.at(tmp_path)
    storage.write_folder("a", {"x": _writer(b"old")}, {})
    with pytest.raises(OSError, match="No space"):
        storage.write_folder("a", {"x": _writer(b"new"), "y": fail}, {})
    assert storage.read_folder("a")[1] == {"x": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_object_store_folder_is_damaged_until_its_manifest_is_there(tmp_path):
    storage = _object_store(tmp_path)
    seen = []

    def look(stream):
        try:
            storage.read_folder("a")
        except DamagedError as error:
            seen.append(str(error))

    storage.write_folder("a", {"x": _writer(b"old")}, {})
    storage.write_folder("a", {"x": _writer(b"new"), "y": look}, {})
    assert len(seen) == 1
    assert storage.read_folder("a")[1] == {"x": b"new", "y": b""}


def test_leftovers_of_a_killed_writer_are_hidden_and_removed(tmp_path):
    (tmp_path / ".tmp-1-step_00000001").mkdir()
    (tmp_path / ".tmp-2-config.json").touch()
    storage = Storage.at(tmp_path)
    assert storage.names() == []
    storage.delete_leftovers()
    assert list(tmp_path.iterdir()) == []


def test_uri_keeps_its_credentials_out_of_messages(tmp_path):
    storage = Storage(
        fs.LocalFileSystem(), str(tmp_path), uri="s3://key:secret@bucket/run?region=x"
    )
    assert str(storage) == "s3://bucket/run"
    assert storage.location("final") == "s3://key:secret@bucket/run/final?region=x"
    assert Storage.at(tmp_path.as_uri()).location("final") == tmp_path / "final"
