"""Our tokenizers as a tokenizer.json of the `tokenizers` library, which gives the same ids.

The end of a document is its special token, of one of the names that others know it by.
"""

from __future__ import annotations

import json
from typing import Any

from moe.data.gpt2_vocabulary import characters_of
from moe.data.json_tokenizer import END_NAMES, JsonTokenizer
from moe.data.tokenizer import ByteTokenizer, RankTokenizer, Tokenizer


def tokenizer_json(tokenizer: Tokenizer) -> tuple[dict[str, Any], str]:
    """The file, and the text of its end of a document."""
    if isinstance(tokenizer, JsonTokenizer):
        return _as_read(tokenizer)
    assert isinstance(tokenizer, ByteTokenizer | RankTokenizer), "one of ours"
    spelled = tokenizer.tokens[: tokenizer.end_of_document]
    merges = _merges(spelled) if isinstance(tokenizer, RankTokenizer) else []
    built = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_end(END_NAMES[0], tokenizer.end_of_document)],
        "normalizer": None,
        "pre_tokenizer": _byte_level(use_regex=isinstance(tokenizer, RankTokenizer)),
        "post_processor": None,
        "decoder": _byte_level(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # As tiktoken: a piece that is a token is that token, whatever merges make of it.
            "ignore_merges": True,
            "vocab": {characters_of(token): id_ for id_, token in enumerate(spelled)},
            "merges": merges,
        },
    }
    return built, END_NAMES[0]


def _merges(tokens: tuple[bytes, ...]) -> list[list[str]]:
    """Every pair that makes a token, by the token's rank: tiktoken joins whichever are neighbours
    and make the lowest, so each way to part a token is a merge of its rank."""
    rank = {token: id_ for id_, token in enumerate(tokens)}
    found = []
    for token in tokens:
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [(rank[a], rank[b], a, b) for a, b in pairs if a in rank and b in rank]
        found += [[characters_of(a), characters_of(b)] for _, _, a, b in sorted(known)]
    return found


def _as_read(tokenizer: JsonTokenizer) -> tuple[dict[str, Any], str]:
    """The file as it was given, without what adds tokens to a text or cuts it."""
    built = json.loads(tokenizer.text)
    built |= {"truncation": None, "padding": None, "post_processor": None}
    id_, added = tokenizer.end_of_document, list(built.get("added_tokens") or [])
    vocabulary = {token: own for token, own in built["model"].get("vocab", {}).items()}
    names = [token["content"] for token in added if token["id"] == id_]
    names += [token for token, own in vocabulary.items() if own == id_]
    name = names[0] if names else END_NAMES[0]
    if not any(token["id"] == id_ for token in added):
        added.append(_end(name, id_))
    built["added_tokens"] = sorted(added, key=lambda token: token["id"])
    return built, name


def _end(name: str, id_: int) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": name, **plain, "special": True}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": use_regex,
    }
