"""The lexical class of every piece of Python source, from Python's own `tokenize`."""

from __future__ import annotations

import io
import keyword
import tokenize

Span = tuple[int, int, str]

_CLASS_OF = {
    tokenize.OP: "operator",
    tokenize.NUMBER: "number",
    tokenize.STRING: "string",
    tokenize.COMMENT: "comment",
}
# From Python 3.12 an f-string comes in parts, and what stands between them as code.
_CLASS_OF |= {
    getattr(tokenize, name): "string"
    for name in dir(tokenize)
    if name.startswith(("FSTRING_", "TSTRING_"))
}


def lexical_spans(source: str) -> tuple[Span, ...]:
    """(start, end, class) in characters: keyword, name, operator, number, string, comment.

    Keywords are those of every context (`match` is a name). White space, line ends and line
    continuations have no class. Raises ValueError if this Python cannot tokenize the source.
    """
    line_start = [0]
    for line in source.split("\n"):
        line_start.append(line_start[-1] + len(line) + 1)
    spans: list[Span] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            label = _class_of(token)
            if label is None:
                continue
            start = line_start[token.start[0] - 1] + token.start[1]
            end = line_start[token.end[0] - 1] + token.end[1]
            if spans:
                start = max(start, spans[-1][1])
            if start < end:
                spans.append((start, end, label))
    except (tokenize.TokenError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"lexical classes need source that this Python can tokenize; received text that it "
            f"cannot: {error}. Use the Python that the text belongs to."
        ) from None
    return tuple(spans)


def _class_of(token: tokenize.TokenInfo) -> str | None:
    if token.type == tokenize.NAME:
        return "keyword" if keyword.iskeyword(token.string) else "name"
    return _CLASS_OF.get(token.type)
