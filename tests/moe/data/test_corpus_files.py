"""`files:GLOB` in every format, the digest by content, and one clear error for each defect."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moe.data.corpus import open_corpus
from moe.data.sources import plain_text, unpacking

from .conftest import make_rows, write_jsonl, write_parquet

CONLLU = """\
# newdoc id = n01
# sent_id = n01001
# text = Della casa.
1-2\tDella\t_\t_\t_\t_\t_\t_\t_\t_
1\tDi\tdi\tADP\tE\t_\t3\tcase\t_\t_
2\tla\til\tDET\tRD\t_\t3\tdet\t_\t_
3\tcasa\tcasa\tNOUN\tS\t_\t0\troot\t_\tSpaceAfter=No
4\t.\t.\tPUNCT\tFS\t_\t3\tpunct\t_\t_

# sent_id = n01002
# text = È vero.
1\tÈ\tessere\tAUX\tV\t_\t2\tcop\t_\t_
2\tvero\tvero\tADJ\tA\t_\t0\troot\t_\tSpaceAfter=No
3\t.\t.\tPUNCT\tFS\t_\t2\tpunct\t_\t_

# newdoc id = n02
# sent_id = n02001
# text = Fine
1\tFine\tfine\tNOUN\tS\t_\t0\troot\t_\t_

"""


def texts(spec):
    return [row["text"] for row in open_corpus(spec).documents()]


def refusal(spec):
    with pytest.raises(ValueError, match=r"\w") as caught:
        open_corpus(spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_rows_are_documents_and_their_columns_labels(tmp_path, name):
    rows = make_rows(40)
    (write_parquet if name.endswith("parquet") else write_jsonl)(tmp_path / name, rows)
    corpus = open_corpus(f"files:{tmp_path}/{name}")
    assert list(corpus.documents()) == rows
    assert corpus.label_columns == {"language": ("de", "en"), "domain": ("code", "law", "news")}


def test_a_dictionary_or_large_string_is_a_string(tmp_path):
    rows = make_rows(10)
    table = pa.Table.from_pylist(rows)
    table = table.set_column(0, "text", table["text"].cast(pa.large_string()))
    table = table.set_column(1, "language", table["language"].dictionary_encode())
    table = table.append_column("number", pa.array(range(10)))
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(open_corpus(f"files:{tmp_path}/a.parquet").documents()) == rows


@pytest.mark.parametrize("compressed", [False, True])
def test_a_text_file_is_a_document(tmp_path, compressed):
    for name, text in (("a.txt", "one\r\ntwo é\n"), ("b.txt", "\ufeffthree")):
        data = text.encode()
        path = tmp_path / (name + ".gz" * compressed)
        path.write_bytes(gzip.compress(data) if compressed else data)
    assert texts(f"files:{tmp_path}/*") == ["one\r\ntwo é\n", "three"]


def test_a_long_text_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    paragraph = ("word " * 15 + "\n") * 8 + "\n"
    whole = paragraph * 200
    (tmp_path / "a.txt").write_text(whole)
    pieces = texts(f"files:{tmp_path}/a.txt")
    assert "".join(pieces) == whole
    assert all(piece.endswith("\n\n") for piece in pieces)
    assert max(map(len, pieces)) < plain_text.CUT_AT_LINE_CHARS
    assert len(pieces) == -(-len(whole) // plain_text.CUT_CHARS)


def test_a_text_without_blank_lines_or_without_lines_is_cut_too(tmp_path):
    for name, text in (("a.txt", "word word\n" * 9000), ("b.txt", "x" * 2_500_000)):
        (tmp_path / name).write_text(text)
        pieces = texts(f"files:{tmp_path}/{name}")
        assert "".join(pieces) == text
        assert len(pieces) == 3


@pytest.mark.parametrize("compressed", [False, True])
def test_conllu_documents(tmp_path, compressed):
    path = tmp_path / ("a.conllu" + ".gz" * compressed)
    path.write_bytes(gzip.compress(CONLLU.encode()) if compressed else CONLLU.encode())
    assert texts(f"files:{path}") == ["Della casa. È vero.", "Fine"]


def test_conllu_without_document_marks_has_a_document_a_sentence(tmp_path):
    lines = [line for line in CONLLU.splitlines(keepends=True) if "newdoc" not in line]
    (tmp_path / "a.conllu").write_text("".join(lines))
    assert texts(f"files:{tmp_path}/a.conllu") == ["Della casa.", "È vero.", "Fine"]


def test_a_glob_is_read_in_sorted_order_and_may_mix_formats(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", [{"text": "b"}])
    write_parquet(tmp_path / "c.parquet", [{"text": "c"}])
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "folder.txt" / "d.txt").write_text("d")
    assert texts(f"files:{tmp_path}/*") == ["a", "b", "c"]
    assert texts(f"files:{tmp_path}/**/*.txt") == ["a", "d"]


def test_a_path_with_glob_characters_is_taken_as_it_is(tmp_path):
    (tmp_path / "a[1].txt").write_text("a")
    assert texts(f"files:{tmp_path}/a[1].txt") == ["a"]


def test_rows_without_text_are_no_documents(tmp_path):
    rows = [{"text": "a"}, {"text": ""}, {"text": None}, {"text": " \n"}, {"text": "b"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert texts(f"files:{tmp_path}/a.jsonl") == ["a", "b"]


def test_the_digest_is_of_the_content_and_not_of_the_path(tmp_path):
    rows = make_rows(10)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "a.jsonl", rows)
    write_jsonl(tmp_path / "zipped.jsonl.gz", rows)
    write_jsonl(tmp_path / "other.jsonl", make_rows(10, seed=1))
    digests = [
        open_corpus(f"files:{tmp_path}/{name}").digest
        for name in ("here/a.jsonl", "there/*.jsonl", "zipped.jsonl.gz", "other.jsonl")
    ]
    assert digests[0] == digests[1] == digests[2] != digests[3]


def test_the_digest_sees_where_a_file_ends(tmp_path):
    digests = set()
    for folder, parts in (("a", ("one", "two")), ("b", ("onet", "wo")), ("c", ("onetwo",))):
        (tmp_path / folder).mkdir()
        for i, part in enumerate(parts):
            (tmp_path / folder / f"{i}.txt").write_text(part)
        digests.add(open_corpus(f"files:{tmp_path}/{folder}/*").digest)
    assert len(digests) == 3


def test_documents_come_as_a_data_set_and_nothing_is_written_to_the_home(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "a.jsonl", make_rows(5))
    cache = tmp_path / "cache"
    cache.mkdir()
    dataset = open_corpus(f"files:{tmp_path}/a.jsonl").dataset(cache)
    assert type(dataset).__name__ == "IterableDataset"
    for _ in range(2):  # it can be read again
        assert list(dataset) == make_rows(5)
    code = (
        "import sys, pathlib; from moe.data.corpus import open_corpus\n"
        "list(open_corpus(sys.argv[1]).dataset(pathlib.Path(sys.argv[2])))"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run(
        [sys.executable, "-c", code, f"files:{tmp_path}/a.jsonl", str(cache)],
        check=True,
        env=environment,
    )
    assert list(home.iterdir()) == []


def test_parquet_is_read_by_pages_even_from_one_row_group(tmp_path):
    rows, line = 20_000, "0123456789abcdef" * 250
    texts_ = pa.array([f"{i} {line[i % 99 :]}" for i in range(rows)])
    pq.write_table(
        pa.table({"text": texts_}),
        tmp_path / "a.parquet",
        row_group_size=rows,
        use_dictionary=False,
    )
    code = (
        "import sys, resource; from moe.data.sources.files import LocalFiles\n"
        "source = LocalFiles(sys.argv[1]); rows = source.rows(); next(rows)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); count = 1 + sum(1 for _ in rows); print(count, peak() - before)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, f"{tmp_path}/a.parquet"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    count, grown_kib = map(int, printed.split())
    assert count == rows
    assert grown_kib < 40_000  # of 78 MiB of text


def test_what_is_no_spec():
    for spec in ("", "files", "files:", "hub:", "wikipedia", "file:x"):
        assert f"received {spec!r}" in refusal(spec)


def test_no_file_matches(tmp_path):
    assert f"'{tmp_path}/*.jsonl' matches none" in refusal(f"files:{tmp_path}/*.jsonl")


def test_an_unknown_format(tmp_path):
    (tmp_path / "a.pdf").write_text("x")
    assert "reads .txt, .jsonl, .json" in refusal(f"files:{tmp_path}/*")
    write_parquet(tmp_path / "b.parquet", make_rows(2)).rename(tmp_path / "b.parquet.gz")
    assert "b.parquet.gz" in refusal(f"files:{tmp_path}/b*")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.conllu"])
def test_an_empty_corpus(tmp_path, name):
    (tmp_path / name).write_text("\n \n")
    assert "at least one document" in refusal(f"files:{tmp_path}/{name}")


def test_an_empty_parquet_file(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert "at least one document" in refusal(f"files:{tmp_path}/a.parquet")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.conllu", "a.txt.gz"])
def test_invalid_utf8_is_named_with_its_place(tmp_path, name, monkeypatch):
    monkeypatch.setattr(unpacking, "BLOCK_BYTES", 7)
    data = "ééé ok ".encode() + b"\xe9 latin"
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert f"{path} is not, at byte 10" in refusal(f"files:{path}")


def test_text_that_ends_inside_a_character(tmp_path):
    (tmp_path / "a.txt").write_bytes("é".encode()[:1])
    assert "ends inside a character" in refusal(f"files:{tmp_path}/a.txt")


def test_invalid_utf8_in_parquet(tmp_path):
    bad = pa.array([b"ok", b"\xe9 latin"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    corpus = f"files:{tmp_path}/a.parquet"
    assert f"{tmp_path}/a.parquet is not (" in refusal(corpus)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{'text': 1}", "is not: Expecting property name"),
        ('["text"]', "is '[\"text\"]\\n'"),
        ('{"text": 7}', "the column 'text' holds a number"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(tmp_path, line, complaint):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    message = refusal(f"files:{tmp_path}/a.jsonl")
    assert complaint in message
    assert f"line 1 of {tmp_path}/a.jsonl" in message


def test_no_text_column(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"n": 1}])
    assert "line 1" not in refusal(f"files:{tmp_path}/a.jsonl")
    assert "has the columns n (a number)" in refusal(f"files:{tmp_path}/a.jsonl")
    write_parquet(tmp_path / "a.parquet", [{"n": 1, "m": 2.5}])
    assert "has the columns n (int64), m (double)" in refusal(f"files:{tmp_path}/a.parquet")
    write_parquet(tmp_path / "b.parquet", [{"text": 1}])
    assert "the column 'text' holds int64" in refusal(f"files:{tmp_path}/b.parquet")


def test_every_parquet_file_is_checked_at_once(tmp_path):
    write_parquet(tmp_path / "a.parquet", make_rows(3))
    write_parquet(tmp_path / "b.parquet", [{"content": "x"}])
    assert "b.parquet has the columns content (string)" in refusal(f"files:{tmp_path}/*.parquet")


def test_conllu_without_the_sentence_text(tmp_path):
    (tmp_path / "a.conllu").write_text("1\tFine\tfine\tNOUN\tS\t_\t0\troot\t_\t_\n\n")
    assert "'# text = ...' before its words; the one at line 1" in refusal(
        f"files:{tmp_path}/a.conllu"
    )


@pytest.mark.parametrize("name", ["a.parquet", "a.txt.gz", "a.jsonl.gz"])
def test_a_file_that_is_not_what_its_name_says(tmp_path, name):
    (tmp_path / name).write_bytes(b"not at all " * 100)
    assert f"{tmp_path}/{name} is not: " in refusal(f"files:{tmp_path}/{name}")


def test_a_truncated_file(tmp_path):
    whole = gzip.compress(b"text\n" * 10_000)
    (tmp_path / "a.txt.gz").write_bytes(whole[:-20])
    assert "must be readable" in refusal(f"files:{tmp_path}/a.txt.gz")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(unpacking, "open_bytes", refuse)
    assert "Permission denied. Check its permissions" in refusal(f"files:{tmp_path}/a.txt")


def test_json_escapes_in_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "é 😀"}) + "\n")
    assert texts(f"files:{tmp_path}/a.jsonl") == ["é 😀"]
