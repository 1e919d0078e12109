from __future__ import annotations

import numpy as np

from moe.data.labels import MAX_LABEL_VALUES, LabelTable


def table(rows):
    labels = LabelTable()
    for row in rows:
        labels.add({"text": "x", **row})
    columns, codes = labels.finish()
    return labels, columns, codes


def test_few_strings_are_labels_with_sorted_values():
    _, columns, codes = table([{"language": ("fr", "de")[i % 2]} for i in range(10)])
    assert columns == {"language": ("de", "fr")}
    assert np.array_equal(codes["language"], [1, 0] * 5)


def test_the_text_is_no_label():
    assert table([{}] * 10)[1] == {}


def test_half_as_many_values_as_documents_are_too_many():
    labels, columns, _ = table([{"a": str(i % 5), "b": str(i % 4)} for i in range(10)])
    assert list(columns) == ["b"]
    assert labels.left_out == {"a": "has 5 distinct values in 10 documents"}


def test_the_bound_on_distinct_values():
    at, above = MAX_LABEL_VALUES, MAX_LABEL_VALUES + 1
    rows = [{"at": str(i % at), "above": str(i % above)} for i in range(3 * above)]
    labels, columns, _ = table(rows)
    assert list(columns) == ["at"]
    assert len(columns["at"]) == at
    assert labels.left_out == {"above": f"has more than {at} distinct values"}


def test_a_missing_value_is_the_empty_label_even_in_a_late_column():
    rows = [{}] * 6 + [{"topic": "a"}, {"topic": None}, {}]
    _, columns, codes = table(rows)
    assert columns == {"topic": ("", "a")}
    assert np.array_equal(codes["topic"], [0] * 6 + [1, 0, 0])


def test_other_types_are_no_labels():
    labels, columns, _ = table([{"year": 2024, "tags": ["x"]}] * 10)
    assert columns == {}
    assert labels.left_out == {"tags": "holds a list, not text", "year": "holds a int, not text"}
