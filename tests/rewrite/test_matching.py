"""What a pattern matches and what it does not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.rewrite import (
    Refused,
    Rewrite,
    RuleSet,
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


def graph(nodes: str, inits: str = "", inputs: str = "float[N] x, float[N] y", outputs: str = "float[N] z") -> str:
    return f"g ({inputs}) => ({outputs}) {'<' + inits + '>' if inits else ''} {{ {nodes} }}"


def fires(rewritten, pattern: str, model: str, opset: int = 20, **more) -> bool:
    rule = Rewrite(
        pattern, build=lambda match, tape: tape.op("Identity", next(v for v in match.values.values() if v)), **more
    )
    return bool(rewritten(model, rule, opset=opset).done)


def test_the_same_name_is_the_same_value(rewritten):
    assert fires(rewritten, "Mul(a, Sigmoid(a))", graph("s = Sigmoid(x) z = Mul(x, s)"))
    assert not fires(rewritten, "Mul(a, Sigmoid(a))", graph("s = Sigmoid(x) z = Mul(y, s)"))


@pytest.mark.parametrize("nodes", ["z = Add(m, y)", "z = Add(y, m)"])
@pytest.mark.parametrize("inner", ["m = Mul(x, e)", "m = Mul(e, x)"])
def test_commutative_operands_are_tried_in_every_order(rewritten, nodes, inner):
    assert fires(rewritten, "Add(Mul(Exp(a), a), b)", graph(f"e = Exp(x) {inner} {nodes}"))


def test_operands_of_other_operators_are_not_exchanged(rewritten):
    assert fires(rewritten, "Sub(Exp(a), b)", graph("e = Exp(x) z = Sub(e, y)"))
    assert not fires(rewritten, "Sub(Exp(a), b)", graph("e = Exp(x) z = Sub(y, e)"))


def test_three_operands_of_a_commutative_operator_are_exchanged(rewritten):
    assert fires(rewritten, "Sum(Exp(a), Neg(a), a)", graph("e = Exp(x) n = Neg(x) z = Sum(n, x, e)"))


@pytest.mark.parametrize(("number", "found"), [("0.5", True), ("0.5000001", True), ("0.501", False)])
def test_a_number_is_a_constant_near_it(rewritten, number, found):
    assert fires(rewritten, "Mul(a, 0.5)", graph("z = Mul(x, h)", f"float h = {{{number}}}")) is found


def test_a_number_tolerates_the_rounding_of_half_precision(rewritten):
    bits = np.float16(0.7978845608).view(np.uint16)
    model = graph("z = Mul(x, h)", f"float16 h = {{{bits}}}", "float16[N] x", "float16[N] z")
    assert fires(rewritten, "Mul(a, 0.7978845608)", model)


def test_integers_must_be_equal(rewritten):
    def model(number: int) -> str:
        return graph("z = Add(x, h)", f"int64 h = {{{number}}}", "int64[N] x", "int64[N] z")

    assert fires(rewritten, "Add(a, 1000000)", model(1000000))
    assert not fires(rewritten, "Add(a, 1000000)", model(1000001))


def test_a_graph_input_with_a_default_is_no_constant(rewritten):
    model = "g (float[N] x, float h = {0.5}) => (float[N] z) { z = Mul(x, h) }"
    assert not fires(rewritten, "Mul(a, 0.5)", model)
    assert fires(rewritten, "Mul(a, 0.5)", graph("h = Constant <value = float {0.5}> () z = Mul(x, h)"))


def test_a_number_of_higher_rank_would_change_the_shape(rewritten):
    def model(shape: str) -> str:
        return f"g (float{shape} x) => (float[A,B] z) <float[1,1] h = {{0.5}}> {{ z = Mul(x, h) }}"

    assert fires(rewritten, "Mul(a, 0.5)", model("[A,B]"))
    rule = Rewrite("Mul(a, 0.5)", "Relu(a)")
    assert rewritten(model("[B]"), rule).reasons == [
        "the constant 0.5 has rank 2, and the other operand has fewer dimensions"
    ]
    assert not rewritten(model("[B]"), rule).done


def test_a_list_is_a_constant_of_rank_1(rewritten):
    def model(inits: str) -> str:
        return graph("z = Reshape(x, s)", inits, "float[A,B] x", "float[A,B] z")

    assert fires(rewritten, "Reshape(a, [0, -1])", model("int64[2] s = {0, -1}"))
    assert not fires(rewritten, "Reshape(a, [0, -1])", model("int64[2] s = {0, 1}"))
    assert not fires(rewritten, "Reshape(a, [0, -1])", model("int64[1] s = {-1}"))


def test_operands_left_out_must_be_left_out(rewritten):
    model = graph("z = Clip(x, low, high)", "float low = {0}, float high = {6}")
    no_low = graph("z = Clip(x, , high)", "float high = {6}")
    assert fires(rewritten, "Clip(a, 0, 6)", model)
    assert not fires(rewritten, "Clip(a, 0)", model)
    assert not fires(rewritten, "Clip(a, _, 6)", model)
    assert fires(rewritten, "Clip(a, _, 6)", no_low)
    assert fires(rewritten, "Clip(a, low?, high?)", no_low)
    assert not fires(rewritten, "Clip(a, low, high)", no_low)


def test_a_list_variable_catches_all_remaining_operands(rewritten):
    seen = []
    rule = Rewrite(
        "Concat{axis=k}(first, rest...)",
        build=lambda match, tape: seen.append([value.name for value in match.lists["rest"]]) or match["first"],
    )
    rewritten(graph("z = Concat <axis = 0> (x, y, x)"), rule)
    assert seen == [["y", "x"]]


def test_attributes_that_are_not_mentioned_must_have_their_default(rewritten):
    def model(attributes: str) -> str:
        return graph(f"z = LeakyRelu {attributes} (x)")

    assert fires(rewritten, "LeakyRelu(a)", model(""))
    assert fires(rewritten, "LeakyRelu(a)", model("<alpha = 0.01>"))
    assert not fires(rewritten, "LeakyRelu(a)", model("<alpha = 0.2>"))
    assert fires(rewritten, "LeakyRelu{**_}(a)", model("<alpha = 0.2>"))
    assert fires(rewritten, "LeakyRelu{alpha=0.2}(a)", model("<alpha = 0.2>"))
    assert fires(rewritten, "LeakyRelu{alpha=0.01}(a)", model(""))
    assert not fires(rewritten, "LeakyRelu{alpha=0.2}(a)", model(""))


def test_a_default_is_that_of_the_operator_set_in_force(rewritten):
    model = "g (float[A,B] x) => (float[A,B] z) { z = Softmax(x) }"
    assert fires(rewritten, "Softmax{axis=-1}(a)", model, opset=13)
    assert fires(rewritten, "Softmax{axis=1}(a)", model, opset=11)
    assert not fires(rewritten, "Softmax{axis=-1}(a)", model, opset=11)


def test_attributes_are_captured(rewritten):
    seen = []

    def build(match, tape):
        seen.extend(
            [match.attr("p"), match.attr("r"), match.attr("a.group"), match.attr("a.strides"), list(match.attrs("a"))]
        )
        return match["x"]

    rule = Rewrite("Transpose{perm=p}(Conv{pads=r?, **a}(x, w))", build=build)
    text = (
        "g (float[1,1,2,2] x, float[1,1,1,1] w) => (float[1,1,2,2] z) {c = Conv <strides = [1, 1]>"
        " (x, w)\n z = Transpose <perm = [0, 1, 3, 2]> (c) }"
    )
    rewritten(text, rule)
    assert seen == [(0, 1, 3, 2), None, 1, (1, 1), ["strides"]]


def test_a_captured_attribute_without_question_mark_must_be_there(rewritten):
    model = graph("z = Transpose(x)")
    assert not fires(rewritten, "Transpose{perm=p}(a)", model)
    assert fires(rewritten, "Transpose{perm=p?}(a)", model)


def test_the_same_attribute_variable_is_the_same_value(rewritten):
    def model(second: int) -> str:
        return graph(f"s = ReduceSum <keepdims = 1> (x) t = ReduceMax <keepdims = {second}> (y) z = Add(s, t)")

    assert fires(rewritten, "Add(ReduceSum{keepdims=k}(a), ReduceMax{keepdims=k}(b))", model(1))
    assert not fires(rewritten, "Add(ReduceSum{keepdims=k}(a), ReduceMax{keepdims=k}(b))", model(0))


@pytest.mark.parametrize(("operator", "found"), [("Add", True), ("Sub", True), ("Mul", False)])
def test_alternatives_are_any_of_the_operators(rewritten, operator, found):
    assert fires(rewritten, "Relu(Add|Sub(a, b))", graph(f"s = {operator}(x, y) z = Relu(s)")) is found


def test_a_label_is_the_same_operator_everywhere(rewritten):
    pattern = "Add(Exp|Neg@f(a), Exp|Neg@f(b))"
    assert fires(rewritten, pattern, graph("s = Exp(x) t = Exp(y) z = Add(s, t)"))
    assert not fires(rewritten, pattern, graph("s = Exp(x) t = Neg(y) z = Add(s, t)"))


def test_an_operator_that_may_be_missing_is_tried_both_ways(rewritten):
    pattern = "Mul(Neg(a), Cast?{to=t}(Exp(a)))"
    assert fires(rewritten, pattern, graph("n = Neg(x) e = Exp(x) z = Mul(n, e)"))
    assert fires(rewritten, pattern, graph("n = Neg(x) e = Exp(x) c = Cast <to = 1> (e) z = Mul(n, c)"))
    # ... even when it is in the way of the rarest operator
    assert fires(rewritten, "Relu(Cast?{**_}(Exp(a)))", graph("e = Exp(x) z = Relu(e) r = Relu(y)"))


def test_other_domains_are_other_operators(rewritten, load):
    text = "g (float[N] x) => (float[N] z) { z = com.microsoft.Gelu(x) }"
    rule = Rewrite("com.microsoft::Gelu(a)", "Gelu(a)")
    assert rewritten(load(text, 20, domains='"com.microsoft" : 1'), rule).text == "z = Gelu(x)\n-> z"
    assert not rewritten(load(text, 20, domains='"com.microsoft" : 1'), Rewrite("Gelu(a)", "Relu(a)")).done


def test_an_operator_that_the_model_defines_itself_is_left_alone(rewritten, load):
    model = load("g (float[N] x) => (float[N] z) { z = Relu(x) }")
    assert rewritten(model, Rewrite("Relu(a)", "Neg(a)")).done
    model = load("g (float[N] x) => (float[N] z) { z = Relu(x) }")
    inner = ir.val("x")
    node = ir.node("Neg", [inner])
    body = ir.Graph([inner], node.outputs, nodes=[node], opset_imports={"": 20})
    model.functions[("", "Relu", "")] = ir.Function("", "Relu", graph=body, attributes=[])
    assert not list(RuleSet([Rewrite("Relu(a)", "Exp(a)")]).sites(model))


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (near("b", 3.0), "b is 2, not 3"),
        (near("a", 3.0), "a is not a constant"),
        (constant("a"), "a is not a constant"),
        (scalar("a"), "a is not a constant of one element"),
        (of_type("a", ir.DataType.DOUBLE), "a has element type float"),
        (rank("a", 2), "a has rank 1"),
        (static("a"), "the shape of a is not fixed"),
        (same_shape("a", "b"), "a and b are not known to have the same shape"),
        (broadcasts_into("a", "b"), "a is not known to broadcast into the shape of b"),
        (that("it is Sunday", lambda match: False), "it is Sunday"),
        (lambda match: "never", "never"),
        (lambda match: False, "a condition of the rule does not hold"),
        (lambda match: match.array("a").any() and None, "a is not a constant"),
    ],
)
def test_a_condition_that_does_not_hold_gives_its_reason(rewritten, condition, reason):
    rule = Rewrite("Sub(a, b)", "Add(a, b)", where=[condition])
    result = rewritten(graph("z = Sub(x, c)", "float c = {2}"), rule)
    assert result.reasons == [reason]
    assert not result.done


@pytest.mark.parametrize(
    "condition",
    [
        near("b", 2.0),
        constant("b"),
        scalar("b"),
        floating("a", "b"),
        of_type("a", ir.DataType.FLOAT),
        rank("a", 1, 2),
        static("b"),
        same_shape("a", "a"),
        broadcasts_into("b", "a"),
        that("a is short", lambda match: len(match.dims("a")) == 1),
        lambda match: None,
        lambda match: True,
    ],
)
def test_a_condition_that_holds_is_silent(rewritten, condition):
    result = rewritten(graph("z = Sub(x, c)", "float c = {2}"), Rewrite("Sub(a, b)", "Add(a, b)", where=[condition]))
    assert (len(result.done), result.reasons) == (1, [])


def test_a_condition_picks_the_order_of_operands(rewritten):
    rule = Rewrite("Mul(a, b)", "Sub(a, b)", where=[constant("b")])
    assert rewritten(graph("z = Mul(c, x)", "float c = {2}"), rule).text == "z = Sub(x, c)\n-> z"


def test_a_refusal_is_reported_only_where_the_structure_is_there(rewritten):
    rule = Rewrite("Mul(Neg(a), b)", "Sub(a, b)", where=[near("b", 3.0)])
    nodes = "n = Neg(x) m = Mul(n, c) z = Mul(m, c)"
    result = rewritten(graph(nodes, "float c = {2}"), rule)
    assert [(site.where, site.text) for site in result.kept] == [("Mul 'm'", "b is 2, not 3")]


def test_the_reason_is_that_of_the_closest_try(rewritten):
    rule = Rewrite("Mul(Add(a, b), c)", "Sub(a, c)", where=[near("b", 1.0), near("c", 5.0)])
    result = rewritten(graph("s = Add(one, x) z = Mul(two, s)", "float one = {1}, float two = {2}"), rule)
    assert result.reasons == ["c is 2, not 5"]


def test_nothing_is_asked_of_an_operand_that_is_left_out(rewritten):
    rule = Rewrite("Clip(a, low?)", "Relu(a)", where=[near("low", 0.0)])
    assert rewritten(graph("z = Clip(x)"), rule).done


def test_a_parameter_of_a_function_has_no_known_value(rewritten, load):
    text = """g (float[N] x) => (float[N] z) { z = own.F <slope = 0.3> (x) }
    <domain: "own", opset_import: ["" : 20]> F <slope> (x) => (z) { z = LeakyRelu <alpha: float = @slope> (x) }"""
    for pattern in ("LeakyRelu(a)", "LeakyRelu{alpha=k}(a)", "LeakyRelu{alpha=0.3}(a)"):
        assert not rewritten(load(text, domains='"own" : 1'), Rewrite(pattern, "Relu(a)")).done
    result = rewritten(load(text, domains='"own" : 1'), Rewrite("LeakyRelu{**k}(a)", "Elu{**k}(Neg(a))"))
    assert [node.op_type for node in next(iter(result.model.functions.values()))] == ["Neg", "Elu"]
    asks = Rewrite("LeakyRelu{**k}(a)", "Relu(a)", where=[that("never", lambda match: match.attr("k.alpha") > 0)])
    assert rewritten(load(text, domains='"own" : 1'), asks).reasons == [
        "the attribute alpha is a parameter of the function"
    ]


def test_refused_says_why():
    assert Refused("too late").reason == "too late"
