"""The syntax tree of the pattern language: what a text says, before it is given a meaning.

::

    program    := statement ((";" | newline) statement)*
    statement  := [name ("," name)* "="] term
    term       := number | "[" numbers "]" | "_" | name ["?" | "..."] | operator
    operator   := (choice ("|" choice)* ["@" name] | "@" name) ["?"] ["{" attributes "}"] "(" terms ")"
    choice     := [domain "::"] Name
    attributes := (name "=" value | "**" name) ("," ...)*
    value      := number | "text" | "[" numbers "]" | name ["?"] | DTYPE
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Variable:
    """A value by name (``x``), one that may be left out (``x?``), or all remaining ones (``xs...``)."""

    name: str
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True, slots=True)
class Absent:
    """An optional input that is left out: ``_``."""


@dataclass(frozen=True, slots=True)
class Number:
    """A constant of one element: ``0.5``."""

    value: int | float


@dataclass(frozen=True, slots=True)
class Vector:
    """A constant of rank 1: ``[0, -1]``."""

    values: tuple[int | float, ...]


@dataclass(frozen=True, slots=True)
class AttributeVariable:
    """An attribute's value by name; with ``?`` the attribute may be left out."""

    name: str
    optional: bool = False


AttributeTerm: TypeAlias = AttributeVariable | int | float | str | tuple[int | float | str, ...]

Choice: TypeAlias = tuple[str, str]
"""An operator: (domain, type); the standard domain is ``""``."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A call of an operator.

    Attributes:
        choices: the operators it may be; empty for ``@label(...)``, which repeats what a label has caught.
        inputs: its operands.
        attributes: the attributes that are spelled out.
        rest: the name that catches all other attributes (``**a``), ``_`` for "whatever they are", or None
            when all others must have their default.
        skippable: ``Cast?(x)`` is also ``x``.
        label: the name that catches which choice it was.
        position: the offset in the text, for messages.
    """

    choices: tuple[Choice, ...]
    inputs: tuple[Term, ...]
    attributes: tuple[tuple[str, AttributeTerm], ...] = ()
    rest: str | None = None
    skippable: bool = False
    label: str | None = None
    position: int = field(default=0, compare=False)


Term: TypeAlias = Variable | Absent | Number | Vector | Operator


@dataclass(frozen=True, slots=True)
class Statement:
    """``a, b = term``; without targets the statement is the program's result; ``_`` is a nameless output."""

    targets: tuple[str, ...]
    term: Term
    position: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Program:
    """A parsed text."""

    text: str
    statements: tuple[Statement, ...]
