"""Every kind of file holds the same documents, and every broken one is named."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import tarfile

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from moe.data.corpus import open_corpus
from moe.data.sources import json_files

from .conftest import make_rows, write_jsonl, write_parquet

ROWS = make_rows(40)


def members(*named):
    """A tar of them; a string in place of the content is a link to that."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, content in named:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()


PACKERS = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": None,  # through a file, below
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def packed(data, packing, tmp_path):
    if packing != ".zst":
        return PACKERS[packing](data)
    path = tmp_path / "packing.zst"
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(data)
    return path.read_bytes()


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows, delimiter):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def archive(rows):
    """A webdataset: numbered pairs of .txt and .json, and a member that is neither."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for i, row in enumerate(rows):
            labels = {name: value for name, value in row.items() if name != "text"}
            members = {"json": json.dumps(labels), "txt": row["text"], "cls": "3"}
            for kind, text in members.items():
                member = tarfile.TarInfo(f"part/{i:05}.{kind}")
                member.size = len(text.encode())
                tar.addfile(member, io.BytesIO(text.encode()))
    return sink.getvalue()


CONTENT = {
    "a.jsonl": lines(ROWS),
    "a.ndjson": lines(ROWS),
    "a.JSONL": lines(ROWS),
    "a.json": json.dumps(ROWS, ensure_ascii=False, indent=2).encode(),
    "b.json": lines(ROWS),  # one object after the other, as many data sets call .json
    "c.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode().replace(b", {", b",\r\n{"),
    "a.csv": table(ROWS, ","),
    "a.tsv": table(ROWS, "\t"),
    "a.tar": archive(ROWS),
}


def documents(path, **fields):
    return list(open_corpus(f"files:{path}", **fields).documents())


def refusal(path, **fields):
    with pytest.raises(ValueError, match=r"\w") as caught:
        documents(path, **fields)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("name", CONTENT)
def test_every_format_holds_the_same_documents(tmp_path, name, packing):
    path = tmp_path / f"{name}{packing}"
    path.write_bytes(packed(CONTENT[name], packing, tmp_path))
    assert documents(path) == ROWS
    plain = tmp_path / name
    plain.write_bytes(CONTENT[name])
    assert open_corpus(f"files:{path}").digest == open_corpus(f"files:{plain}").digest


@pytest.mark.parametrize("kind", ["file", "stream", "feather"])
def test_arrow_files_and_streams(tmp_path, kind):
    rows = pa.Table.from_pylist([row | {"n": 1} for row in ROWS])
    path = tmp_path / ("a.feather" if kind == "feather" else "a.arrow")
    if kind == "feather":
        pyarrow.feather.write_feather(rows, path, compression="lz4")
    else:
        new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with new(str(path), rows.schema) as writer:
            for batch in rows.to_batches(max_chunksize=7):
                writer.write_batch(batch)
    assert documents(path) == ROWS


def test_what_datasets_saves_is_read_as_a_folder(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert documents(tmp_path / "saved") == ROWS


def test_a_json_file_of_one_object(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"text": "one", "n": [1]}, indent=1))
    assert documents(tmp_path / "a.json") == [{"text": "one", "n": []}]


def test_an_array_is_read_a_piece_at_a_time(tmp_path, monkeypatch):
    """Against json.loads, with blocks so small that every token is cut somewhere."""
    draw = random.Random(0)
    rows = [
        {"text": 'q"\\ é😀 {[ ]} ' * draw.randrange(1, 5), "n": [1.5e-7, True, None, {"a": "}"}]}
        for _ in range(30)
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=draw.randrange(3)))
    for block in (1, 2, 3, 17, 1000):
        monkeypatch.setattr(json_files, "_BLOCK_CHARS", block)
        read = json_files.read_json(tmp_path / "a.json")
        assert list(map(dict, read)) == rows


def test_a_folder_is_all_that_is_read_under_it(tmp_path):
    root = tmp_path / "root"
    (root / "b" / "deep").mkdir(parents=True)
    (root / ".git").mkdir()
    write_jsonl(root / "b" / "deep" / "x.jsonl", ROWS[:3])
    (root / "a.TXT").write_text("first")
    (root / "b" / "y.txt.gz").write_bytes(gzip.compress(b"last"))
    (root / "b" / "README.md").write_text("no text of the corpus")
    (root / ".git" / "z.txt").write_text("hidden")
    (root / "loop").symlink_to(root)
    texts = [row["text"] for row in documents(root)]
    assert texts == ["first", *(row["text"] for row in ROWS[:3]), "last"]
    assert texts == [row["text"] for row in documents(f"{root}/")]
    (tmp_path / "empty").mkdir()
    assert "holds none of a kind" in refusal(tmp_path / "empty")


def test_what_is_no_text_is_named_and_not_skipped(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    bad = tmp_path / "b.txt"
    for content, complaint in [
        (b"", "b.txt is empty"),
        (b" \r\n\t", "b.txt holds nothing but white space"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"/annex/objects/SHA256E-s1--0.txt\n", "a git-annex pointer"),
        (b"text\0more", "NUL bytes; " + str(bad) + " has one, at byte 4"),
        ("text".encode("utf-16"), "it begins as UTF-16 does"),
        ("naïve".encode("latin-1"), "at byte 2"),
    ]:
        bad.write_bytes(content)
        assert complaint in refusal(f"{tmp_path}/*.txt")
        assert complaint in refusal(tmp_path)
    bad.unlink()
    bad.symlink_to("nowhere.txt")
    for where in (tmp_path, f"{tmp_path}/*.txt", bad):
        assert f"{bad} (a link to nowhere.txt) is not" in refusal(where)
    bad.unlink()
    os.mkfifo(bad)
    assert f"{bad} is none (a pipe" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("a.csv", b"text,language\n", "a.csv holds none"),
        ("a.json", b"[]", "a.json holds none"),
        ("a.tar", archive([]), "a.tar holds none"),
        ("a.csv", b"text,n\nx,1,2\n", "line 2 of"),
        ("a.csv", b'text,n\n"x"y,1\n', "near line 2"),
        ("a.csv", b'text,n\n"x,1\ny,2\n', "Mend the quotes"),
        ("a.csv", b"text,text\nx,y\n", "Rename those"),
        ("a.csv", b"one two three four five six seven eight nine,en\nx,y\n", "Add a line of names"),
        ("a.csv", b"text;language\nx;en\n", "looks like one of semicolons"),
        ("a.csv", b"text\tlanguage\nx\ten\n", "looks like one of tabs"),
        ("a.tsv", b"text,language\nx,en\n", "looks like one of commas"),
        ("a.csv", b'text\n"' + b"long " * 3_400_000 + b'"\n', "at most 16,777,216 characters"),
        ("a.json", b'[{"text": "a"} {"text": "b"}]', "object 1"),
        ("a.json", b'[{"text": "a"},]', "a comma stands before"),
        ("a.json", b'[{"text": "a"}', "has no end; was it copied whole?"),
        ("a.json", b'[{"text": "a"}] {', "text follows the end"),
        ("a.json", b'[{"text": "a"}, {"text": tru}]', "object 2"),
        ("a.json", b'["a", "b"]', "object 1"),
        ("a.json", b"3", "object 1"),
        ("a.jsonl", b'{"text": "a"}\n' + b'{"text":' * 990 + b"1" + b"}" * 990, "line 2"),
        ("a.jsonl", b'{"text": "a", "n": ' + b"[" * 990 + b"]" * 990 + b"}", "nests"),
        ("a.json", b'[{"text": "a", "n": ' + b"[" * 90000 + b"]" * 90000 + b"}]", "nests"),
        ("a.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "line 1"),
        ("a.json", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "object 1"),
        ("a.jsonl", b'{"text": "a", "text": "b"}', "line 1"),
        ("a.jsonl", b'{"text": "a", "n": {"m": 1, "m": 2}}', "it has the key 'm' twice"),
        ("a.json", b'[{"text": "a", "text": "b"}]', "it has the key 'text' twice"),
        ("a.tar", members(("a.txt", b"x"), ("a.json", b'{"n": 1, "n": 2}')), "the key 'n' twice"),
        ("a.tar", members(("a.txt", b"x"), ("b.txt", "a.txt")), "b.txt in"),
        ("a.tar", members(("a.txt", b"version https://git-lfs.github.com/spec/v1\n")), "git lfs"),
        ("a.tar", members(("a.txt", b"x"), ("a.json", b"[" * 90000 + b"]" * 90000)), "deeper"),
        ("a.tar", b"no archive at all " * 100, "Check that it is a tar archive"),
        ("a.tar", archive(ROWS)[:5000], "was copied whole"),
        ("a.tar", archive(ROWS)[: 2048 + 100], "cut off"),  # inside a header
        ("a.tar", archive(ROWS)[:2048], "cut off"),  # between two members
        ("a.tar", archive(ROWS)[:2060] + b"\xff\xff" + archive(ROWS)[2062:], "at byte 2048"),
        ("a.tar", archive(ROWS[:20]) + archive(ROWS[20:]), "more follows its end"),
        ("a.arrow", b"no arrow at all " * 100, "Check that it is a file of its kind"),
        ("a.feather", b"ARROW1\0\0 not really", "Check that it is a file of its kind"),
        ("a.jsonl.zst", b"no zstandard " * 100, "is not: "),
        ("a.txt.xz", b"no xz " * 100, "is not: "),
        ("a.txt.bz2", b"no bzip2 " * 100, "is not: "),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert complaint in message
    assert str(tmp_path / name) in message


@pytest.mark.parametrize("packing", [".gz", ".zst", ".bz2", ".xz"])
def test_a_packed_file_that_was_cut_short(tmp_path, packing):
    draw = random.Random(0)
    data = bytes(draw.choices(b"abcdefgh \n", k=300_000))
    whole = packed(data, packing, tmp_path)
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in refusal(path)


def test_several_packed_streams_in_one_file(tmp_path):
    for packing in (".gz", ".zst", ".bz2", ".xz"):
        path = tmp_path / f"a.txt{packing}"
        path.write_bytes(packed(b"one ", packing, tmp_path) + packed(b"two", packing, tmp_path))
        assert [row["text"] for row in documents(path)] == ["one two"]


# Which column holds the text


def test_the_only_column_with_text_is_found_and_named(tmp_path):
    rows = [
        {"id": f"{i}", "body": row["text"], "language": row["language"], "n": i}
        for i, row in enumerate(ROWS)
    ]
    for path in (
        write_jsonl(tmp_path / "a.jsonl", rows),
        write_parquet(tmp_path / "a.parquet", rows),
    ):
        corpus = open_corpus(f"files:{path}")
        assert corpus.text_column == "body"
        (note,) = corpus.notes
        assert "is its column 'body'" in note
        assert [row["text"] for row in corpus.documents()] == [row["text"] for row in ROWS]
        assert "language" in corpus.label_columns
        assert open_corpus(f"files:{path}", "body").notes == ()
    short = write_jsonl(tmp_path / "short.jsonl", [{"sentence": "so", "n": 1}])
    assert open_corpus(f"files:{short}").text_column == "sentence"


def test_a_choice_between_columns_is_left_to_the_user(tmp_path):
    rows = [{"question": row["text"], "answer": row["text"][::-1], "n": 1} for row in ROWS]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    message = refusal(path)
    assert "question (text), answer (text), n (a number)" in message
    assert "--set data.text_column=NAME" in message
    assert [row["text"] for row in documents(path, text_column="answer")] == [
        row["answer"] for row in rows
    ]


def test_columns_inside_others_are_named_with_dots(tmp_path):
    rows = [
        {"message": {"content": row["text"], "role": "user", "n": {"m": "deep"}}, "kind": "a"}
        for row in ROWS
    ]
    expected = [{"text": row["text"], "kind": "a"} for row in ROWS]
    paths = [
        write_jsonl(tmp_path / "a.jsonl", rows),
        write_parquet(tmp_path / "a.parquet", rows),
    ]
    for path in paths:
        assert documents(path, text_column="message.content") == expected
        deep = documents(path, text_column="message.n.m")
        assert {row["text"] for row in deep} == {"deep"}
        assert "message.nothing" in refusal(path, text_column="message.nothing")
        assert "'message' holds" in refusal(path, text_column="message")
        assert "'message.n' holds" in refusal(path, text_column="message.n")
    assert "message.content (text)" in refusal(paths[0], text_column="content")
    dotted = write_jsonl(tmp_path / "dotted.jsonl", [{"a.b": "own", "a": {"b": "nested"}}])
    assert documents(dotted, text_column="a.b")[0]["text"] == "own"


@pytest.mark.parametrize(
    ("value", "kind"),
    [(7, "a number"), (True, "true or false"), (["x"], "a list"), ({"a": "x"}, "an object")],
)
def test_a_column_of_another_kind_is_said(tmp_path, value, kind):
    path = write_jsonl(tmp_path / "a.jsonl", [{"body": "text", "n": 1}, {"body": value, "n": 1}])
    message = refusal(path, text_column="body")
    assert f"in line 2 of {path} the column 'body' holds {kind}" in message


def test_kinds_of_parquet_columns_are_said(tmp_path):
    columns = {"text": ["x"], "n": [1], "tags": [["a"]], "raw": [b"x"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    for column, kind in (("n", "int64"), ("tags", "list<element: string>"), ("raw", "binary")):
        message = refusal(tmp_path / "a.parquet", text_column=column)
        assert f"the column {column!r} holds" in message
        assert kind.split("<")[0] in message


def test_a_damaged_page_of_parquet_is_told_by_its_checksum(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"some text {i}" for i in range(50)]})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"some text 7", b"some test 7"))
    assert "copied whole" in refusal(path)


def test_a_label_is_not_taken_for_the_text_beside_text_of_another_kind(tmp_path):
    """Only strings are read of a file with a schema, unless another column is named."""
    for text, said in (
        (pa.array([["x"]]), "'text' holds list"),
        (pa.array([b"x"]), "holds binary"),
    ):
        pq.write_table(pa.table({"text": text, "label": ["a"]}), tmp_path / "a.parquet")
        assert said in refusal(tmp_path / "a.parquet")
    inside = pa.array([{"content": "x", "n": 1}])
    pq.write_table(pa.table({"message": inside}), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet") == [{"text": "x"}]


def test_a_text_file_has_no_columns_to_choose(tmp_path):
    (tmp_path / "a.txt").write_text("plain")
    write_jsonl(tmp_path / "b.jsonl", [{"body": "row", "text": "other"}])
    found = documents(f"{tmp_path}/*", text_column="body")
    assert found == [{"text": "plain"}, {"text": "row"}]
