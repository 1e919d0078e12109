"""Labels of characters on tokens, against a loop over characters, for tokenizers of all sizes."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from moe.data.tokenizer import ByteTokenizer
from moe.probes.alignment import NO_LABEL, tokenize_probe
from moe.probes.probe_sources import Document, Probe


@dataclass(frozen=True)
class Pieces:
    """A tokenizer of given pieces: cuts the bytes of a text after the lengths in `cuts`, anew for
    each text; token i is the i-th piece that was ever cut."""

    cuts: tuple[int, ...]
    lossy: bool = False

    end_of_document = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(bytes(n) for n in range(1 + max(self.cuts))))

    def encode(self, text: str) -> np.ndarray:
        """The id of a piece is its length: enough for what alignment reads."""
        left, ids = len(text.encode()) - self.lossy, []
        while left > 0:
            ids.append(min(left, self.cuts[len(ids) % len(self.cuts)]))
            left -= ids[-1]
        return np.array(ids)


def probe(*documents: Document, unit: str = "span") -> Probe:
    return Probe(spec="here", labelled_unit=unit, documents=documents, left_out_share=0.0)


def names(found) -> list[str | None]:
    return [None if label == NO_LABEL else found.labels[label] for label in found.label_T]


def naive(text: str, spans, lengths) -> tuple[list[str | None], list[bool]]:
    """Character by character: the label of the span that a token covers most of, the first among
    equals, and whether another label is covered too."""
    pieces = [(i, Fraction(1, len(c.encode()))) for i, c in enumerate(text) for _ in c.encode()]
    labels, crossing, at = [], [], 0
    for length in lengths:
        cover: dict[int, Fraction] = {}
        for character, part in pieces[at : at + length]:
            for number, (start, end, _) in enumerate(spans):
                if start <= character < end:
                    cover[number] = cover.get(number, Fraction(0)) + part
        best = max(cover, key=lambda number: (cover[number], -number), default=None)
        labels.append(None if best is None else spans[best][2])
        crossing.append(len({spans[number][2] for number in cover}) > 1)
        at += length
    return labels, crossing


def test_bytes_of_a_character_have_its_label():
    found = tokenize_probe(
        probe(Document(text="è qui", spans=((0, 1, "AUX"), (2, 5, "ADV")))), ByteTokenizer()
    )
    assert names(found) == ["AUX", "AUX", None, "ADV", "ADV", "ADV"]
    assert found.unit_T.tolist() == [0, 0, NO_LABEL, 1, 1, 1]
    assert found.unlabelled_share == pytest.approx(1 / 6)
    assert found.crossing_share == 0


def test_a_token_takes_the_label_that_it_covers_most():
    document = Document(text="abcd", spans=((0, 1, "A"), (1, 4, "B")))
    found = tokenize_probe(probe(document), Pieces((4,)))
    assert (names(found), found.crossing_share) == (["B"], 1.0)


def test_the_first_of_two_equals_by_characters_not_bytes():
    """`à.` is three bytes, two of the first character: one character each."""
    document = Document(text=".à", spans=((0, 1, "PUNCT"), (1, 2, "ADP")))
    assert names(tokenize_probe(probe(document), Pieces((3,)))) == ["PUNCT"]


def test_white_space_before_a_word_does_not_count():
    document = Document(text="a    b", spans=((0, 1, "A"), (5, 6, "B")))
    found = tokenize_probe(probe(document), Pieces((1, 5)))
    assert (names(found), found.crossing_share) == (["A", "B"], 0.0)


def test_neighbours_of_one_label_are_no_crossing():
    document = Document(text="ab", spans=((0, 1, "A"), (1, 2, "A")))
    assert tokenize_probe(probe(document), Pieces((2,))).crossing_share == 0


@pytest.mark.parametrize("cuts", [(1,), (2,), (3, 1), (1, 4, 2), (7, 5)])
def test_random_texts_against_the_loop(cuts):
    draw = random.Random(str(cuts))
    documents = []
    for _ in range(30):
        text = "".join(draw.choices("ab é日🙂", k=draw.randrange(1, 25)))
        edges = sorted(draw.choices(range(len(text) + 1), k=draw.randrange(2, 10)))
        spans = [
            (start, end, draw.choice("XYZ"))
            for start, end in itertools.pairwise(edges)
            if start < end and draw.random() < 0.8
        ]
        documents.append(Document(text=text, spans=tuple(spans)))
    tokenizer = Pieces(cuts)
    found = tokenize_probe(probe(*documents), tokenizer)
    labels, crossing, owners = [], [], []
    for number, document in enumerate(documents):
        lengths = tokenizer.encode(document.text).tolist()
        expected = naive(document.text, document.spans, lengths)
        labels += expected[0]
        crossing += expected[1]
        owners += [number] * len(lengths)
    assert names(found) == labels
    assert found.document_T.tolist() == owners
    assert found.crossing_share == pytest.approx(
        sum(crossing) / sum(label is not None for label in labels)
    )
    for unit in range(found.unit_T.max() + 1):
        assert len(set(found.label_T[found.unit_T == unit])) <= 1, "a unit has one label"


def test_labels_of_documents_reach_every_token():
    documents = (Document(text="ab cd", label="x"), Document(text="é", label="w"))
    found = tokenize_probe(probe(*documents, unit="document"), ByteTokenizer())
    assert names(found) == ["x"] * 5 + ["w"] * 2
    assert found.unit_T.tolist() == found.document_T.tolist() == [0] * 5 + [1] * 2
    assert (found.labels, found.unlabelled_share) == (("w", "x"), 0.0)


def test_a_limit_keeps_whole_documents_the_same_each_time():
    documents = [Document(text="x" * (i % 7 + 1), label="ab"[i % 2]) for i in range(50)]
    whole = probe(*documents, unit="document")
    found = tokenize_probe(whole, ByteTokenizer(), max_tokens=60)
    again = tokenize_probe(whole, ByteTokenizer(), max_tokens=60)
    assert 40 < len(found.token_T) <= 60
    assert np.array_equal(found.document_T, again.document_T)
    assert set(np.bincount(found.document_T)) <= set(range(1, 8))
    assert len(tokenize_probe(whole, ByteTokenizer(), max_tokens=1).token_T) >= 1, "at least one"


def test_tokens_that_do_not_spell_the_text_are_refused():
    document = Document(text="abc", spans=((0, 3, "A"),))
    with pytest.raises(ValueError, match="must spell it; received 2 bytes of tokens for 3 bytes"):
        tokenize_probe(probe(document), Pieces((1,), lossy=True))
