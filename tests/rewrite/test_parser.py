from __future__ import annotations

import pytest

from graphopt.errors import GraphoptError
from graphopt.rewrite.parser import parse
from graphopt.rewrite.pattern import compile_pattern
from graphopt.rewrite.syntax import Absent, AttributeVariable, Number, Operator, Variable, Vector


def only_term(text: str) -> Operator:
    term = parse(text).statements[-1].term
    assert isinstance(term, Operator)
    return term


def test_an_operator_has_operands_of_every_kind():
    term = only_term("Foo(x, b?, xs...)")
    assert term.inputs == (Variable("x"), Variable("b", optional=True), Variable("xs", variadic=True))
    assert only_term("Foo(_, 0.5, -3, [0, -1])").inputs == (Absent(), Number(0.5), Number(-3), Vector((0, -1)))


def test_numbers_keep_whether_they_are_whole():
    values = [item.value for item in only_term("Foo(1, 1.0, 1e-5, -.5)").inputs if isinstance(item, Number)]
    assert values == [1, 1.0, 1e-5, -0.5]
    assert [type(value) for value in values] == [int, float, float, float]


def test_attributes_are_values_variables_and_the_rest():
    term = only_term('Foo{a=1, b=[1, 2], c="text", d=p, e=q?, to=FLOAT16, m=["x", "y"], **rest}(x)')
    assert dict(term.attributes) == {
        "a": 1,
        "b": (1, 2),
        "c": "text",
        "d": AttributeVariable("p"),
        "e": AttributeVariable("q", optional=True),
        "to": 10,
        "m": ("x", "y"),
    }
    assert term.rest == "rest"


def test_operators_have_domains_alternatives_labels_and_may_be_missing():
    assert only_term("com.microsoft::Gelu(x)").choices == (("com.microsoft", "Gelu"),)
    assert only_term("ai.onnx::Relu(x)").choices == (("", "Relu"),)
    assert only_term("pkg.torch::aten_add(x)").choices == (("pkg.torch", "aten_add"),)
    assert only_term("Add|Sub@op(x, y)").choices == (("", "Add"), ("", "Sub"))
    assert only_term("Add|Sub@op(x, y)").label == "op"
    assert only_term("Cast?{to=t}(x)").skippable


def test_statements_are_separated_by_semicolons_or_lines():
    first = parse("y = Conv(x, w); z, _ = Foo(y)")
    second = parse("\n  y = Conv(x,\n           w)  # a comment\n\n  z, _ = Foo(y)\n")
    assert [item.targets for item in first.statements] == [("y",), ("z", "_")]
    assert [item.term for item in first.statements] == [item.term for item in second.statements]


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("Mul(x, ", "an operand is expected, not the end", 8),
        ("Mul(x y)", "',' or ')' is expected, not 'y'", 7),
        ("Mul(x,)) Relu(x)", "an operand, ';' or the end is expected, not ')'", 8),
        ("mul(x, y)", "'mul' is a name for a value, not for an operator", 1),
        ("Mul(x, $)", "'$' has no meaning here", 8),
        ("Foo(xs..., y)", "nothing may follow 'xs...'", 12),
        ("Cast{to=FLOTA}(x)", "'FLOTA' is no element type", 9),
        ("Foo{a=1, a=2}(x)", "the attribute 'a' is there already", 10),
        ("Relu(x); Relu(y)", "only the last statement may be without a name", 1),
        ("Y = Relu(x)", "'Y' is a name for an operator", 1),
        ("", "the text is empty", 1),
    ],
)
def test_errors_point_at_the_place(text: str, message: str, column: int):
    with pytest.raises(GraphoptError) as caught:
        parse(text)
    assert caught.value.what == message
    assert f"column {column} of" in caught.value.where
    caret = caught.value.where.splitlines()[-1]
    assert caret == "    " + " " * (column - 1) + "^"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("Gleu(x)", "ONNX has no operator 'Gleu'", "did you mean 'Gelu'?"),
        ("Softmax{axes=1}(x)", "'Softmax' has no attribute 'axes'", "it has: axis"),
        ("Cast(x)", "'Cast' needs the attribute 'to'", "write Cast{to=...} or Cast{**a}"),
        ("Relu(x, y)", "'Relu' cannot be called like this", "it has 1 to 1 operands"),
        ("Mul(x, y = Relu(x))", "',' or ')' is expected, not '='", ""),
        ("x", "a pattern is made of operators", 'as in "y = Relu(x)"'),
        ("y = Relu(x); y = Relu(y)", "'y' is named twice", ""),
        ("z = Relu(y); y = Relu(x)", "'y' is used before the statement that names it", ""),
        ("@op(x)", "the pattern must say which operators '@op' may be", ""),
        ("Cast?{to=t}(x)", "the last operator cannot be one that may be missing", ""),
    ],
)
def test_a_pattern_that_could_never_match_is_an_error(text: str, message: str, hint: str):
    with pytest.raises(GraphoptError) as caught:
        compile_pattern(text)
    assert (caught.value.what, caught.value.hint) == (message, hint)


def test_the_outputs_are_the_named_results_of_the_last_operators():
    assert list(compile_pattern("Relu(Neg(x))").outputs) == [""]
    assert list(compile_pattern("y = Conv{**a}(x, w); z = Relu(y)").outputs) == ["z"]
    assert list(compile_pattern("y = Conv{**a}(x, w); z = Relu(y)", ["y", "z"]).outputs) == ["y", "z"]
    assert list(compile_pattern("q = MatMul(x, a); k = MatMul(x, b)").outputs) == ["q", "k"]
    with pytest.raises(GraphoptError, match="the output 'w' is no name of the pattern"):
        compile_pattern("y = Relu(x)", ["w"])
    with pytest.raises(GraphoptError, match="must have a name among the outputs"):
        compile_pattern("y = Relu(x); z = Neg(x)", ["y"])
