"""Reading prepared tokens: mapped, never mixed, in an order that is a pure function."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from moe.data.corpus import open_corpus
from moe.data.prepare import prepare
from moe.data.token_store import DamagedTokens, TokenStore, verify
from moe.data.tokenizer import open_tokenizer

from .conftest import make_rows, write_jsonl

S = 32


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    return prepare(data(sequence_labels="domain+language"), tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def store(path):
    return TokenStore.open(path)


def epoch_of(store, seed=0, num_sequences=7, epoch=0):
    """Rows of one epoch, one sequence at a time, whatever steps they fall into."""
    total = store.num_sequences("train", S)
    rows = []
    for place in range(epoch * total, (epoch + 1) * total):
        step, at = divmod(place, num_sequences)
        batch = store.batch(
            seed=seed,
            step=step,
            num_sequences=num_sequences,
            context_length=S,
            start=at,
            stop=at + 1,
        )
        rows.append(batch.ids_BS[0].tobytes())
    return rows


def test_targets_are_the_ids_one_position_on(store):
    batch = store.batch(seed=0, step=3, num_sequences=9, context_length=S)
    assert batch.ids_BS.shape == batch.targets_BS.shape == (9, S)
    assert batch.ids_BS.dtype == batch.targets_BS.dtype == np.int64
    assert np.array_equal(batch.ids_BS[:, 1:], batch.targets_BS[:, :-1])


def test_sequences_are_stretches_of_the_text_and_never_mix_labels(store):
    combinations = {(d["language"], d["domain"]) for _, d in store.documents("train")}
    assert len(combinations) == 6
    whole = {
        key: b"".join(
            store.decode(ids) + b"\xff"
            for ids, labels in store.documents("train")
            if (labels["language"], labels["domain"]) == key
        )
        for key in combinations
    }
    total = store.num_sequences("train", S)
    batch = store.batch(seed=1, step=0, num_sequences=total, context_length=S)
    for ids, target, language, domain in zip(
        batch.ids_BS,
        batch.targets_BS,
        batch.labels["language"],
        batch.labels["domain"],
        strict=True,
    ):
        key = store.label_values("language")[language], store.label_values("domain")[domain]
        row = [*ids, target[-1]]
        text = b"".join(b"\xff" if i == store.end_of_document else store.vocabulary[i] for i in row)
        assert text in whole[key]


def test_every_target_comes_once_but_for_the_ends_that_are_dropped(store):
    total = store.num_sequences("train", S)
    batch = store.batch(seed=0, step=0, num_sequences=total, context_length=S)
    segments = store.meta["splits"]["train"]["segments"]
    assert total == sum((segment["tokens"] - 1) // S for segment in segments)
    tokens = sum(segment["tokens"] for segment in segments)
    assert store.dropped_share("train", S) == pytest.approx(1 - batch.targets_BS.size / tokens)
    assert store.dropped_share("train", S) < len(segments) * (S + 1) / tokens


def test_a_batch_is_a_pure_function_of_its_arguments(store, path):
    arguments = {"seed": 5, "step": 11, "num_sequences": 8, "context_length": S}
    first = store.batch(**arguments)
    store.batch(seed=6, step=0, num_sequences=3, context_length=S)
    again = TokenStore.open(path).batch(**arguments)
    assert np.array_equal(first.ids_BS, again.ids_BS)
    assert np.array_equal(first.labels["domain"], again.labels["domain"])
    for change in ({"seed": 6}, {"step": 12}):
        other = store.batch(**(arguments | change))
        assert not np.array_equal(first.ids_BS, other.ids_BS)


def test_slices_of_a_step_are_those_of_the_whole(store):
    arguments = {"seed": 2, "step": 40, "num_sequences": 12, "context_length": S}
    whole = store.batch(**arguments)
    for start, stop in ((0, 4), (4, 12), (7, 7), (0, None)):
        part = store.batch(**arguments, start=start, stop=stop)
        assert np.array_equal(part.ids_BS, whole.ids_BS[start:stop])
        assert np.array_equal(part.targets_BS, whole.targets_BS[start:stop])
        for column, values in whole.labels.items():
            assert np.array_equal(part.labels[column], values[start:stop])


def test_the_data_order_does_not_depend_on_the_batch_size(store):
    one = store.batch(seed=0, step=0, num_sequences=24, context_length=S).ids_BS
    many = [store.batch(seed=0, step=i, num_sequences=4, context_length=S).ids_BS for i in range(6)]
    assert np.array_equal(one, np.concatenate(many))


def test_an_epoch_has_every_sequence_once_and_the_next_another_order(store):
    total = store.num_sequences("train", S)
    assert total % 7
    first, second = epoch_of(store), epoch_of(store, epoch=1)
    assert len(set(first)) == total
    assert set(first) == set(second)
    assert first != second
    assert first != epoch_of(store, seed=1)


def test_a_step_may_hold_several_epochs(store):
    total = store.num_sequences("train", S)
    batch = store.batch(seed=0, step=0, num_sequences=3 * total, context_length=S)
    counts = Counter(row.tobytes() for row in batch.ids_BS)
    assert set(counts.values()) == {3}


def test_the_evaluation_set_is_fixed_and_spread_over_the_held_out_text(store):
    total = store.num_sequences("val", S)
    batches = list(store.eval_batches(S, 20 * S + 5, 6))
    assert [len(batch.ids_BS) for batch in batches] == [6, 6, 6, 2]
    chosen = store.evaluation(context_length=S, num_tokens=20 * S + 5)
    assert len(set(chosen.tolist())) == 20
    gaps = np.diff([*chosen, total])
    assert gaps.max() - gaps.min() <= 1
    again = next(store.eval_batches(S, 20 * S + 5, 20))
    assert np.array_equal(again.ids_BS, np.concatenate([batch.ids_BS for batch in batches]))
    assert set(again.labels["language"].tolist()) == {0, 1}
    assert set(again.labels["domain"].tolist()) == {0, 1, 2}


def test_the_evaluation_set_is_at_most_the_held_out_text(store):
    batches = list(store.eval_batches(S, 10**9, 64))
    rows = [row.tobytes() for batch in batches for row in batch.ids_BS]
    assert len(rows) == len(set(rows)) == store.num_sequences("val", S)


def test_less_than_one_sequence_is_refused(store):
    with pytest.raises(ValueError, match=rf"at least one sequence of {S} tokens; received {S - 1}"):
        store.eval_batches(S, S - 1, 4)
    with pytest.raises(ValueError, match=r"the val split must hold .* Lower model\.context_length"):
        store.eval_batches(10**6, 10**7, 4)
    with pytest.raises(ValueError, match=r"the train split must hold .* holds none"):
        store.batch(seed=0, step=0, num_sequences=1, context_length=10**6)


def test_no_document_is_on_both_sides(store, data):
    train, val = (
        {store.decode(ids).decode() for ids, _ in store.documents(split)}
        for split in ("train", "val")
    )
    texts = {row["text"] for row in open_corpus(data().corpus).documents()}
    assert not train & val
    assert train | val == texts


def test_documents_carry_their_labels(store, data):
    of_text = {row["text"]: row for row in open_corpus(data().corpus).documents()}
    for ids, labels in store.documents("val"):
        row = of_text[store.decode(ids).decode()]
        assert labels == {"language": row["language"], "domain": row["domain"]}


def test_label_values_names_the_columns_there_are(store, data, tmp_path):
    assert store.label_values("language") == ("de", "en")
    with pytest.raises(ValueError, match=r"one of domain, language; received 'topic'\. Choose"):
        store.label_values("topic")
    rows = [{**row, "title": str(i)} for i, row in enumerate(make_rows(50))]
    write_jsonl(tmp_path / "a.jsonl", rows)
    other = TokenStore.open(prepare(data(corpus=f"files:{tmp_path}/a.jsonl"), tmp_path / "tokens"))
    with pytest.raises(ValueError, match=r"'title' \(it has 50 distinct values in 50 documents\)"):
        other.label_values("title")


def test_a_corpus_without_labels(data, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": row["text"]} for row in make_rows(50)])
    store = TokenStore.open(prepare(data(corpus=f"files:{tmp_path}/a.jsonl"), tmp_path / "tokens"))
    assert store.batch(seed=0, step=0, num_sequences=4, context_length=S).labels == {}
    assert len(store.meta["splits"]["train"]["segments"]) == 1
    assert next(store.documents("val"))[1] == {}


def test_token_bytes_add_up_to_the_text(store, data, tmp_path):
    bpe = TokenStore.open(prepare(data(tokenizer="bpe", vocab_size=400), tmp_path))
    for opened in (store, bpe):
        assert opened.token_bytes.shape == (opened.vocab_size,)
        assert opened.token_bytes[opened.end_of_document] == 0
        for split in ("train", "val"):
            size = sum(opened.token_bytes[ids].sum() for ids, _ in opened.documents(split))
            assert size == opened.meta["splits"][split]["text_bytes"]


def test_the_tokenizer_is_kept_beside_the_tokens(data, tmp_path):
    store = TokenStore.open(prepare(data(tokenizer="bpe", vocab_size=400), tmp_path))
    tokenizer = open_tokenizer(store.path)
    assert tokenizer.tokens == store.vocabulary
    for ids, _ in store.documents("val"):
        assert np.array_equal(tokenizer.encode(store.decode(ids).decode()), ids)


def test_a_large_vocabulary_needs_wider_ids(data, tmp_path):
    from moe.data.gpt2_vocabulary import to_ranks

    tokens = [bytes([i]) for i in range(256)]
    tokens += [b"\xff%d" % i for i in range(256, 70_000)]
    (tmp_path / "wide").write_bytes(to_ranks({token: i for i, token in enumerate(tokens)}))
    config = data(tokenizer=f"file:{tmp_path}/wide", vocab_size=70_001)
    store = TokenStore.open(prepare(config, tmp_path / "tokens"))
    ids, _ = next(store.documents("train"))
    assert ids.dtype == np.uint32
    assert store.end_of_document == 70_000
    batch = store.batch(seed=0, step=0, num_sequences=500, context_length=S)
    assert batch.ids_BS.max() == 70_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_tokens_are_mapped_and_not_copied(path):
    before = pa.total_allocated_bytes()
    store = TokenStore.open(path)
    ids, _ = next(store.documents("train"))
    assert pa.total_allocated_bytes() - before < 10_000
    assert not ids.flags.writeable
    address = ids.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        holders = [
            line.split()[-1]
            for line in maps
            if int(line.split("-")[0], 16) <= address < int(line.split()[0].split("-")[1], 16)
        ]
    assert holders == [str(path / "train.arrow")]


def test_reading_needs_numpy_and_pyarrow_only(path):
    code = """
import sys

class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {"datasets", "tokenizers", "tiktoken", "filelock", "torch",
                                      "huggingface_hub", "pandas", "ray", "optuna", "mlflow"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
from moe.data.token_store import TokenStore, verify
verify(sys.argv[1])
store = TokenStore.open(sys.argv[1])
batch = store.batch(seed=0, step=0, num_sequences=2, context_length=32)
print(batch.ids_BS.sum(), store.token_bytes.sum(), len(list(store.eval_batches(32, 640, 8))))
"""
    printed = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
    ).stdout.split()
    assert printed[1:] == ["256", "3"]


def test_a_folder_without_tokens(tmp_path):
    with pytest.raises(ValueError, match=r"holds meta\.json; .* does not"):
        TokenStore.open(tmp_path)


@pytest.fixture
def copy(path, tmp_path):
    return shutil.copytree(path, tmp_path / "copy")


@pytest.mark.parametrize("name", ["train.arrow", "val.arrow", "vocabulary.arrow"])
def test_a_file_that_is_missing_or_cut_is_found_at_once(copy, name):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[:-1])
    with pytest.raises(DamagedTokens, match=rf"{name} has {len(whole) - 1} bytes instead of"):
        TokenStore.open(copy)
    (copy / name).unlink()
    with pytest.raises(DamagedTokens, match=f"{name} is missing"):
        TokenStore.open(copy)


@pytest.mark.parametrize("name", ["train.arrow", "val.arrow", "vocabulary.arrow"])
def test_a_changed_bit_is_found_by_verify(copy, name):
    verify(copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 4
    (copy / name).write_bytes(data)
    with pytest.raises(DamagedTokens, match=f"{name} has the checksum .* prepare the corpus again"):
        verify(copy)


def test_a_changed_meta_is_found_at_once(copy):
    text = (copy / "meta.json").read_text()
    (copy / "meta.json").write_text(text.replace('"law"', '"lax"'))
    with pytest.raises(DamagedTokens, match=r"meta\.json was changed"):
        TokenStore.open(copy)
    for broken in (text[:-20], "[]", "{}"):
        (copy / "meta.json").write_text(broken)
        with pytest.raises(DamagedTokens, match="is not a complete meta file"):
            TokenStore.open(copy)


def test_a_file_of_the_right_size_that_is_no_arrow_file(copy):
    size = (copy / "train.arrow").stat().st_size
    (copy / "train.arrow").write_bytes(b"\0" * size)
    with pytest.raises(DamagedTokens, match=r"train\.arrow is not the Arrow file"):
        TokenStore.open(copy)


def test_another_format_version_is_not_read(copy, monkeypatch):
    from moe.data import layout

    monkeypatch.setattr(layout, "FORMAT_VERSION", layout.FORMAT_VERSION + 1)
    with pytest.raises(ValueError, match="this version reads prepared tokens of format"):
        TokenStore.open(copy)
