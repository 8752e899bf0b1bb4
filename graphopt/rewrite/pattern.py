"""A parsed pattern given its meaning: a small graph of operators, with names resolved and outputs settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.errors import GraphoptError

from .lexer import syntax_error
from .parser import parse
from .schema import objection
from .syntax import (
    Absent,
    AttributeVariable,
    Choice,
    Number,
    Operator,
    Program,
    Statement,
    Term,
    Variable,
    Vector,
)


@dataclass(frozen=True, slots=True)
class Output:
    """A result of an operator of the pattern."""

    node: int
    index: int


Operand: TypeAlias = Variable | Absent | Number | Vector | Output


@dataclass(frozen=True, slots=True, eq=False)
class PatternNode:
    """An operator of a pattern.

    Attributes:
        index: its place in ``Pattern.nodes``; operands come before the operators that use them.
        call: as it was written (attributes, label, ...).
        choices: the operators it may be.
        operands: its inputs, resolved.
        targets: the names of its outputs, None for nameless ones.
    """

    index: int
    call: Operator
    choices: frozenset[Choice]
    operands: tuple[Operand, ...]
    targets: tuple[str | None, ...]


@dataclass(frozen=True, eq=False)
class Pattern:
    """A compiled pattern.

    Attributes:
        text: as it was written.
        nodes: its operators.
        names: the value each name stands for, for names given by statements.
        outputs: the values that may be used outside a match, by name; a single nameless one is called ``""``.
        variables: names of values that come from outside.
        lists: names of lists of values (``xs...``).
        attributes: names of captured attributes.
        rests: names that catch all other attributes of a node (``**a``), with that node.
        labels: names that catch which operator was met.
    """

    text: str
    nodes: tuple[PatternNode, ...]
    names: Mapping[str, Output]
    outputs: Mapping[str, Output]
    variables: frozenset[str]
    lists: frozenset[str]
    attributes: frozenset[str]
    rests: Mapping[str, int]
    labels: frozenset[str]

    @property
    def roots(self) -> list[int]:
        """Operators that no other operator of the pattern uses, in the order of the text."""
        return _roots(self.nodes)

    def ancestors(self, nodes: Sequence[int]) -> frozenset[int]:
        """The given operators and all that they are computed from."""
        found: set[int] = set()
        pending = list(nodes)
        while pending:
            index = pending.pop()
            if index not in found:
                found.add(index)
                pending.extend(item.node for item in self.nodes[index].operands if isinstance(item, Output))
        return frozenset(found)


def _roots(nodes: Sequence[PatternNode]) -> list[int]:
    used = {operand.node for node in nodes for operand in node.operands if isinstance(operand, Output)}
    return [node.index for node in nodes if node.index not in used]


def compile_pattern(text: str, outputs: Sequence[str] = ()) -> Pattern:
    """Parse a pattern and resolve its names.

    Args:
        text: the pattern.
        outputs: names of the values that may be used outside a match; by default the named results of the
            operators that nothing else in the pattern uses.

    Raises:
        GraphoptError: the text cannot be understood, or could never match.
    """
    return _Compiler(parse(text)).compile(outputs)


class _Compiler:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[PatternNode] = []
        self.names: dict[str, Output] = {}
        self.variables: set[str] = set()
        self.lists: set[str] = set()
        self.attributes: set[str] = set()
        self.rests: dict[str, int] = {}
        self.labels: set[str] = set()

    def compile(self, outputs: Sequence[str]) -> Pattern:
        for statement in self.program.statements:
            self.statement(statement)
        known = self.variables | self.lists
        for name in self.names:
            if name in known:
                raise self.error(0, f"'{name}' is used before the statement that names it")
        return Pattern(
            self.program.text,
            tuple(self.nodes),
            self.names,
            self.outputs(outputs),
            frozenset(self.variables),
            frozenset(self.lists),
            frozenset(self.attributes),
            self.rests,
            frozenset(self.labels),
        )

    def error(self, position: int, what: str, hint: str = "") -> GraphoptError:
        return syntax_error(self.program.text, position, what, hint)

    def statement(self, statement: Statement) -> None:
        if not isinstance(statement.term, Operator):
            raise self.error(statement.position, "a pattern is made of operators", 'as in "y = Relu(x)"')
        targets = tuple(None if name == "_" else name for name in statement.targets) or (None,)
        index = self.operator(statement.term, targets)
        for position, name in enumerate(targets):
            if name is None:
                continue
            if name in self.names:
                raise self.error(statement.position, f"'{name}' is named twice")
            self.names[name] = Output(index, position)

    def operator(self, call: Operator, targets: tuple[str | None, ...]) -> int:
        if not call.choices:
            raise self.error(call.position, f"the pattern must say which operators '@{call.label}' may be")
        if (wrong := objection(call, len(targets))) is not None:
            raise self.error(call.position, *wrong)
        if call.skippable and len(targets) > 1:
            raise self.error(call.position, "an operator that may be missing has one result")
        operands = tuple(self.operand(term) for term in call.inputs)
        index = len(self.nodes)
        self.nodes.append(PatternNode(index, call, frozenset(call.choices), operands, targets))
        for _, value in call.attributes:
            if isinstance(value, AttributeVariable):
                self.attributes.add(value.name)
        if call.rest not in (None, "_"):
            if call.rest in self.rests:
                raise self.error(call.position, f"'**{call.rest}' is there already")
            self.rests[str(call.rest)] = index
        if call.label is not None:
            self.labels.add(call.label)
        return index

    def operand(self, term: Term) -> Operand:
        if isinstance(term, Operator):
            return Output(self.operator(term, (None,)), 0)
        if isinstance(term, Variable):
            if term.name in self.names:
                return self.names[term.name]
            (self.lists if term.variadic else self.variables).add(term.name)
        return term

    def outputs(self, wanted: Sequence[str]) -> dict[str, Output]:
        roots = _roots(self.nodes)
        if not wanted:
            found = {name: item for name, item in self.names.items() if item.node in roots}
            if len(roots) == 1 and not found:
                found = {"": Output(roots[0], 0)}
        else:
            for name in wanted:
                if name not in self.names:
                    raise GraphoptError(
                        f"the output '{name}' is no name of the pattern", f'pattern "{self.program.text}"'
                    )
            found = {name: self.names[name] for name in wanted}
        for root in roots:
            if not any(item.node == root for item in found.values()):
                call = self.nodes[root].call
                raise self.error(call.position, "nothing uses this operator, so it must have a name among the outputs")
            if self.nodes[root].call.skippable:
                raise self.error(self.nodes[root].call.position, "the last operator cannot be one that may be missing")
        return found
