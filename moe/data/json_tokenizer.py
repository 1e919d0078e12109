"""A byte-level tokenizer.json of the `tokenizers` library, encoded exactly as it says."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moe.data.gpt2_vocabulary import bytes_of
from moe.data.layout import token_dtype

JSON_FILE = "tokenizer.json"
END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
_PROBE = "A  test: naïve Straße, e\u0301 日本\n\n\tx=1\r\n<|endoftext|> "
_CHANGED_BY_LOSSY_FORMS = "\ufb01 \u2460 \uff21"  # NFKC and NFKD write other characters


@dataclass(frozen=True)
class JsonTokenizer:
    """Its tokens spell the text, or the text's canonical form in Unicode (NFC, NFD).

    Raises ValueError for any other file.
    """

    text: str
    name: str = JSON_FILE

    def __post_init__(self) -> None:
        if self.normalises and not any(map(self._spells_form, ("NFC", "NFD"))):
            raise ValueError(
                "a tokenizer.json must be byte-level, without added spaces and without "
                "normalisation but NFC or NFD, so that its tokens spell the text; those of "
                f"{self.name} do not. Use the tokenizer of a GPT-2-like model, or bpe."
            )

    @cached_property
    def normalises(self) -> bool:
        return self._spelled(_PROBE) != _PROBE.encode()

    def _spells_form(self, form: Literal["NFC", "NFD"]) -> bool:
        probe = _PROBE + _CHANGED_BY_LOSSY_FORMS
        return self._spelled(probe) == unicodedata.normalize(form, probe).encode()

    def _spelled(self, text: str) -> bytes:
        return b"".join(self.tokens[i] for i in self.encode(text))

    @cached_property
    def _tokenizer(self) -> Any:
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_str(self.text)
        except Exception as error:  # (the library raises bare Exception)
            raise ValueError(
                f"a tokenizer.json is a file of the tokenizers library; {self.name} is not "
                f"({error}). Give such a file, or one in tiktoken's format."
            ) from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # '<|endoftext|>' in a document is plain text
        # It adds nothing here, and as most files have it would cut white space off the offsets.
        tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
        return tokenizer

    @cached_property
    def _id_of(self) -> dict[str, int]:
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @cached_property
    def end_of_document(self) -> int:
        named = [self._id_of[name] for name in END_NAMES if name in self._id_of]
        return named[0] if named else max(self._id_of.values()) + 1

    @cached_property
    def tokens(self) -> tuple[bytes, ...]:
        added = {id_: t.content for id_, t in self._tokenizer.get_added_tokens_decoder().items()}
        tokens = [b""] * (max(*self._id_of.values(), self.end_of_document) + 1)
        for token, id_ in self._id_of.items():
            tokens[id_] = added[id_].encode() if id_ in added else bytes_of(token)
        tokens[self.end_of_document] = b""
        return tuple(tokens)

    @cached_property
    def _dtype(self) -> np.dtype:
        return token_dtype(len(self.tokens))

    def encode(self, text: str) -> np.ndarray:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.fromiter(ids, dtype=self._dtype, count=len(ids))

    def encode_with_bytes(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids, and of each the bytes of `text` from where it begins to where the next does (int64).

        They add up to all bytes; of the tokens of one character the last has them.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.fromiter(encoding.ids, dtype=self._dtype, count=len(encoding.ids))
        code = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        size = 1 + (code > 0x7F) + (code > 0x7FF).astype(np.int64) + (code > 0xFFFF)
        byte_of_character = np.concatenate([[0], np.cumsum(size)])
        start = np.array([start for start, _ in encoding.offsets], dtype=np.int64)
        start[:1] = 0
        begins = byte_of_character[np.maximum.accumulate(start)]
        return ids, np.diff(begins, append=byte_of_character[-1])

    def save(self, folder: Path) -> None:
        (folder / JSON_FILE).write_text(self.text, encoding="utf-8")
