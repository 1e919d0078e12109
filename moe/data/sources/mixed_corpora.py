"""The corpus `mix:SPEC=WEIGHT,SPEC=WEIGHT[,...][,seed=N]`: documents of several corpora, by weight.

Weights are shares of the text, in bytes of UTF-8, after division by their sum: so the same text is
drawn whatever the tokenizer. No document comes twice that its part has once (parts share no file):
the mixture is as large as its scarcest part
allows, which is taken whole, and of each other part as much as its weight asks for.

A document is drawn if its place, a hash of its content and of the seed, lies below its part's
bound. So the draw needs no memory of documents, copies are drawn together, mixtures of the same
parts under other weights share as many documents as they can, and a trial's own seed has no say.

How a spec is read: a part ends where `=WEIGHT` is followed by the end, or by a comma and the
beginning of a next part (as `stdlib=`, `files:`) or of `seed=`. A glob may hold `=` and `,`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np

from moe.data.digest import ContentDigest
from moe.data.labels import MIXTURE, PART_COLUMN, TEXT_COLUMN
from moe.data.sources.files import LocalFiles
from moe.data.sources.kinds import KINDS, kind_of

MAX_PARTS = 16  # each has a metric of its own in every evaluation
_PLACES = 1 << 18
_NAME_LIMIT = 60
_BEGIN = "|".join(f"{name}{':' if kind.takes_more else '='}" for name, kind in KINDS.items())
_NEXT = f"(?:{_BEGIN}|{MIXTURE}:|seed=)"
_PART = re.compile(rf"(?P<spec>.+?)=(?P<weight>[^=,]*)(?=$|,{_NEXT})")
_SEED = re.compile(r"seed=(\d{1,9})")
_WEIGHT = re.compile(r"\d{0,9}(\.\d{0,9})?")


class _Documents(Protocol):
    digest: str
    source: Any
    text_column: str
    notes: tuple[str, ...]

    def documents(self, scratch: Path | None = None) -> Iterator[dict[str, Any]]: ...
    @property
    def provenance(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """`share` of the mixture's bytes is asked for; `name` is its label, and in its metric's key."""

    name: str
    spec: str
    share: Fraction
    corpus: _Documents = field(repr=False)


@dataclass(frozen=True)
class Mixture:
    """Parts in the order of their names: how a spec orders them is no part of the identity."""

    parts: tuple[Part, ...]
    seed: int

    @classmethod
    def of(cls, rest: str, open_part: Callable[[str], _Documents]) -> Mixture:
        """`rest` is what follows `mix:`. Raises ValueError where it is none, or a part is none."""
        weights, seed = parse_mixture(rest)
        corpora = {spec: open_part(spec) for spec in weights}
        by_digest: dict[str, str] = {}
        for spec, corpus in corpora.items():
            if (other := by_digest.setdefault(corpus.digest, spec)) != spec:
                raise ValueError(
                    f"the parts of a mixture hold different text; received {other!r} and {spec!r}, "
                    "which hold the same. Leave one out, and add its weight to the other."
                )
        _require_apart(corpora)
        total = sum(weights.values())
        names = _names(corpora)
        parts = [
            Part(name=names[spec], spec=spec, share=weight / total, corpus=corpora[spec])
            for spec, weight in weights.items()
        ]
        return cls(tuple(sorted(parts, key=lambda part: part.name)), seed)

    @property
    def sequence_labels(self) -> tuple[str, ...]:
        """The part, whose loss is told for itself, and what parts are ordered by."""
        own = {label for part in self.parts for label in part.corpus.source.sequence_labels}
        return tuple(sorted(own | {PART_COLUMN}))

    @property
    def survey_limit(self) -> int | None:
        limits = [part.corpus.source.survey_limit for part in self.parts]
        return max((limit for limit in limits if limit is not None), default=None)

    def label_candidates(self) -> tuple[str, ...] | None:
        columns = {PART_COLUMN}
        for part in self.parts:
            found = part.corpus.source.label_candidates()
            if found is None:
                return None
            columns |= set(found)
        return tuple(sorted(columns))

    def digest(self) -> str:
        """Over the parts' names and digests, their shares and the seed; reads no document."""
        digest = ContentDigest("mixture")
        digest.add(str(self.seed))
        for part in self.parts:
            digest.add(part.name, part.corpus.digest, str(part.share))
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        parts = [
            {**part.corpus.provenance, "name": part.name, "share": float(part.share)}
            for part in self.parts
        ]
        return {"kind": MIXTURE, "seed": self.seed, "parts": parts}

    def rows(self, scratch: Path | None = None) -> Iterator[dict[str, Any]]:
        """The drawn documents, part by part, each with its part's name as a label."""
        for part, bound in zip(self.parts, self._bounds, strict=True):
            for row in part.corpus.documents(scratch):
                if row.get(PART_COLUMN) is not None:
                    raise ValueError(
                        f"a mixture labels documents by their part, in the column {PART_COLUMN!r}; "
                        f"received {part.spec!r}, which has a column of that name. Rename it."
                    )
                if _place(row[TEXT_COLUMN].encode(errors="replace"), self.seed) < bound:
                    yield {**row, PART_COLUMN: part.name}

    def undrawn(self) -> Iterator[dict[str, Any]]:
        """Documents of all parts in turns, drawn or not: what columns they have is known soon."""
        named = [
            ({**row, PART_COLUMN: part.name} for row in part.corpus.documents())
            for part in self.parts
        ]
        for rows in zip_longest(*named):
            yield from (row for row in rows if row is not None)

    @cached_property
    def _bounds(self) -> list[int]:
        """Of each part the place below which documents are drawn. Reads all of them once.

        Raises ValueError where a part's share is less than half a document.
        """
        sizes = [_bytes_by_place(part.corpus, self.seed) for part in self.parts]
        largest = min(
            float(size.sum() / part.share) for part, size in zip(self.parts, sizes, strict=True)
        )
        bounds = []
        for part, size in zip(self.parts, sizes, strict=True):
            reached = np.concatenate([[0], np.cumsum(size)])
            bound = int(np.abs(reached - float(part.share) * largest).argmin())
            if reached[bound] == 0:
                raise ValueError(
                    "each part of a mixture gives at least one document; received "
                    f"{part.spec!r}, whose share is {float(part.share):.3g} of {largest:.0f} bytes,"
                    " less than its first. Raise its weight, or use more text of the other parts."
                )
            bounds.append(_PLACES if reached[bound] == reached[-1] else bound)
        return bounds


def _require_apart(corpora: Mapping[str, _Documents]) -> None:
    """Raises ValueError where a file is in two parts: its documents would be drawn twice."""
    part_of: dict[str, str] = {}
    for spec, corpus in corpora.items():
        for path in sorted(corpus.source.paths()) if isinstance(corpus.source, LocalFiles) else ():
            if path in part_of:
                raise ValueError(
                    "the parts of a mixture share no file, since its documents would come twice; "
                    f"received {part_of[path]!r} and {spec!r}, which both have {path}. Narrow one."
                )
            part_of[path] = spec


def parse_mixture(rest: str) -> tuple[dict[str, Fraction], int]:
    """Weight by CORPUS SPEC, as written, and the seed (0 by default). Raises ValueError."""
    weights: dict[str, Fraction] = {}
    rest = re.sub(rf",\s+(?={_NEXT})", ",", rest.strip())
    seed, at = 0, 0
    while at < len(rest):
        if (found := _SEED.fullmatch(rest, at)) and weights:
            seed = int(found[1])
            break
        if (found := _PART.match(rest, at)) is None:
            raise ValueError(_rule(rest[at:], "Give each part a weight."))
        spec, weight = found["spec"], found["weight"].strip()
        number = Fraction(weight) if _WEIGHT.fullmatch(weight) and weight.strip(".") else None
        if not number:
            raise ValueError(_rule(f"{spec}={weight}", "A weight is a number above 0, as in 0.7."))
        if kind_of(spec) is None:
            forms = ", ".join(kind.form for kind in KINDS.values())
            raise ValueError(_rule(spec, f"A part is one of {forms}, and no mixture itself."))
        if spec in weights:
            raise ValueError(_rule(f"{spec} twice", "Name each part once."))
        weights[spec] = number
        at = found.end() + 1
    if not 2 <= len(weights) <= MAX_PARTS:
        raise ValueError(_rule(f"{len(weights)} parts", f"A mixture has 2 to {MAX_PARTS} parts."))
    return weights, seed


def part_specs(spec: str) -> list[str]:
    """The specs that a CORPUS SPEC reads: of a mixture its parts, else itself."""
    kind, _, rest = spec.partition(":")
    return list(parse_mixture(rest)[0]) if kind == MIXTURE else [spec]


@dataclass(frozen=True, kw_only=True)
class Obtained:
    """What a part came to in prepared tokens: `share` of the training tokens, asked and got."""

    name: str
    asked: float
    share: float
    tokens: int
    held_out_tokens: int

    def __str__(self) -> str:
        return f"{self.name} {self.share:.1%} (asked {self.asked:.1%})"


def obtained_parts(meta: Mapping[str, Any]) -> list[Obtained]:
    """The parts of a prepared mixture (`TokenStore.meta`); none of another corpus."""
    if meta["corpus"].get("kind") != MIXTURE or PART_COLUMN not in meta["labels"]:
        return []
    column = list(meta.get("sequence_labels", meta["labels"])).index(PART_COLUMN)
    names = meta["labels"][PART_COLUMN]
    tokens = {split: dict.fromkeys(names, 0) for split in meta["splits"]}
    for split, described in meta["splits"].items():
        for segment in described["segments"]:
            tokens[split][names[segment["labels"][column]]] += segment["tokens"]
    total = sum(tokens["train"].values())
    return [
        Obtained(
            name=part["name"],
            asked=part["share"],
            share=tokens["train"].get(part["name"], 0) / total,
            tokens=tokens["train"].get(part["name"], 0),
            held_out_tokens=tokens["val"].get(part["name"], 0),
        )
        for part in meta["corpus"]["parts"]
    ]


def _rule(received: str, remedy: str) -> str:
    return (
        "a mixture is mix:SPEC=WEIGHT,SPEC=WEIGHT[,seed=N], its weights positive and divided by "
        f"their sum; received {received!r}. {remedy}"
    )


def _place(text: bytes, seed: int) -> int:
    """Independent of the place that decides what is held out: another salt."""
    hashed = hashlib.blake2b(text, digest_size=8, person=b"mixture", salt=seed.to_bytes(8, "big"))
    return int.from_bytes(hashed.digest(), "big") % _PLACES


def _bytes_by_place(corpus: _Documents, seed: int) -> np.ndarray:
    size = np.zeros(_PLACES, dtype=np.int64)
    for row in corpus.documents():
        text = row[TEXT_COLUMN].encode(errors="replace")
        size[_place(text, seed)] += len(text)
    return size


def _names(corpora: Mapping[str, _Documents]) -> dict[str, str]:
    """A short name a part, from its spec's end; its digest with it where two have one name."""
    names = {spec: _name(spec) for spec in corpora}
    doubled = [name for name in names.values() if list(names.values()).count(name) > 1]
    return {
        spec: f"{name}-{corpora[spec].digest[:6]}" if name in doubled else name
        for spec, name in names.items()
    }


def _name(spec: str) -> str:
    kind, _, rest = spec.partition(":")
    ends: Sequence[str] = PurePath(rest).parts[-2:] if any(c in rest for c in "*?[") else ()
    text = "/".join(ends) or PurePath(rest).name or kind
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_.")[-_NAME_LIMIT:] or kind
