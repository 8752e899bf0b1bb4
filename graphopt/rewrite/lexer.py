"""Splits the text of a pattern into tokens that remember where they stood."""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphopt.errors import GraphoptError

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r]+|\#[^\n]*)
  | (?P<newline>\n)
  | (?P<qualified>[A-Za-z_][\w.]*::[A-Za-z_]\w*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf\b|nan\b))
  | (?P<string>"[^"\n]*"|'[^'\n]*')
  | (?P<mark>\.\.\.|\*\*|[(){}\[\],;=|?@])
    """,
    re.VERBOSE,
)

_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text.

    Attributes:
        kind: ``name``, ``qualified`` (``domain::Name``), ``number``, ``string``, ``mark`` or ``end``.
        text: as written; a newline between statements is the mark ``;``.
        position: the offset of its first character.
    """

    kind: str
    text: str
    position: int


def tokens(text: str) -> list[Token]:
    """All tokens of a text, an ``end`` token last. Newlines separate statements except inside brackets.

    Raises:
        GraphoptError: a character that begins no token.
    """
    found: list[Token] = []
    position = depth = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise syntax_error(text, position, f"'{text[position]}' has no meaning here")
        kind, piece = str(match.lastgroup), match.group()
        if kind == "newline" and depth == 0:
            found.append(Token("mark", ";", position))
        elif kind not in ("space", "newline"):
            depth += (piece in _OPENING) - (piece in _CLOSING) if kind == "mark" else 0
            found.append(Token(kind, piece, position))
        position = match.end()
    found.append(Token("end", "", len(text)))
    return found


def syntax_error(text: str, position: int, what: str, hint: str = "") -> GraphoptError:
    """An error that shows the line of the text, with a caret below the place."""
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text[start : end if end >= 0 else len(text)]
    column = position - start
    number = text.count("\n", 0, position) + 1
    return GraphoptError(what, f"line {number}, column {column + 1} of\n    {line}\n    {' ' * column}^", hint)
