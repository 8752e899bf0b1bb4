"""The right-hand side of a rule: a text that is checked once, then written out at each match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir.walk import Body

from .lexer import syntax_error
from .match import Match
from .parser import parse
from .pattern import Pattern
from .schema import call_is_legal, history, objection, schema
from .syntax import AttributeVariable, Choice, Number, Operator, Program, Term, Variable, Vector
from .tape import Tape
from .types import literal_type, result_type

Let: TypeAlias = Mapping[str, Callable[[Match], Any]]
"""Values that a rule computes: attributes (Python values) and new constants (arrays, numbers) by name."""


@dataclass(frozen=True, eq=False)
class Replacement:
    """A checked replacement text.

    Attributes:
        program: what was written.
        pattern: whose names it uses.
        let: computed names.
        kept: names of the pattern's results that it uses: their nodes stay.
        assigned: outputs of the pattern that it gives a new value; the others stay as they are.
    """

    program: Program
    pattern: Pattern
    let: Let
    kept: frozenset[str]
    assigned: tuple[str, ...]

    def calls(self, match: Match | None = None) -> Iterator[tuple[Operator, Choice, int]]:
        """Every operator it writes, as it is called, with the number of results."""
        for statement in self.program.statements:
            yield from self._calls(statement.term, max(1, len(statement.targets)), match)

    def _calls(self, term: Term, outputs: int, match: Match | None) -> Iterator[tuple[Operator, Choice, int]]:
        if isinstance(term, Operator):
            for operand in term.inputs:
                yield from self._calls(operand, 1, match)
            if term.choices:
                yield term, term.choices[0], outputs
            elif match is not None:
                yield term, match.labels[str(term.label)], outputs

    def objection(self, match: Match, domains: Mapping[str, int], imports: Mapping[str, int]) -> str | None:
        """Why the replacement cannot be written at this place, or None; see ``Rewrite.objection``."""
        for call, choice, outputs in self.calls(match):
            if (reason := _version_objection(call, choice, outputs, match.body, domains)) is not None:
                return reason
            here, main = match.body.version(choice[0]), imports.get(choice[0])
            if main is not None and schema(*choice, here) is not schema(*choice, main):
                return f"{choice[1]} differs between the function's opset {here} and the model's {main}"
        types = _Types(self, match)
        for statement in self.program.statements:
            kinds = types.of(statement.term)
            for index, name in enumerate(statement.targets):
                types.known[name] = kinds if index == 0 else None
            if types.missing is not None:
                return f"the element type of the operands of {types.missing} is unknown"
        return None

    def write(self, match: Match, tape: Tape) -> dict[str, ir.Value]:
        """Write the nodes; returns the new value of each assigned output."""
        return _Writer(self, match, tape).write()


def compile_replacement(text: str, pattern: Pattern, let: Let) -> Replacement:
    """Parse a replacement and check it against the names of its pattern.

    Raises:
        GraphoptError: the text cannot be understood, uses unknown names, or gives the wrong number of values.
    """
    program = parse(text)
    known = {*pattern.variables, *pattern.names, *let}
    kept: set[str] = set()
    local: set[str] = set()
    for statement in program.statements:
        _check(statement.term, max(1, len(statement.targets)), program, pattern, known | local, let)
        kept.update(name for name in _variables(statement.term) if name in pattern.names and name not in local)
        local.update(statement.targets)
    last = program.statements[-1]
    if not last.targets:
        if len(pattern.outputs) != 1:
            names = ", ".join(pattern.outputs)
            raise syntax_error(text, last.position, f"the pattern has the outputs {names}", 'name them: "y = ..."')
        assigned = tuple(pattern.outputs)
    else:
        assigned = tuple(name for name in pattern.outputs if name in local)
        if not assigned:
            raise GraphoptError("the replacement assigns none of the pattern's outputs", f'replacement "{text}"')
    return Replacement(program, pattern, let, frozenset(kept), assigned)


def _variables(term: Term) -> Iterator[str]:
    if isinstance(term, Variable):
        yield term.name
    elif isinstance(term, Operator):
        for operand in term.inputs:
            yield from _variables(operand)


def _check(term: Term, outputs: int, program: Program, pattern: Pattern, known: set[str], let: Let) -> None:
    if isinstance(term, Variable):
        position = max(program.text.find(term.name), 0)
        if term.name not in (pattern.lists if term.variadic else known):
            raise syntax_error(program.text, position, f"'{term.name}' is no name of the pattern")
    if not isinstance(term, Operator):
        return
    if len(term.choices) > 1 or term.skippable:
        raise syntax_error(program.text, term.position, "a replacement must say which operator it is")
    if (wrong := objection(term, outputs)) is not None:
        raise syntax_error(program.text, term.position, *wrong)
    if term.label is not None and (term.choices or term.label not in pattern.labels):
        raise syntax_error(program.text, term.position, f"'@{term.label}' is no label of the pattern")
    if term.rest is not None and term.rest not in pattern.rests:
        raise syntax_error(program.text, term.position, f"'**{term.rest}' is not in the pattern")
    for _, value in term.attributes:
        if isinstance(value, AttributeVariable) and value.name not in pattern.attributes and value.name not in let:
            raise syntax_error(program.text, term.position, f"'{value.name}' is no attribute of the pattern")
    for operand in term.inputs:
        _check(operand, 1, program, pattern, known, let)


def _version_objection(
    call: Operator, choice: Choice, outputs: int, body: Body, domains: Mapping[str, int]
) -> str | None:
    domain, op_type = choice
    if domain not in ("", *body.opsets):
        return None
    version = body.version(domain)
    if version < domains.get(domain, 1):
        return f"{op_type} needs version {domains[domain]} of {domain}, this graph has {version}"
    if call_is_legal(call, choice, version, outputs):
        return None
    since = sorted(item.since_version for item in history(domain, op_type))
    first = next((item for item in since if item > version and call_is_legal(call, choice, item, outputs)), None)
    if first is not None:
        return f"{op_type} needs opset {first}, this graph has {version}"
    return f"{op_type} is called differently in opset {version}"


class _Types:
    """Element types of the terms of a replacement, before anything is written."""

    def __init__(self, replacement: Replacement, match: Match) -> None:
        self.replacement = replacement
        self.match = match
        self.known: dict[str, ir.DataType | None] = {}
        self.missing: str | None = None

    def of(self, term: Term) -> ir.DataType | None:
        """The type of a term; None when it is unknown, or follows from the term's user."""
        if isinstance(term, Variable) and not term.variadic:
            if term.name in self.known:
                return self.known[term.name]
            if term.name in self.replacement.let:
                return None
            value = self.match.get(term.name)
            return None if value is None else value.dtype
        if not isinstance(term, Operator):
            return None
        choice = term.choices[0] if term.choices else self.match.labels[str(term.label)]
        version = self.match.body.version(choice[0])
        types = [self.of(operand) for operand in term.inputs]
        for index, operand in enumerate(term.inputs):
            if isinstance(operand, (Number, Vector)) and _literal(operand, choice, version, types, index) is None:
                self.missing = choice[1]
        return result_type(choice, version, types)


def _literal(
    term: Number | Vector, choice: Choice, version: int, types: list[ir.DataType | None], index: int
) -> ir.DataType | None:
    numbers = (term.value,) if isinstance(term, Number) else term.values
    return literal_type(choice, version, types, index, all(isinstance(number, int) for number in numbers))


class _Writer:
    def __init__(self, replacement: Replacement, match: Match, tape: Tape) -> None:
        self.replacement = replacement
        self.match = match
        self.tape = tape
        self.values: dict[str, ir.Value] = {}
        self.computed: dict[str, Any] = {}

    def write(self) -> dict[str, ir.Value]:
        statements = self.replacement.program.statements
        result: ir.Value | None = None
        for statement in statements:
            results = self.term(statement.term, max(1, len(statement.targets)))
            self.values.update(zip(statement.targets, results, strict=False))
            result = results[0]
        if not statements[-1].targets:
            assert result is not None
            return {self.replacement.assigned[0]: result}
        return {name: self.values[name] for name in self.replacement.assigned}

    def term(self, term: Term, outputs: int = 1) -> tuple[ir.Value, ...]:
        """The values of a term that is not left out."""
        if isinstance(term, Operator):
            return self.operator(term, outputs)
        value = self.variable(term) if isinstance(term, Variable) else None
        assert value is not None, "the replacement has been checked"
        return (value,)

    def variable(self, term: Variable) -> ir.Value | None:
        if term.name in self.values:
            return self.values[term.name]
        if term.name in self.replacement.let:
            found = self.let(term.name)
            if found is not None and not isinstance(found, ir.Value):
                found = self.tape.constant(found, term.name)
            if found is not None:
                self.values[term.name] = found
            return found
        return self.match.get(term.name)

    def let(self, name: str) -> Any:
        if name not in self.computed:
            self.computed[name] = self.replacement.let[name](self.match)
        return self.computed[name]

    def operator(self, call: Operator, outputs: int) -> tuple[ir.Value, ...]:
        choice = call.choices[0] if call.choices else self.match.labels[str(call.label)]
        operands: list[ir.Value | None] = []
        literals: list[tuple[int, Number | Vector]] = []
        for term in call.inputs:
            if isinstance(term, (Number, Vector)):
                literals.append((len(operands), term))
                operands.append(None)
            elif isinstance(term, Variable):
                operands.extend(self.match.lists[term.name] if term.variadic else [self.variable(term)])
            else:
                operands.append(self.operator(term, 1)[0] if isinstance(term, Operator) else None)
        types = [None if operand is None else operand.dtype for operand in operands]
        for position, term in literals:
            kind = _literal(term, choice, self.match.body.version(choice[0]), types, position)
            assert kind is not None, "objection() has found it"
            numbers: Any = term.value if isinstance(term, Number) else list(term.values)
            operands[position] = self.tape.constant(np.asarray(numbers).astype(kind.numpy()))
        attributes: dict[str, Any] = dict(self.match.attrs(call.rest)) if call.rest is not None else {}
        for name, value in call.attributes:
            attributes[name] = self.attribute(value) if isinstance(value, AttributeVariable) else value
        return self.tape.ops(choice[1], *operands, outputs=outputs, domain=choice[0], attributes=attributes)

    def attribute(self, term: AttributeVariable) -> Any:
        return self.let(term.name) if term.name in self.replacement.let else self.match.captured[term.name]
