from __future__ import annotations

import base64
import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from moe.config import DataConfig
from moe.data import gpt2_vocabulary
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from moe.data.tokenizer import (
    GPT2_PATTERN,
    ByteTokenizer,
    JsonTokenizer,
    RankTokenizer,
    encode_with_bytes,
    load_tokenizer,
    open_tokenizer,
    tokenizer_identity,
    train_bpe,
)

from .conftest import make_rows

TEXTS = [str(row["text"]) for row in make_rows(60)]
HARD = [
    "",
    " ",
    "\n\n  \t",
    "naïve 日本 😀 e\u0301",
    "a<|endoftext|>b",
    "x" * 1000,
    "12 345's",
    "\x00",
]


def hugging_face(vocab_size=400, normalizer=None, prefix=False, special=("<|endoftext|>",)):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXTS, 400)


@pytest.fixture(scope="module")
def tokenizers(bpe):
    return [
        ByteTokenizer(),
        bpe,
        JsonTokenizer(hugging_face().to_str()),
        JsonTokenizer(hugging_face(special=()).to_str()),
    ]


def test_the_tokens_spell_the_text(tokenizers):
    for tokenizer in tokenizers:
        for text in [*TEXTS, *HARD]:
            ids = tokenizer.encode(text)
            assert ids.dtype == np.uint16
            assert tokenizer.end_of_document not in ids
            assert b"".join(tokenizer.tokens[i] for i in ids) == text.encode()


def test_the_end_of_document_has_an_id_and_no_bytes(tokenizers):
    assert [t.end_of_document for t in tokenizers] == [256, 399, 0, 400]
    assert [len(t.tokens) for t in tokenizers] == [257, 400, 400, 401]
    for tokenizer in tokenizers:
        assert tokenizer.tokens[tokenizer.end_of_document] == b""
        assert sum(token == b"" for token in tokenizer.tokens) == 1


def test_each_can_be_saved_and_opened(tokenizers, tmp_path):
    for i, tokenizer in enumerate(tokenizers):
        folder = tmp_path / str(i)
        folder.mkdir()
        tokenizer.save(folder)
        opened = open_tokenizer(folder)
        assert type(opened) is type(tokenizer)
        assert opened.tokens == tokenizer.tokens
        for text in TEXTS:
            assert np.array_equal(opened.encode(text), tokenizer.encode(text))


def test_bpe_compresses_and_is_deterministic(bpe):
    size = sum(len(text.encode()) for text in TEXTS)
    assert sum(len(bpe.encode(text)) for text in TEXTS) < 0.5 * size
    assert train_bpe(TEXTS[::-1], 400).ranks == bpe.ranks


def test_bpe_is_the_same_in_another_process_with_other_threads(bpe):
    code = (
        "import sys; from moe.data.tokenizer import train_bpe\n"
        "texts = sys.stdin.buffer.read().decode().split('\\0')\n"
        "sys.stdout.buffer.write(train_bpe(texts, 400).ranks)"
    )
    ranks = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        input="\0".join(TEXTS).encode(),
        stdout=subprocess.PIPE,
        env={"RAYON_NUM_THREADS": "1", "PYTHONPATH": ":".join(filter(None, sys.path))},
    ).stdout
    assert ranks == bpe.ranks


def test_bpe_encodes_as_the_library_that_trained_it_does():
    trained = hugging_face(special=())
    ids = {text: trained.encode(text).ids for text in TEXTS}
    bpe = train_bpe(TEXTS, 401)
    assert {text: bpe.encode(text).tolist() for text in TEXTS} == ids


def test_bpe_needs_enough_text():
    with pytest.raises(ValueError, match=r"data\.vocab_size=5000 needs .* this one gives \d+"):
        train_bpe(TEXTS[:1], 5000)


def test_a_long_document_does_not_overflow_the_matcher(bpe):
    text = " " * 1_200_000 + "x"
    assert b"".join(bpe.tokens[i] for i in bpe.encode(text)) == text.encode()


def test_the_pattern_splits_as_the_published_one_does():
    import regex

    published = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    for text in [*TEXTS, *HARD, "I'll  we've\n\n x   ", "  a\t\n b \n"]:
        assert regex.findall(GPT2_PATTERN, text) == regex.findall(published, text)


def config(path, vocab_size=400):
    return DataConfig(tokenizer=f"file:{path}", vocab_size=vocab_size)


def test_a_tiktoken_file(tmp_path, bpe):
    path = tmp_path / "any.name"
    path.write_bytes(bpe.ranks)
    opened = load_tokenizer(config(path))
    assert isinstance(opened, RankTokenizer)
    assert np.array_equal(opened.encode(TEXTS[0]), bpe.encode(TEXTS[0]))
    assert len(bpe.ranks.splitlines()) == opened.end_of_document == 399
    token, id_ = bpe.ranks.splitlines()[300].split()
    assert (opened.tokens[300], int(id_)) == (base64.b64decode(token), 300)


def test_a_tokenizer_json_is_encoded_as_the_library_does(tmp_path):
    reference = hugging_face()
    reference.enable_truncation(5)
    reference.save(str(tmp_path / "tokenizer.json"))
    opened = load_tokenizer(config(tmp_path / "tokenizer.json"))
    reference.no_truncation()
    for text in TEXTS:
        assert opened.encode(text).tolist() == reference.encode(text).ids


def test_a_tokenizer_json_with_an_added_token(tmp_path):
    tokenizer = hugging_face()
    tokenizer.add_tokens([AddedToken("naïve-bayes", normalized=False)])
    opened = JsonTokenizer(tokenizer.to_str())
    ids = opened.encode("a naïve-bayes é")
    assert 400 in ids
    assert b"".join(opened.tokens[i] for i in ids) == "a naïve-bayes é".encode()


def test_the_identity_is_of_the_content(tmp_path, bpe):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bpe.ranks)
    (tmp_path / "c").write_text(hugging_face().to_str())
    (tmp_path / "d").write_bytes(
        train_bpe([str(row["text"]) for row in make_rows(99, seed=1)], 400).ranks
    )
    a, b, c, d = (tokenizer_identity(config(tmp_path / name)) for name in "abcd")
    assert a == b
    assert len({a, c, d, tokenizer_identity(DataConfig())}) == 4


def refusal(path, vocab_size=400):
    with pytest.raises(ValueError, match=r"\w") as caught:
        tokenizer_identity(config(path, vocab_size))
    return str(caught.value)


def test_the_vocabulary_size_must_fit(tmp_path, bpe):
    (tmp_path / "a").write_bytes(bpe.ranks)
    for size in (300, 500):
        message = refusal(tmp_path / "a", size)
        assert f"received {size}. Set data.vocab_size=400." in message


def test_files_that_are_no_tokenizer(tmp_path, bpe):
    path = tmp_path / "a"
    assert "No such file" in refusal(path)
    path.write_text("# a readme\n")
    assert "is not such a file" in refusal(path)
    path.write_bytes(b"".join(bpe.ranks.splitlines(keepends=True)[5:]))
    assert "has 394 tokens and lacks 5 bytes" in refusal(path)
    path.write_text('{"text": 1}')
    assert "is a file of the tokenizers library; a is not" in refusal(path)
    path.write_bytes(b'{"\xff')
    assert "is UTF-8" in refusal(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"prefix": True},
        {"normalizer": normalizers.NFKC()},
        {"normalizer": normalizers.NFKD()},
        {"normalizer": normalizers.Lowercase()},
        {"normalizer": normalizers.StripAccents()},
        {"normalizer": normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])},
    ],
)
def test_a_tokenizer_json_that_changes_the_text_is_refused(tmp_path, fields):
    hugging_face(**fields).save(str(tmp_path / "a.json"))
    assert "must be byte-level" in refusal(tmp_path / "a.json")


@pytest.fixture
def no_gpt2(tmp_path, monkeypatch):
    """A machine without GPT-2's vocabulary and without a network."""
    import huggingface_hub

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: None)
    monkeypatch.setattr(gpt2_vocabulary, "RANKS_URL", "http://127.0.0.1:9/ranks")
    return tmp_path


def test_gpt2_offline_names_the_remedy(no_gpt2):
    fields = DataConfig(tokenizer="gpt2", vocab_size=50257)
    with pytest.raises(ValueError, match=r"no cache of this machine.*data\.tokenizer=file:PATH"):
        load_tokenizer(fields)
    assert gpt2_vocabulary.GPT2_RANKS_SHA256 in tokenizer_identity(
        fields
    )  # costs and hashes need no file


def test_gpt2_from_a_cache(no_gpt2, monkeypatch, bpe):
    """A stand-in with another checksum: the real vocabulary is not in this repository."""
    import hashlib
    import json

    import huggingface_hub

    monkeypatch.setattr(gpt2_vocabulary, "GPT2_RANKS_SHA256", hashlib.sha256(bpe.ranks).hexdigest())
    printable = {value: character for character, value in gpt2_vocabulary._BYTE_OF.items()}
    vocabulary = {
        "".join(printable[byte] for byte in token): id_ for id_, token in enumerate(bpe.tokens[:-1])
    }
    as_json = json.dumps(vocabulary | {"<|endoftext|>": 399})
    in_hub = no_gpt2 / "vocab.json"
    in_hub.write_text(as_json)

    def found(name, file):
        return str(in_hub) if (name, file) == ("openai-community/gpt2", "vocab.json") else None

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "try_to_load_from_cache", found)
        assert gpt2_vocabulary.gpt2_ranks() == bpe.ranks
    for url, data in (
        (gpt2_vocabulary.ENCODER_URL, as_json.encode()),
        (gpt2_vocabulary.RANKS_URL, bpe.ranks),
    ):
        cached = no_gpt2 / hashlib.sha1(url.encode()).hexdigest()
        cached.write_bytes(data)
        assert gpt2_vocabulary.gpt2_ranks() == bpe.ranks
        cached.write_bytes(data[:100] if data == bpe.ranks else b"{}")
        with pytest.raises(ValueError, match="was not reached"):
            gpt2_vocabulary.gpt2_ranks()
        cached.unlink()


NOT_CANONICAL = [
    *HARD,
    "cafe\u0301s \u1100\u1161\u11a8 q\u0323\u0307 \u0344 \u212b",
    "\u0301",
    "a\n\n\u0301  ",
]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_tokenizer_that_brings_text_to_a_canonical_form(form):
    normalizer = getattr(normalizers, form)()
    tokenizer = JsonTokenizer(hugging_face(normalizer=normalizer).to_str())
    assert tokenizer.normalises
    for text in [*TEXTS, *NOT_CANONICAL, "e\u0301 \u00e9 " * 500]:
        ids, sizes = encode_with_bytes(tokenizer, text)
        assert np.array_equal(ids, tokenizer.encode(text))
        spelled = b"".join(tokenizer.tokens[i] for i in ids)
        assert spelled == unicodedata.normalize(form, text).encode()
        assert sizes.sum() == len(text.encode())
        assert sizes.min(initial=0) >= 0
    ids, sizes = encode_with_bytes(tokenizer, "ax")
    assert sizes.tolist() == [len(tokenizer.tokens[i]) for i in ids]


def test_each_token_has_the_bytes_of_its_own_characters():
    """Tokens of bytes: what is spelled for a character of the text is told with its own bytes."""
    bare = hugging_face(vocab_size=257, normalizer=normalizers.NFC())
    tokenizer = JsonTokenizer(bare.to_str())
    ids, sizes = encode_with_bytes(tokenizer, "ae\u0301b\u00e9 \u65e5")
    assert [tokenizer.tokens[i] for i in ids] == [
        bytes([b]) for b in "a\u00e9b\u00e9 \u65e5".encode()
    ]
    assert sizes.tolist() == [1, 0, 3, 1, 0, 2, 1, 0, 0, 3]


def test_bits_per_byte_counts_the_bytes_of_the_text_as_it_was(tmp_path):
    """Against the documents themselves: a context of one token has every held-out byte but a
    segment's first as a target."""
    texts = [f"{i} " + "cafe\u0301 nai\u0308ve d\u00e9j\u00e0 " * (5 + i % 7) for i in range(120)]
    corpus = tmp_path / "a.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    hugging_face(normalizer=normalizers.NFC()).save(str(tmp_path / "nfc.json"))
    fields = {"corpus": f"files:{corpus}", "holdout_fraction": 0.3, "vocab_size": 400}
    path = prepare(DataConfig(tokenizer=f"file:{tmp_path}/nfc.json", **fields), tmp_path / "tokens")
    store = TokenStore.open(path)
    original = {unicodedata.normalize("NFC", text): text for text in texts}
    held_out = [original[store.decode(ids).decode()] for ids, _ in store.documents("val")]
    size = sum(len(text.encode()) for text in held_out)
    assert store.meta["splits"]["val"]["text_bytes"] == size
    tokens = store.meta["splits"]["val"]["tokens"]
    batches = list(store.eval_batches(1, tokens, 7))
    counted = sum(int(batch.bytes_BS.sum()) for batch in batches)
    first, _ = next(store.documents("val"))
    assert counted == size - len(store.vocabulary[first[0]])
    spelled = sum(int(store.token_bytes[batch.targets_BS].sum()) for batch in batches)
    assert spelled < counted


def test_where_tokens_spell_the_text_its_bytes_are_theirs(tmp_path, bpe):
    corpus = tmp_path / "a.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    path = prepare(DataConfig(corpus=f"files:{corpus}", holdout_fraction=0.3), tmp_path / "tokens")
    store = TokenStore.open(path)
    assert not list(path.glob("*-bytes.arrow"))
    for batch in store.eval_batches(8, 800, 3):
        assert np.array_equal(batch.bytes_BS, store.token_bytes[batch.targets_BS])
