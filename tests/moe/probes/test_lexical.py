"""Lexical classes of Python source, by characters."""

from __future__ import annotations

import itertools
import sys

import pytest

from moe.probes.lexical import lexical_spans


def classes(source: str) -> list[tuple[str, str]]:
    return [(source[start:end], label) for start, end, label in lexical_spans(source)]


def test_every_class():
    assert classes("def f(x):  # why\n    return 'é' if x else 1.5j\n") == [
        ("def", "keyword"),
        ("f", "name"),
        ("(", "operator"),
        ("x", "name"),
        (")", "operator"),
        (":", "operator"),
        ("# why", "comment"),
        ("return", "keyword"),
        ("'é'", "string"),
        ("if", "keyword"),
        ("x", "name"),
        ("else", "keyword"),
        ("1.5j", "number"),
    ]


def test_strings_over_several_lines_and_continued_lines():
    source = 'a = """one\n  zwei é\n""" \\\n  + b\n'
    assert classes(source) == [
        ("a", "name"),
        ("=", "operator"),
        ('"""one\n  zwei é\n"""', "string"),
        ("+", "operator"),
        ("b", "name"),
    ]


def test_soft_keywords_are_names_and_constants_keywords():
    assert classes("match = None\n") == [
        ("match", "name"),
        ("=", "operator"),
        ("None", "keyword"),
    ]


def test_an_f_string_is_a_string_and_from_3_12_on_code_inside():
    found = classes("f'a{b!r}c'\n")
    if sys.version_info < (3, 12):
        assert found == [("f'a{b!r}c'", "string")]
    else:
        assert ("b", "name") in found
        assert "".join(text for text, label in found if label == "string") == "f'ac'"


def test_spans_are_in_order_and_apart():
    source = "x = {'a': f'{1}{{}}', **y}\nlambda: (yield)  # é\n"
    spans = lexical_spans(source)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert all(0 <= start < end <= len(source) for start, end, _ in spans)


def test_no_line_end_at_the_end_and_nothing_at_all():
    assert classes("pass") == [("pass", "keyword")]
    assert classes("") == []


@pytest.mark.parametrize("source", ["a = (1,\n", "'''open\n", "if x:\n    a\n  b\n"])
def test_source_that_is_none(source):
    with pytest.raises(ValueError, match="this Python can tokenize"):
        lexical_spans(source)
