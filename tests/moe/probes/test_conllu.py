"""Tags of CoNLL-U on the characters of the surface text."""

from __future__ import annotations

import pytest

from moe.probes.conllu import Sentence, read_sentences


def conllu(*words: str, text: str | None = None) -> list[str]:
    """Lines of one sentence: `id form tag [misc]`, a form's spaces written as `~`."""
    lines = [f"# text = {text}\n"] if text is not None else []
    for word in words:
        identity, form, tag, *misc = word.split()
        fields = [identity, form.replace("~", " "), "_", tag, *"_____", *(misc or ["_"])]
        lines.append("\t".join(fields) + "\n")
    return [*lines, "\n"]


def tagged(lines: list[str]) -> list[tuple[str, str]]:
    (sentence,) = read_sentences(lines, "here")
    assert sentence.spans is not None
    return [(sentence.text[start:end], tag) for start, end, tag in sentence.spans]


def test_italian_multiword_token():
    lines = conllu(
        "1 parte NOUN",
        "2-3 della _",
        "2 di ADP",
        "3 la DET",
        "4 città NOUN SpaceAfter=No",
        "5 . PUNCT",
        text="parte della città.",
    )
    assert tagged(lines) == [
        ("parte", "NOUN"),
        ("della", "ADP+DET"),
        ("città", "NOUN"),
        (".", "PUNCT"),
    ]


def test_french_multiword_token_first_and_elision():
    lines = conllu(
        "1-2 Du _",
        "1 de ADP",
        "2 le DET",
        "3 café NOUN",
        "4 à ADP",
        "5 l' DET SpaceAfter=No",
        "6 eau NOUN",
        text="Du café à l'eau",
    )
    assert tagged(lines) == [
        ("Du", "ADP+DET"),
        ("café", "NOUN"),
        ("à", "ADP"),
        ("l'", "DET"),
        ("eau", "NOUN"),
    ]


def test_three_words_in_one_and_no_space_after_it():
    lines = conllu(
        "1-3 dandoglielo _ SpaceAfter=No",
        "1 dando VERB",
        "2 glie PRON",
        "3 lo PRON",
        "4 ! PUNCT",
        text="dandoglielo!",
    )
    assert tagged(lines) == [("dandoglielo", "VERB+PRON+PRON"), ("!", "PUNCT")]


def test_a_word_that_occurs_twice_gets_the_tag_of_its_place():
    lines = conllu("1 can AUX", "2 can VERB", "3 can NOUN", text="can can can")
    (sentence,) = read_sentences(lines, "here")
    assert sentence.spans == ((0, 3, "AUX"), (4, 7, "VERB"), (8, 11, "NOUN"))


def test_word_with_a_space_and_an_empty_node():
    lines = conllu("1 1~000 NUM", "1.1 omitted VERB", "2 mots NOUN", text="1 000 mots")
    assert tagged(lines) == [("1 000", "NUM"), ("mots", "NOUN")]


def test_text_is_made_from_the_forms_where_there_is_none():
    lines = conllu("1-2 im _", "1 in ADP", "2 dem DET", "3 Haus NOUN SpaceAfter=No", "4 . PUNCT")
    assert list(read_sentences(lines, "here")) == [
        Sentence(text="im Haus.", spans=((0, 2, "ADP+DET"), (3, 7, "NOUN"), (7, 8, "PUNCT")))
    ]


def test_words_without_a_tag_have_no_span():
    assert tagged(conllu("1 a _", "2 b NOUN", text="a b")) == [("b", "NOUN")]


def test_words_that_are_not_in_the_text():
    (sentence,) = read_sentences(conllu("1 other NOUN", text="something else"), "here")
    assert sentence.spans is None


def test_last_sentence_needs_no_blank_line_and_comments_stand_alone():
    lines = ["# newdoc\n", "\n", *conllu("1 a DET", text="a"), *conllu("1 b X", text="b")[:-1]]
    assert [sentence.text for sentence in read_sentences(lines, "here")] == ["a", "b"]


@pytest.mark.parametrize("line", ["1\tword\tNOUN\n", "just text\n", "x" + "\t_" * 9 + "\n"])
def test_a_line_that_is_not_conllu(line):
    with pytest.raises(ValueError, match=r"10 columns .* line 2 of there is '"):
        list(read_sentences(["# text = word\n", line], "there"))
