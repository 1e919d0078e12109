"""Where the text of a corpus is: found where there is one place, and nothing left aside unsaid."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moe.data.corpus import open_corpus
from moe.data.sources import files

TEXT = "five words and then some more of them"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"files:{path}"


def parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return f"files:{path}"


@pytest.mark.parametrize(("write", "suffix"), [(jsonl, "jsonl"), (parquet, "parquet")])
def test_the_only_text_is_found_also_inside_others(tmp_path, write, suffix):
    rows = [{"id": f"{n}", "message": {"content": f"{TEXT} {n}", "n": n}} for n in range(8)]
    corpus = open_corpus(write(tmp_path / f"c.{suffix}", rows))
    assert corpus.text_column == "message.content"
    assert "message.content" in corpus.notes[0]
    assert [row["text"] for row in corpus.documents()] == [f"{TEXT} {n}" for n in range(8)]


@pytest.mark.parametrize(("write", "suffix"), [(jsonl, "jsonl"), (parquet, "parquet")])
@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"id": "chat 1", "messages": [{"role": "user", "content": TEXT}]}, "lists of messages"),
        ({"version": "v1.1", "data": [{"qas": [{"q": TEXT}]}]}, "lists of data"),
        ({"tags": [TEXT, TEXT], "body": TEXT}, r"text_column=NAME \(body may be meant\)"),
        ({"title": TEXT, "message": {"content": TEXT}}, "title .*message.content"),
    ],
)
def test_text_that_is_not_read_is_no_reason_to_take_a_name_for_it(
    tmp_path, write, suffix, row, named
):
    with pytest.raises(ValueError, match=named):
        open_corpus(write(tmp_path / f"c.{suffix}", [row] * 8))


def test_rows_without_text_beside_others_that_have_it_are_told(tmp_path):
    rows = [{"text": TEXT if n % 10 == 0 else None, "content": TEXT} for n in range(50)]
    corpus = open_corpus(jsonl(tmp_path / "c.jsonl", rows))
    (note,) = corpus.notes
    assert "45 of the first 50 rows" in note
    assert "--set data.text_column=content" in note
    none = jsonl(tmp_path / "none.jsonl", [{"text": "", "content": TEXT}] * 5)
    with pytest.raises(ValueError, match=r"holds none.*--set data.text_column=content"):
        open_corpus(none)
    assert open_corpus(jsonl(tmp_path / "few.jsonl", [*rows[:1] * 9, *rows[1:2]])).notes == ()


def test_columns_of_one_name_are_refused_in_arrow_too(tmp_path):
    table = pa.table([pa.array([TEXT]), pa.array(["other"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "c.parquet")
    with pa.OSFile(str(tmp_path / "c.arrow"), "wb") as out, pa.ipc.new_file(out, table.schema) as w:
        w.write_table(table)
    for name in ("c.parquet", "c.arrow"):
        with pytest.raises(ValueError, match=r"different names.*text, text"):
            open_corpus(f"files:{tmp_path / name}")


LEFT_ASIDE = {*files._READERS, *files._ALSO_CALLED, *files.ARROW_KINDS} - {"txt", "json", "tar"}


@pytest.mark.parametrize(
    "name",
    ["chapter.0.txt", "b.meta.json", "b.tar", "b.txt.gz"]
    + [f"b.{kind}" for kind in sorted(LEFT_ASIDE)],
)
def test_members_of_an_archive_that_hold_text_are_not_left_aside(tmp_path, name):
    path = tmp_path / "c.tar"
    with tarfile.open(path, "w") as archive:
        for member in ("a.txt", "a.png", name):
            (tmp_path / member).write_text(TEXT)
            archive.add(tmp_path / member, member)
    with pytest.raises(ValueError, match=f"{name}.*would be left aside"):
        open_corpus(f"files:{path}")


@pytest.mark.parametrize(
    ("packed", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
)
def test_a_pointer_in_place_of_a_packed_file_is_named(tmp_path, packed, pack):
    path = tmp_path / f"c.jsonl.{packed}"
    path.write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"Git LFS pointer.*git lfs pull"):
        open_corpus(f"files:{path}")
    path.write_bytes(pack(json.dumps({"text": TEXT}).encode()))
    assert [row["text"] for row in open_corpus(f"files:{path}").documents()] == [TEXT]


def test_a_link_to_nothing_in_a_folder_is_named_whatever_it_was(tmp_path):
    jsonl(tmp_path / "a.jsonl", [{"text": TEXT}])
    os.symlink(tmp_path / "gone", tmp_path / "part2")
    with pytest.raises(ValueError, match=r"part2 .a link to"):
        open_corpus(f"files:{tmp_path}")


def test_quotes_of_a_table_without_quoting_swallow_no_rows(tmp_path):
    rows = [f"{n}\t{TEXT}" for n in range(20)]
    rows[4], rows[15] = f'4\t"{TEXT}', f'15\t{TEXT}"'
    path = tmp_path / "c.tsv"
    path.write_text("\n".join(["id\ttext", *rows, ""]))
    with pytest.raises(ValueError, match="looks like whole rows"):
        open_corpus(f"files:{path}").labels.names()
    path.write_text('id\ttext\n1\t"first line\nsecond line"\n')
    (row,) = open_corpus(f"files:{path}").documents()
    assert row["text"] == "first line\nsecond line"


def test_parts_of_a_mixture_share_no_file(tmp_path):
    for name in ("1", "2"):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{TEXT} {name} {n}"} for n in range(40)])
    with pytest.raises(ValueError, match=r"share no file.*1.jsonl"):
        open_corpus(f"mix:files:{tmp_path}/*.jsonl=0.5, files:{tmp_path}/1.jsonl=0.5")
    apart = open_corpus(f"mix:files:{tmp_path}/1.jsonl=0.5, files:{tmp_path}/2.jsonl=0.5")
    texts = [row["text"] for row in apart.documents()]
    assert len(texts) == len(set(texts)) == 80


@pytest.mark.parametrize("bits", [16, 32])
def test_a_foreign_encoding_is_told_by_its_own_name(tmp_path, bits):
    path = tmp_path / "c.txt"
    path.write_bytes(TEXT.encode(f"utf-{bits}"))
    with pytest.raises(ValueError, match=f"iconv -f UTF-{bits} -t UTF-8"):
        open_corpus(f"files:{path}")
