"""Mixtures of corpora: what is drawn, that it is drawn again, and the shares that it comes to."""

from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from moe.config import DataConfig
from moe.data.corpus import open_corpus
from moe.data.prepare import data_digest, prepare
from moe.data.sources import kinds
from moe.data.sources.mixed_corpora import obtained_parts, parse_mixture, part_specs
from moe.data.token_store import TokenStore


def write(path, texts, **columns):
    rows = [{"text": text, **{c: v for c, v in columns.items()}} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"files:{path}"


def texts_of(kind, count, words, seed=0):
    draw = random.Random(f"{kind}{seed}")
    return [" ".join(f"{kind}{draw.randrange(999)}" for _ in range(words)) for _ in range(count)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Three corpora: many short documents, few long ones, and a small one."""
    folder = tmp_path_factory.mktemp("parts")
    return {
        "short": write(folder / "short.jsonl", texts_of("s", 900, 20), language="en"),
        "long": write(folder / "long.jsonl", texts_of("l", 200, 150)),
        "small": write(folder / "small.jsonl", texts_of("m", 60, 40), domain="law"),
    }


def sizes(spec):
    """Bytes of text by part, of an opened mixture."""
    found: dict[str, int] = {}
    for row in open_corpus(spec).documents():
        found[row["part"]] = found.get(row["part"], 0) + len(row["text"].encode())
    return found


@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.3, 0.7), (0.5, 0.5), (19, 1), (0.02, 0.98)])
def test_shares_are_those_asked_for(parts, weights):
    spec = f"mix:{parts['short']}={weights[0]},{parts['long']}={weights[1]}"
    found = sizes(spec)
    asked = {"short.jsonl": weights[0], "long.jsonl": weights[1]}
    whole = sum(found.values())
    for name, weight in asked.items():
        # A document more or less: the longest has about 700 bytes.
        assert found[name] == pytest.approx(weight / sum(weights) * whole, abs=800)


def test_the_scarcest_part_is_taken_whole_and_nothing_twice(parts):
    spec = f"mix:{parts['short']}=1,{parts['long']}=1,{parts['small']}=1"
    rows = list(open_corpus(spec).documents())
    assert sum(row["part"] == "small.jsonl" for row in rows) == 60
    assert len({row["text"] for row in rows}) == len(rows)
    assert {row["part"] for row in rows} == {"short.jsonl", "long.jsonl", "small.jsonl"}


def test_the_draw_is_that_of_a_naive_sampler(parts):
    """Sorts each part's documents by place, and takes them until the share is reached."""
    found = [
        row["text"] for row in open_corpus(f"mix:{parts['short']}=2,{parts['long']}=3").documents()
    ]

    def place(text):
        digest = hashlib.blake2b(
            text.encode(), digest_size=8, person=b"mixture", salt=bytes(8)
        ).digest()
        return int.from_bytes(digest, "big") % (1 << 18)

    read = {k: [r["text"] for r in open_corpus(parts[k]).documents()] for k in ("short", "long")}
    whole = {k: sum(map(len, texts)) for k, texts in read.items()}
    share = {"short": Fraction(2, 5), "long": Fraction(3, 5)}
    largest = min(whole[k] / share[k] for k in read)
    naive = set()
    for kind, texts in read.items():
        taken = 0
        for text in sorted(texts, key=place):
            if abs(taken - share[kind] * largest) <= abs(taken + len(text) - share[kind] * largest):
                break
            naive.add(text)
            taken += len(text)
    assert set(found) == naive


def test_a_mixture_is_drawn_again_whatever_the_order_of_files_and_parts(parts, tmp_path):
    spec = f"mix:{parts['short']}=0.7,{parts['long']}=0.3"
    turned = f"mix:{parts['long']}=3,{parts['short']}=7"
    assert open_corpus(spec).digest == open_corpus(turned).digest
    assert list(open_corpus(spec).documents()) == list(open_corpus(turned).documents())
    (tmp_path / "a").mkdir()
    shuffled = texts_of("s", 900, 20)[::-1]
    again = write(tmp_path / "a" / "short.jsonl", shuffled, language="en")
    drawn = {row["text"] for row in open_corpus(spec).documents()}
    of_shuffled = open_corpus(f"mix:{again}=0.7,{parts['long']}=0.3")
    assert {row["text"] for row in of_shuffled.documents()} == drawn


def test_weights_seed_and_text_are_the_identity(parts):
    spec = f"mix:{parts['short']}=0.7,{parts['long']}=0.3"
    others = [
        f"mix:{parts['short']}=0.6,{parts['long']}=0.4",
        f"{spec},seed=1",
        f"mix:{parts['short']}=0.7,{parts['small']}=0.3",
    ]
    digests = {open_corpus(s).digest for s in (spec, *others)}
    assert len(digests) == 4
    assert open_corpus(f"{spec},seed=0").digest == open_corpus(spec).digest
    seeded = {row["text"] for row in open_corpus(others[1]).documents()}
    plain = {row["text"] for row in open_corpus(spec).documents()}
    assert seeded != plain
    assert len({data_digest(DataConfig(corpus=s), open_corpus(s)) for s in (spec, *others)}) == 4


def test_other_weights_share_what_they_can(parts):
    """The same documents first: two mixtures differ by their weights, not by a second draw."""
    less, more = (
        {r["text"] for r in open_corpus(f"mix:{parts['small']}=1,{parts['short']}={w}").documents()}
        for w in (1, 2)
    )
    assert less < more


def test_prepared_tokens_know_their_parts(parts, tmp_path):
    spec = f"mix:{parts['short']}=0.7,{parts['long']}=0.3"
    config = DataConfig(corpus=spec, holdout_fraction=0.2)
    store = TokenStore.open(prepare(config, tmp_path))
    assert store.label_values("part") == ("long.jsonl", "short.jsonl")
    obtained = {part.name: part for part in obtained_parts(store.meta)}
    assert {name: part.asked for name, part in obtained.items()} == {
        "short.jsonl": 0.7,
        "long.jsonl": 0.3,
    }
    counted = dict.fromkeys(obtained, 0)
    for ids, labels in store.documents("train"):
        counted[labels["part"]] += len(ids) + 1
    for name, part in obtained.items():
        assert part.tokens == counted[name]
        assert part.share == pytest.approx(counted[name] / sum(counted.values()))
        assert part.share == pytest.approx(part.asked, abs=0.05)
        assert part.held_out_tokens > 0
    # No sequence holds text of two parts.
    batch = store.batch(seed=0, step=0, num_sequences=200, context_length=32)
    for ids, part in zip(batch.ids_BS, batch.labels["part"], strict=True):
        letters = {chr(i) for i in ids if chr(i).isalpha()} if max(ids) < 256 else set()
        assert letters <= ({"l"} if store.label_values("part")[part] == "long.jsonl" else {"s"})


def test_parts_of_all_kinds_make_one_mixture(parts, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    hub = tmp_path / "hub_set"
    hub.mkdir()
    # As much of each as the longest module of a standard library, whichever comes first in it.
    table = pa.table({"text": texts_of("h", 800, 50), "license": ["mit", "bsd"] * 400})
    pq.write_table(table, hub / "train.parquet")
    spec = f"mix:stdlib=1,{parts['short']}=1,hub:{hub}=2"
    found = sizes(spec)
    assert set(found) == {"stdlib", "short.jsonl", "hub_set"}
    assert found["hub_set"] == pytest.approx(2 * found["short.jsonl"], rel=0.1)
    rows = open_corpus(spec).documents()
    columns = {column for row in rows for column in row}
    assert {"text", "part", "topic", "language", "license"} <= columns


def test_memory_does_not_grow_with_the_text(tmp_path):
    def peak(count):
        a = write(tmp_path / f"a{count}.jsonl", texts_of("a", count, 60))
        b = write(tmp_path / f"b{count}.jsonl", texts_of("b", count, 60))
        corpus = open_corpus(f"mix:{a}=1,{b}=1")
        tracemalloc.start()
        try:
            read = sum(1 for _ in corpus.documents())
            assert read == pytest.approx(2 * count, rel=0.05)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(300), peak(6000)
    assert large < small + (1 << 20)


@pytest.mark.parametrize(
    ("rest", "parsed"),
    [
        ("stdlib=0.7,files:a.txt=0.3", {"stdlib": 0.7, "files:a.txt": 0.3}),
        ("files:a=1,b=2.txt=3,stdlib=1", {"files:a=1,b=2.txt": 3, "stdlib": 1}),
        ("hub:o/n,en+fr=1,hub:o/n,de=2", {"hub:o/n,en+fr": 1, "hub:o/n,de": 2}),
        ("files:x/{a,b}*.txt=.5,stdlib=2.", {"files:x/{a,b}*.txt": 0.5, "stdlib": 2}),
        ("files:seed=1/a=1,stdlib=1", {"files:seed=1/a": 1, "stdlib": 1}),
    ],
)
def test_how_a_spec_is_read(rest, parsed):
    weights, seed = parse_mixture(rest)
    assert {spec: float(weight) for spec, weight in weights.items()} == parsed
    assert seed == 0
    assert parse_mixture(f"{rest},seed=7") == (weights, 7)
    assert part_specs(f"mix:{rest}") == list(parsed)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("stdlib=1", "2 to 16 parts"),
        ("stdlib=0,files:a=1", "above 0"),
        ("stdlib=-1,files:a=1", "above 0"),
        ("stdlib=nan,files:a=1", "above 0"),
        ("stdlib=1e400,files:a=1", "above 0"),
        ("stdlib=.,files:a=1", "above 0"),
        ("stdlib=,files:a=1", "above 0"),
        ("stdlib=1,files:a", "Give each part a weight"),
        ("stdlib=1,stdlib=2", "each part once"),
        ("mix:stdlib=1,files:a=1=1,files:b=1", "no mixture itself"),
        ("nothing=1,stdlib=1", "A part is"),
        ("files:=1,stdlib=1", "A part is"),
        (",".join(f"files:{i}=1" for i in range(17)), "2 to 16 parts"),
        ("seed=1", "received"),
        ("", "a corpus is"),
    ],
)
def test_what_is_no_mixture_is_refused(rest, said):
    with pytest.raises(ValueError, match=said):
        open_corpus(f"mix:{rest}")


def test_parts_must_differ_and_leave_the_label_alone(parts, tmp_path):
    copy = write(tmp_path / "copy.jsonl", texts_of("s", 900, 20), language="en")
    with pytest.raises(ValueError, match="hold the same"):
        open_corpus(f"mix:{parts['short']}=1,{copy}=1")
    named = write(tmp_path / "named.jsonl", texts_of("n", 60, 20), part="mine")
    with pytest.raises(ValueError, match="Rename it"):
        list(open_corpus(f"mix:{parts['short']}=1,{named}=1").documents())
    with pytest.raises(ValueError, match="at least one document"):
        list(open_corpus(f"mix:{parts['small']}=1,{parts['long']}=0.00001").documents())


def test_two_parts_of_one_name_are_told_apart(tmp_path):
    specs = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        specs.append(write(tmp_path / folder / "text.jsonl", texts_of(folder, 40, 30)))
    names = set(sizes(f"mix:{specs[0]}=1,{specs[1]}=1"))
    assert len(names) == 2
    assert all(name.startswith("text.jsonl-") for name in names)


def test_places_are_even():
    """Shares hold for text of any kind: the places of documents are uniform."""
    from moe.data.sources.mixed_corpora import _place

    places = np.array([_place(f"document {i}".encode(), 0) for i in range(20000)])
    counts = np.bincount(places >> 14, minlength=16)
    assert ((counts - 1250) ** 2 / 1250).sum() < 45  # chi-square of 15 degrees, p = 1e-4


def test_a_kind_of_corpus_is_one_row(monkeypatch):
    """A kind that is added is read by itself and as a part of a mixture, and refusals name it."""
    added = kinds.Kind(form="lines:TEXT", opens=lambda text: None)
    monkeypatch.setitem(kinds.KINDS, "lines", added)
    assert kinds.kind_of("lines:a,b") is added
    assert kinds.kind_of("lines") is kinds.kind_of("lines:") is None
    weights, _ = parse_mixture("lines:a=1,stdlib=2")
    assert list(weights) == ["lines:a", "stdlib"]
    with pytest.raises(ValueError, match="lines:TEXT"):
        parse_mixture("nothing:a=1,stdlib=2")
    with pytest.raises(ValueError, match="lines:TEXT"):
        open_corpus("nothing:a")
