from __future__ import annotations

import platform

import pytest

from moe.data.corpus import open_corpus
from moe.data.sources import stdlib


@pytest.fixture(scope="module")
def corpus():
    return open_corpus("stdlib")


def test_it_is_about_ten_megabytes_of_labelled_source(corpus):
    rows = list(corpus.documents())
    size = sum(len(row["text"].encode()) for row in rows)
    topics = {row["topic"] for row in rows}
    assert 5e6 < size < 20e6
    # Debian keeps tkinter and others apart.
    assert {"asyncio", "email", "xml", "unittest", stdlib.SINGLE_MODULES} <= topics
    assert len(corpus.label_columns["topic"]) == len(topics) > 15


def test_tests_and_data_tables_are_left_out(corpus):
    topics = {row["topic"] for row in corpus.documents()}
    assert not topics & {"test", "encodings", "pydoc_data", "site-packages", "config"}
    names = {path.as_posix() for _, path in corpus.source._files}
    assert not [n for n in names if "/tests/" in n or "_sysconfigdata" in n or "entities" in n]
    assert any(name.endswith("/argparse.py") for name in names)


def test_version_and_digest_are_recorded(corpus):
    assert corpus.provenance["python_version"] == platform.python_version()
    assert corpus.provenance["digest"] == corpus.digest == open_corpus("stdlib").digest


def test_the_digest_is_of_the_content(tmp_path, monkeypatch):
    def digest(folder, source):
        (tmp_path / folder / "email").mkdir(parents=True)
        (tmp_path / folder / "email" / "parser.py").write_text(source)
        monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda name: str(tmp_path / folder))
        return open_corpus("stdlib").digest

    assert digest("a", "x = 1\n") == digest("b", "x = 1\n") != digest("c", "x = 2\n")


def test_a_python_without_its_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match=r"as source files; .* holds none"):
        open_corpus("stdlib")
