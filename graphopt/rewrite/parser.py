"""The recursive-descent parser of the pattern language (grammar: ``syntax``)."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.errors import GraphoptError

from .lexer import Token, syntax_error, tokens
from .syntax import (
    Absent,
    AttributeTerm,
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


def parse(text: str) -> Program:
    """Read a pattern or a replacement.

    Raises:
        GraphoptError: the text does not follow the grammar; the error points at the place.
    """
    return _Parser(text).program()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens(text)
        self.at = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def error(self, what: str, hint: str = "", token: Token | None = None) -> GraphoptError:
        return syntax_error(self.text, (token or self.token).position, what, hint)

    def unexpected(self, expected: str) -> GraphoptError:
        seen = f"'{self.token.text}'" if self.token.text else "the end"
        return self.error(f"{expected} is expected, not {seen}")

    def take(self) -> Token:
        token = self.token
        self.at += 1
        return token

    def accept(self, mark: str) -> bool:
        if self.token.kind == "mark" and self.token.text == mark:
            self.at += 1
            return True
        return False

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            raise self.unexpected(f"'{mark}'")

    def name(self, what: str) -> str:
        if self.token.kind != "name":
            raise self.unexpected(what)
        return self.take().text

    # statements

    def program(self) -> Program:
        statements: list[Statement] = []
        while self.token.kind != "end":
            if self.accept(";"):
                continue
            statements.append(self.statement())
            if self.token.kind != "end" and not self.accept(";"):
                raise self.unexpected("an operand, ';' or the end")
        if not statements:
            raise self.error("the text is empty", 'write an operator, as in "Relu(x)"')
        for statement in statements[:-1]:
            if not statement.targets:
                message = "only the last statement may be without a name"
                raise syntax_error(self.text, statement.position, message, 'write "y = ..."')
        return Program(self.text, tuple(statements))

    def statement(self) -> Statement:
        start = self.at
        position = self.token.position
        targets: list[str] = []
        while self.token.kind == "name":
            targets.append(self.take().text)
            if not self.accept(","):
                break
        if not targets or not self.accept("="):
            self.at = start  # no targets after all
            targets = []
        for target in targets:
            if target[0].isupper():
                raise syntax_error(
                    self.text, position, f"'{target}' is a name for an operator", "values are lower-case"
                )
        return Statement(tuple(targets), self.term(), position)

    # terms

    def term(self) -> Term:
        token = self.token
        if token.kind == "number":
            return Number(_number(self.take().text))
        if self.accept("["):
            return Vector(self.numbers())
        if token.kind == "qualified" or (token.kind == "mark" and token.text == "@"):
            return self.operator()
        if token.kind != "name":
            raise self.unexpected("an operand")
        if token.text[0].isupper():
            return self.operator()
        self.take()
        if token.text == "_":
            return Absent()
        if self.accept("..."):
            return Variable(token.text, variadic=True)
        if self.accept("?"):
            return Variable(token.text, optional=True)
        if self.token.text in ("(", "{", "|", "@"):
            hint = 'operators begin with a capital, or have a domain: "my.domain::lower_case(x)"'
            raise self.error(f"'{token.text}' is a name for a value, not for an operator", hint, token)
        return Variable(token.text)

    def numbers(self) -> tuple[int | float, ...]:
        values: list[int | float] = []
        while not self.accept("]"):
            if self.token.kind != "number":
                raise self.unexpected("a number or ']'")
            values.append(_number(self.take().text))
            if self.token.text != "]":
                self.expect(",")
        return tuple(values)

    def operator(self) -> Operator:
        position = self.token.position
        choices: list[Choice] = []
        if self.token.text != "@":
            choices.append(self.choice())
            while self.accept("|"):
                choices.append(self.choice())
        label = self.name("a label") if self.accept("@") else None
        skippable = self.accept("?")
        attributes, rest = self.attributes() if self.accept("{") else ((), None)
        self.expect("(")
        inputs: list[Term] = []
        while not self.accept(")"):
            if inputs and isinstance(inputs[-1], Variable) and inputs[-1].variadic:
                raise self.error(f"nothing may follow '{inputs[-1].name}...'")
            inputs.append(self.term())
            if self.token.text != ")":
                if self.token.text != ",":
                    raise self.unexpected("',' or ')'")
                self.take()
        if skippable and not inputs:
            raise syntax_error(self.text, position, "an operator that may be missing needs an operand to stand for it")
        return Operator(tuple(choices), tuple(inputs), attributes, rest, skippable, label, position)

    def choice(self) -> Choice:
        token = self.token
        if token.kind == "qualified":
            domain, _, op_type = self.take().text.partition("::")
            return ("" if domain == "ai.onnx" else domain, op_type)
        if token.kind != "name" or not token.text[0].isupper():
            raise self.unexpected("the name of an operator")
        return ("", self.take().text)

    # attributes

    def attributes(self) -> tuple[tuple[tuple[str, AttributeTerm], ...], str | None]:
        found: dict[str, AttributeTerm] = {}
        rest: str | None = None
        while not self.accept("}"):
            if self.accept("**"):
                if rest is not None:
                    raise self.error("'**' is there already")
                rest = self.name("a name for the other attributes")
            else:
                token = self.token
                name = self.name("the name of an attribute")
                if name in found:
                    raise self.error(f"the attribute '{name}' is there already", token=token)
                self.expect("=")
                found[name] = self.attribute()
            if self.token.text != "}":
                self.expect(",")
        return tuple(found.items()), rest

    def attribute(self) -> AttributeTerm:
        token = self.token
        if token.kind == "number":
            return _number(self.take().text)
        if token.kind == "string":
            return self.take().text[1:-1]
        if self.accept("["):
            return self.strings() if self.token.kind == "string" else self.numbers()
        name = self.name("a value of the attribute")
        if name.isupper() and len(name) > 1:
            if name not in ir.DataType.__members__:
                raise self.error(f"'{name}' is no element type", "as in onnx.TensorProto: FLOAT, INT64, ...", token)
            return int(ir.DataType[name])
        return AttributeVariable(name, optional=self.accept("?"))

    def strings(self) -> tuple[str, ...]:
        values: list[str] = []
        while not self.accept("]"):
            if self.token.kind != "string":
                raise self.unexpected("a text or ']'")
            values.append(self.take().text[1:-1])
            if self.token.text != "]":
                self.expect(",")
        return tuple(values)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
