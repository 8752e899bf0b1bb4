"""Rewriting graphs by rules that read as equations.

A rule (``Rewrite``) says what to look for and what to write instead, both as text in ONNX's operator names. A
``RuleSet`` applies rules to a whole model and yields a ``Site`` for each place. The language: ``syntax``.
"""

from .conditions import (
    Condition,
    broadcasts_into,
    constant,
    floating,
    near,
    of_type,
    rank,
    same_shape,
    scalar,
    static,
    that,
)
from .match import Match, Refused
from .rule import Rewrite
from .ruleset import RuleSet, Worklist
from .tape import Tape

__all__ = [
    "Condition",
    "Match",
    "Refused",
    "Rewrite",
    "RuleSet",
    "Tape",
    "Worklist",
    "broadcasts_into",
    "constant",
    "floating",
    "near",
    "of_type",
    "rank",
    "same_shape",
    "scalar",
    "static",
    "that",
]
