"""GPT-2's vocabulary by name: from the caches that tiktoken and the Hub's client leave, or fetched.

All sources must give the same bytes, so `gpt2` and a file of it are one tokenizer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

GPT2_RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
RANKS_URL = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"
ENCODER_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json"
_TIMEOUT_S = 10.0


def gpt2_ranks() -> bytes:
    """GPT-2's byte-pair ranks in tiktoken's file format. Raises ValueError if none are in reach."""
    for data in _cached():
        if _is_gpt2(data):
            return data
    try:
        with urllib.request.urlopen(RANKS_URL, timeout=_TIMEOUT_S) as response:
            data = response.read()
        reason = "what it sent is not GPT-2's vocabulary"
    except OSError as error:
        data, reason = b"", str(error)
    if not _is_gpt2(data):
        raise ValueError(
            "data.tokenizer=gpt2 needs GPT-2's vocabulary, which is in no cache of this machine, "
            f"and {RANKS_URL} was not reached ({reason}). Fetch that file where there is a "
            "network, and set data.tokenizer=file:PATH (a tokenizer.json of GPT-2 does as well)."
        )
    return data


def bytes_of(token: str) -> bytes:
    """The bytes that a token of GPT-2's printable alphabet stands for; others are UTF-8."""
    try:
        return bytes(map(_BYTE_OF.__getitem__, token))
    except KeyError:
        return token.encode()


def characters_of(token: bytes) -> str:
    """A token in GPT-2's printable alphabet, as tokenizer.json spells it."""
    return "".join(map(_CHARACTER_OF.__getitem__, token))


def to_ranks(id_of: dict[bytes, int]) -> bytes:
    """A vocabulary in tiktoken's file format."""
    lines = sorted((id_, base64.b64encode(token)) for token, id_ in id_of.items())
    return b"".join(b"%s %d\n" % (token, id_) for id_, token in lines)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the rest from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(174, 256)}
    others = (value for value in range(256) if value not in printable)
    moved = {chr(256 + i): value for i, value in enumerate(others)}
    return {chr(value): value for value in sorted(printable)} | moved


_BYTE_OF = _byte_of_character()
_CHARACTER_OF = {value: character for character, value in _BYTE_OF.items()}


def _is_gpt2(data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == GPT2_RANKS_SHA256


def _cached() -> Iterator[bytes]:
    """What the caches hold under the names of GPT-2's files, as ranks."""
    from huggingface_hub import try_to_load_from_cache

    tiktoken_cache = Path(
        os.environ.get("TIKTOKEN_CACHE_DIR")
        or os.environ.get("DATA_GYM_CACHE_DIR")
        or Path(tempfile.gettempdir()) / "data-gym-cache"
    )
    ranks, encoder = (
        tiktoken_cache / hashlib.sha1(url.encode()).hexdigest() for url in (RANKS_URL, ENCODER_URL)
    )
    if ranks.is_file():
        yield ranks.read_bytes()
    in_hub_cache = (
        try_to_load_from_cache(name, "vocab.json") for name in ("openai-community/gpt2", "gpt2")
    )
    for path in (encoder, *(Path(found) for found in in_hub_cache if isinstance(found, str))):
        if path.is_file():
            vocabulary = json.loads(path.read_text(encoding="utf-8"))
            vocabulary.pop("<|endoftext|>", None)
            yield to_ranks({bytes_of(token): id_ for token, id_ in vocabulary.items()})
