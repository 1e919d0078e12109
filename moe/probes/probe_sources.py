"""Labelled text on which specialisation is measured: PROBE SPEC to documents with labels.

    conllu:GLOB                        part of speech of each word; a document is a sentence
    table:GLOB:TEXT:LABEL[=v1,v2]      a column of a tsv, csv or parquet file; a document is a row
    corpus:COLUMN                      any label column of the prepared tokens' held-out documents,
                                       such as topic, domain, language, or a mixture's part
    corpus:syntax                      lexical classes of held-out Python source

Labels are on characters, or on whole documents; `moe.probes.alignment` brings them to tokens.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import glob
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moe.data.sources.stdlib import SINGLE_MODULES
from moe.probes.conllu import read_sentences
from moe.probes.lexical import lexical_spans

if TYPE_CHECKING:
    from moe.data.token_store import TokenStore

LabelledUnit = Literal["span", "document"]
Span = tuple[int, int, str]

LANGUAGE = "language"
SYNTAX = "syntax"
_LANGUAGE_IN_NAME = re.compile(r"\.([a-z]{2,3})\.(?:conllu|tsv|csv|parquet)(?:\.gz)?$")
_FORMS = "conllu:GLOB, table:FILE:TEXT:LABEL[=v1,v2], corpus:COLUMN or corpus:syntax"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text with `spans` (start, end, label) in characters, or with one `label` for all of it.

    `attributes` are what else is known of it, by column: a label router reads them.
    """

    text: str
    label: str | None = None
    spans: tuple[Span, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """`left_out_share`: of the documents, those without a label that could be used."""

    spec: str
    labelled_unit: LabelledUnit
    documents: tuple[Document, ...]
    left_out_share: float

    def by(self, attribute: str) -> Probe:
        """The same text labelled by an attribute of the document, such as `language`.

        On parallel text, content cannot explain what then differs. Raises ValueError if no
        document has the attribute.
        """
        documents = tuple(
            dataclasses.replace(document, label=document.attributes[attribute], spans=())
            for document in self.documents
            if attribute in document.attributes
        )
        if not documents:
            known = sorted({name for d in self.documents for name in d.attributes})
            raise ValueError(
                f"a probe is relabelled by an attribute of its documents; received {attribute!r}, "
                f"and {self.spec!r} knows {', '.join(known) or 'none'}. A language is read from "
                "file names like pud.de.conllu."
            )
        kept = len(documents) / len(self.documents)
        return Probe(
            spec=f"{self.spec} by {attribute}",
            labelled_unit="document",
            documents=documents,
            left_out_share=1 - kept * (1 - self.left_out_share),
        )


def open_probe(spec: str, store: TokenStore | None = None) -> Probe:
    """Reads a probe; `store` is needed for `corpus:` alone.

    Raises:
        ValueError: the spec is none, a file or column is missing or cannot be read, a label value
            does not occur, or no document has a label.
    """
    kind, _, rest = spec.partition(":")
    if kind == "conllu" and rest:
        documents, read = _conllu(rest)
        unit: LabelledUnit = "span"
    elif kind == "table" and rest:
        documents, read = _table(spec)
        unit = "document"
    elif kind == "corpus" and rest:
        if store is None:
            raise ValueError(
                f"a corpus probe reads the held-out text of prepared tokens; received {spec!r} "
                "without any. Pass the token store that the model was trained on."
            )
        is_lexical = rest == SYNTAX and SYNTAX not in store.label_columns
        documents, read = _syntax(store) if is_lexical else _column(store, rest)
        unit = "span" if is_lexical else "document"
    else:
        raise ValueError(
            f"a probe is {_FORMS}; received {spec!r}. Write for example 'conllu:pud.*.conllu.gz'."
        )
    if not documents:
        raise ValueError(
            f"a probe holds at least one labelled document; of the {read} in {spec!r} none has a "
            "label. Check the column, or choose another probe."
        )
    share = 1 - len(documents) / read
    return Probe(spec=spec, labelled_unit=unit, documents=tuple(documents), left_out_share=share)


def _conllu(pattern: str) -> tuple[list[Document], int]:
    documents, read = [], 0
    for path in _files(pattern, (".conllu", ".conllu.gz")):
        with _readable(path), _open_text(path) as lines:
            for sentence in read_sentences(lines, str(path)):
                read += 1
                if sentence.spans:
                    documents.append(
                        Document(
                            text=sentence.text, spans=sentence.spans, attributes=_language(path)
                        )
                    )
    if not read:
        raise ValueError(
            f"a CoNLL-U probe holds at least one sentence; {pattern!r} holds none. "
            "Check that its files are not empty."
        )
    return documents, read


def _table(spec: str) -> tuple[list[Document], int]:
    """Rows whose label is one of the chosen; rows without text or label count as left out."""
    # The shortest file that leaves two columns: paths and values may contain colons.
    match = re.fullmatch(r"table:(.+?):([^:=]+):([^:=]+)(?:=(.*))?", spec)
    if match is None:
        raise ValueError(
            f"a table probe is table:FILE:TEXT:LABEL[=v1,v2]; received {spec!r}. "
            "Write for example 'table:topics.tsv:text:category'."
        )
    pattern, text_column, label_column, values = match.groups()
    chosen = None if values is None else [value.strip() for value in values.split(",")]
    documents, read, seen = [], 0, set()
    for path in _files(pattern, (".tsv", ".csv", ".parquet")):
        attributes = _language(path)
        with _readable(path):
            for text, label in _rows(path, text_column, label_column):
                seen.add(label)
                if chosen is not None and label and label not in chosen:
                    continue
                read += 1
                if text and not text.isspace() and label:
                    known = {**attributes, label_column: label}
                    documents.append(Document(text=text, label=label, attributes=known))
    absent = sorted(set(chosen or ()) - seen)
    if absent:
        raise ValueError(
            f"chosen label values occur in the column {label_column!r}; {absent[0]!r} does not. "
            + _near(absent[0], sorted(filter(None, seen)))
        )
    if not read:
        raise ValueError(
            f"a table probe holds at least one row; {pattern!r} holds none. "
            "Check that its files are not empty."
        )
    return documents, read


def _rows(path: Path, *columns: str) -> Iterator[list[str]]:
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, columns)
        return
    with _open_text(path) as file:
        csv.field_size_limit(1 << 24)  # a row is a document
        reader = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        header = next(reader, [])
        _require_columns(columns, header, path)
        at = [header.index(column) for column in columns]
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"every row of a table has the {len(header)} columns of its header; the row "
                    f"that ends at line {reader.line_num} of {path} has {len(row)}. Mend the row; "
                    "a text with a quote or separator in it is written in quotes."
                )
            yield [row[i] for i in at]


def _parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _require_columns(columns, file.schema_arrow.names, path)
            for batch in file.iter_batches(columns=list(columns), batch_size=1024):
                for row in zip(*(batch.column(c).to_pylist() for c in columns), strict=True):
                    if not all(isinstance(value, str | int | bool | None) for value in row):
                        raise ValueError(
                            f"text and label of a probe are strings; {path} holds "
                            f"{[type(value).__name__ for value in row]} in the columns "
                            f"{', '.join(columns)}. Choose other columns."
                        )
                    yield ["" if value is None else str(value) for value in row]
    except pa.ArrowException as error:
        raise ValueError(
            f"a probe file must be readable; {path} is not: {error}. "
            "Check that it is a Parquet file and was copied whole."
        ) from None


def _require_columns(columns: Iterable[str], header: list[str], path: Path) -> None:
    for column in columns:
        if column not in header:
            raise ValueError(
                f"a table probe names columns of its file; {column!r} is none of {path}. "
                + _near(column, header)
            )


def _column(store: TokenStore, column: str) -> tuple[list[Document], int]:
    try:
        store.label_values(column)
    except ValueError:
        left_out = store.meta["columns_left_out"].get(column)
        why = f" (it {left_out})" if left_out else ""
        raise ValueError(
            f"a corpus probe names a label column of the corpus, or syntax; received "
            f"'corpus:{column}'{why}. {_near(column, store.label_columns)}"
        ) from None
    documents, read = [], 0
    for ids, labels in store.documents("val"):
        read += 1
        known = {name: value for name, value in labels.items() if value}
        # Single-file modules share a label, but no topic.
        if column in known and (column, known[column]) != ("topic", SINGLE_MODULES):
            text = store.decode(ids).decode()
            documents.append(Document(text=text, label=known[column], attributes=known))
    return documents, read


def _syntax(store: TokenStore) -> tuple[list[Document], int]:
    """Documents that this Python cannot tokenize count as left out."""
    corpus = store.meta["corpus"]["spec"]
    if corpus != "stdlib":
        raise ValueError(
            f"corpus:syntax reads Python source, so it needs the corpus stdlib; received tokens of "
            f"{corpus!r}. Use conllu:GLOB for the parts of speech of a natural language."
        )
    documents, read = [], 0
    for ids, labels in store.documents("val"):
        read += 1
        text = store.decode(ids).decode()
        with suppress(ValueError):
            if spans := lexical_spans(text):
                documents.append(Document(text=text, spans=spans, attributes=labels))
    return documents, read


def _near(value: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(value, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(known) or 'none'}."


def _language(path: Path) -> dict[str, str]:
    match = _LANGUAGE_IN_NAME.search(path.name)
    return {LANGUAGE: match.group(1)} if match else {}


def _files(pattern: str, endings: tuple[str, ...]) -> list[Path]:
    pattern = os.path.expanduser(pattern)
    found = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
    paths = sorted(Path(name) for name in found if os.path.isfile(name))
    if not paths:
        raise ValueError(
            f"a probe's files must exist; {pattern!r} matches none (from {Path.cwd()}). "
            "Check the path, and quote it so that the shell leaves it alone."
        )
    for path in paths:
        if not path.name.endswith(endings):
            raise ValueError(
                f"this kind of probe reads {', '.join(endings)}; received {str(path)!r}. "
                "Convert it, or narrow the pattern."
            )
    return paths


def _open_text(path: Path) -> Any:
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Names the file in whatever keeps it from being read."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"a probe's text must be valid UTF-8; {path} is not ({error.reason}). "
            "Convert it, for example with iconv."
        ) from None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise ValueError(
            f"a probe file must be readable; {path} is not: {error}. "
            "Check its permissions, and that it was copied whole."
        ) from None
