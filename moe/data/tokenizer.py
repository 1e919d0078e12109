"""Text to token ids. Every tokenizer here is byte-level: the bytes of a text are the bytes of its
tokens one after the other, so bits per byte and the alignment of labels to characters are exact.
One that brings text to a canonical form first (NFC, NFD) spells that form; it also tells how many
bytes of the text as it was each token stands for.

`tiktoken` encodes for byte-pair vocabularies (it is about four times as fast as `tokenizers`), with
GPT-2's split pattern; `tokenizers` trains them, and reads tokenizer.json.
"""

from __future__ import annotations

import hashlib
from binascii import a2b_base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from moe.config import BYTE_VOCAB_SIZE, DataConfig
from moe.data.gpt2_vocabulary import GPT2_RANKS_SHA256, bytes_of, gpt2_ranks, to_ranks
from moe.data.json_tokenizer import END_NAMES, JSON_FILE, JsonTokenizer
from moe.data.layout import token_dtype

BPE_SAMPLE_BYTES = 16 << 20  # bpe is trained on at most this much of the training text
# The pattern of GPT-2, in tiktoken's form, which gives the same pieces faster.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_PIECE_CHARS = 1 << 18  # tiktoken's matcher overflows its stack on a million spaces in a row
_TIKTOKEN_FILE = "tokenizer.tiktoken"


class Tokenizer(Protocol):
    @property
    def tokens(self) -> tuple[bytes, ...]:
        """The bytes of each id; none for the end of a document."""

    @property
    def end_of_document(self) -> int: ...

    @property
    def normalises(self) -> bool:
        """Whether tokens spell a canonical form of the text: `encode_with_bytes` is needed."""

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, uint16 or uint32, without the end of document."""

    def save(self, folder: Path) -> None:
        """Writes what `open_tokenizer` needs."""


@dataclass(frozen=True)
class ByteTokenizer:
    """A token is a byte."""

    normalises = False
    tokens = (*(bytes([value]) for value in range(256)), b"")
    end_of_document = BYTE_VOCAB_SIZE - 1

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16)

    def save(self, folder: Path) -> None:
        """It has nothing to keep."""


@dataclass(frozen=True)
class RankTokenizer:
    """Byte-pair encoding from tiktoken's ranks; the end of a document comes after the last id."""

    ranks: bytes  # lines of base64 token and id, tiktoken's file format
    name: str = "ranks"

    normalises = False

    @cached_property
    def _id_of(self) -> dict[bytes, int]:
        try:
            pairs = (line.split() for line in self.ranks.splitlines() if line)
            id_of = {a2b_base64(token, strict_mode=True): int(id_) for token, id_ in pairs}
        except ValueError as error:
            raise ValueError(
                f"a line of a tiktoken file is a base64 token and its id; {self.name} is not such "
                f"a file ({error}). Give a file in tiktoken's format or a tokenizer.json."
            ) from None
        missing = sum(bytes([value]) not in id_of for value in range(256))
        if missing or sorted(id_of.values()) != list(range(len(id_of))):
            raise ValueError(
                "a tiktoken file holds all 256 single bytes and ids that count from 0 without "
                f"gaps; {self.name} has {len(id_of)} tokens and lacks {missing} bytes. "
                "Give a complete file."
            )
        return id_of

    @cached_property
    def tokens(self) -> tuple[bytes, ...]:
        return (*sorted(self._id_of, key=self._id_of.__getitem__), b"")

    @property
    def end_of_document(self) -> int:
        return len(self._id_of)

    @cached_property
    def _dtype(self) -> np.dtype:
        return token_dtype(len(self.tokens))

    @cached_property
    def _encoding(self) -> Any:
        import tiktoken

        return tiktoken.Encoding(
            self.name,
            pat_str=GPT2_PATTERN,
            mergeable_ranks=self._id_of,
            special_tokens={END_NAMES[0]: self.end_of_document},
        )

    def encode(self, text: str) -> np.ndarray:
        # Not encode_ordinary, whose list of ints costs a tenth of the time; nothing is special.
        pieces = [
            self._encoding.encode_to_numpy(
                text[start : start + _PIECE_CHARS], disallowed_special=()
            )
            for start in range(0, len(text), _PIECE_CHARS)
        ]
        return np.concatenate(pieces or [[]]).astype(self._dtype)

    def save(self, folder: Path) -> None:
        (folder / _TIKTOKEN_FILE).write_bytes(self.ranks)


def encode_with_bytes(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a text, and how many of its bytes each stands for (int64)."""
    if isinstance(tokenizer, JsonTokenizer) and tokenizer.normalises:
        return tokenizer.encode_with_bytes(text)
    ids = np.asarray(tokenizer.encode(text))
    return ids, np.array([len(tokenizer.tokens[i]) for i in ids], dtype=np.int64)


def tokenizer_identity(config: DataConfig) -> str:
    """What makes two tokenizers the same one, without training or downloading it.

    Raises ValueError if a file cannot be read, or data.vocab_size does not fit it.
    """
    if config.tokenizer == "byte":
        return "byte"
    if config.tokenizer == "bpe":
        return f"bpe {config.vocab_size} {BPE_SAMPLE_BYTES}"
    if config.tokenizer == "gpt2":
        return f"ranks {GPT2_RANKS_SHA256}"
    tokenizer = load_tokenizer(config)
    kind, data = (
        ("ranks", tokenizer.ranks)
        if isinstance(tokenizer, RankTokenizer)
        else ("json", tokenizer.text.encode())
    )
    return f"{kind} {hashlib.sha256(data).hexdigest()}"


def load_tokenizer(config: DataConfig) -> Tokenizer:
    """The tokenizer of a config that needs no training (`bpe` is trained by `train_bpe`).

    Raises ValueError where it cannot be had, or data.vocab_size does not fit it.
    """
    assert config.tokenizer != "bpe", "bpe is trained on the corpus"
    if config.tokenizer == "byte":
        return ByteTokenizer()
    if config.tokenizer == "gpt2":
        return RankTokenizer(gpt2_ranks(), "gpt2")
    tokenizer = _from_file(Path(config.tokenizer.removeprefix("file:")).expanduser())
    if (size := len(tokenizer.tokens)) != config.vocab_size:
        raise ValueError(
            f"data.vocab_size must be that of the tokenizer's file, {size} with the end of "
            f"document; received {config.vocab_size}. Set data.vocab_size={size}."
        )
    return tokenizer


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that a folder of prepared tokens was made with."""
    for name in (_TIKTOKEN_FILE, JSON_FILE):
        if (folder / name).is_file():
            return _from_file(folder / name)
    return ByteTokenizer()


def train_bpe(texts: Iterable[str], vocab_size: int) -> RankTokenizer:
    """Byte-level BPE of `vocab_size` ids, the end of document included; deterministic.

    Raises ValueError if the texts hold fewer distinct pairs than that needs.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    id_of = tokenizer.get_vocab()
    if len(id_of) != vocab_size - 1:
        raise ValueError(
            f"data.vocab_size={vocab_size} needs a corpus that BPE can make so many tokens from; "
            f"this one gives {len(id_of) + 1}. Lower data.vocab_size, or use more text."
        )
    return RankTokenizer(to_ranks({bytes_of(token): id_ for token, id_ in id_of.items()}), "bpe")


def _from_file(path: Path) -> Tokenizer:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"data.tokenizer=file:PATH needs a readable file; received {str(path)!r} "
            f"({error.strerror}). Check the path."
        ) from None
    if data.lstrip()[:1] != b"{":
        return RankTokenizer(data, path.name)
    try:
        return JsonTokenizer(data.decode(), path.name)
    except UnicodeDecodeError:
        raise ValueError(f"a tokenizer.json is UTF-8; {path} is not. Give another file.") from None
