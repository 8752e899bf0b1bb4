"""What is written, where it stands, and what is carried over."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.rewrite import Rewrite, RuleSet, constant, near, that

GELU = Rewrite(
    "Mul(Mul(x, Add(Erf(Div(x, r)), one)), half)",
    "Gelu(x)",
    where=[near("r", 2**0.5), near("one", 1.0), near("half", 0.5)],
)
GELU_NODES = "d = Div(x, r) e = Erf(d) a = Add(one, e) m = Mul(a, x) z = Mul(half, m)"
GELU_MODEL = (
    f"g (float[N] x) => (float[N] z) <float r = {{1.4142135}}, float one = {{1}}, float half ="
    f" {{0.5}}> {{ {GELU_NODES} }}"
)


def test_a_chain_becomes_one_operator(rewritten):
    result = rewritten(GELU_MODEL, GELU)
    assert result.text == "z = Gelu(x)\n-> z"
    assert [(site.where, site.text) for site in result.done] == [("Mul 'z'", "becomes Gelu(x)")]


def test_an_operator_set_that_is_too_old_is_a_reason(rewritten):
    result = rewritten(GELU_MODEL, GELU, opset=17)
    assert (result.done, result.reasons) == ([], ["Gelu needs opset 20, this graph has 17"])
    stated = Rewrite("Relu(x)", "Neg(x)", opset=18, name="negate")
    result = rewritten("g (float[N] x) => (float[N] z) { z = Relu(x) }", stated, opset=17)
    assert result.reasons == ["negate: needs opset 18, this graph has 17"]


def test_a_call_that_newer_operator_sets_write_differently_is_a_reason(rewritten):
    rule = Rewrite("Relu(x)", "Squeeze{axes=[0]}(x)")
    model = "g (float[1] x) => (float z) { z = Relu(x) }"
    assert rewritten(model, rule, opset=13).reasons == ["Squeeze is called differently in opset 13"]
    assert rewritten(model, rule, opset=12).done


def test_a_rule_matches_only_in_its_operator_sets(rewritten):
    rule = Rewrite("Relu(x)", "Neg(x)", matches=(13, 17))
    model = "g (float[N] x) => (float[N] z) { z = Relu(x) }"
    found = [bool(rewritten(model, rule, opset=opset).done) for opset in (12, 13, 17, 18)]
    assert found == [False, True, True, False]


def test_each_function_has_an_operator_set_of_its_own(rewritten, load):
    def model(main: int, function: int) -> ir.Model:
        return load(
            f"""g (float[N] x) => (float[N] z) {{ r = Relu(x) z = own.F(r) }}
            <domain: "own", opset_import: ["" : {function}]> F (x) => (z) {{ z = Relu(x) }}""",
            main,
            domains='"own" : 1',
        )

    rule = Rewrite("Relu(x)", "Gelu(x)")
    assert [site.where for site in rewritten(model(20, 17), rule).done] == ["Relu 'r'"]
    # ONNX allows an operator in a function only when it is the same in the model's operator set
    assert rewritten(model(17, 20), rule).reasons == [
        "Gelu needs opset 20, this graph has 17",
        "Gelu differs between the function's opset 20 and the model's 17",
    ]
    assert [site.where for site in rewritten(model(17, 18), Rewrite("Relu(x)", "Neg(x)")).done] == [
        "Relu 'r'",
        "Relu 'z'",
    ]


def test_a_foreign_domain_is_imported_where_it_is_used(rewritten, load):
    rule = Rewrite("Relu(x)", "com.microsoft::QuickGelu(x)")
    model = load(
        """g (float[N] x) => (float[N] z) { z = own.F(x) }
        <domain: "own", opset_import: ["" : 20]> F (x) => (z) { z = Relu(x) }""",
        domains='"own" : 1',
    )
    result = rewritten(model, rule)
    function = next(iter(result.model.functions.values()))
    assert [node.domain for node in function] == ["com.microsoft"]
    assert function.opset_imports["com.microsoft"] == result.model.opset_imports["com.microsoft"] == 1


def test_an_older_foreign_domain_is_a_reason(rewritten, load):
    rule = Rewrite("Relu(x)", "com.microsoft::QuickGelu(x)", domains={"com.microsoft": 2})
    model = load("g (float[N] x) => (float[N] z) { z = Relu(x) }", domains='"com.microsoft" : 1')
    assert rewritten(model, rule).reasons == ["needs version 2 of com.microsoft, this graph has 1"]


def test_attributes_are_passed_on(rewritten):
    rule = Rewrite("Relu(LeakyRelu{**a}(Transpose{perm=p}(x)))", "Transpose{perm=p}(Elu{**a}(x))")
    model = (
        "g (float[N,M] x) => (float[M,N] z)"
        " { t = Transpose <perm = [1, 0]> (x) l = LeakyRelu <alpha = 0.5> (t) z = Relu(l) }"
    )
    assert rewritten(model, rule).text == "z_Elu = Elu{alpha=0.5}(x)\nz = Transpose{perm=(1, 0)}(z_Elu)\n-> z"


def test_an_attribute_that_was_left_out_stays_left_out(rewritten):
    rule = Rewrite("Relu(Transpose{perm=p?}(x))", "Transpose{perm=p?}(Relu(x))")
    model = "g (float[N,M] x) => (float[M,N] z) { t = Transpose(x) z = Relu(t) }"
    assert rewritten(model, rule).text == "z_Relu = Relu(x)\nz = Transpose(z_Relu)\n-> z"


def test_a_whole_number_becomes_a_float_attribute(rewritten):
    result = rewritten("g (float[N] x) => (float[N] z) { z = Relu(x) }", Rewrite("Relu(x)", "LeakyRelu{alpha=0}(x)"))
    assert next(iter(result.model.graph)).attributes["alpha"].type == ir.AttributeType.FLOAT


def test_a_label_repeats_the_operator(rewritten):
    rule = Rewrite("Relu|LeakyRelu@act{**a}(Neg(x))", "Neg(@act{**a}(x))")
    model = "g (float[N] x) => (float[N] z) { n = Neg(x) z = LeakyRelu <alpha = 0.5> (n) }"
    assert rewritten(model, rule).text == "z_LeakyRelu = LeakyRelu{alpha=0.5}(x)\nz = Neg(z_LeakyRelu)\n-> z"


def test_operands_left_out_and_lists_are_passed_on(rewritten):
    rule = Rewrite("Relu(Clip(x, low?, high?))", "Clip(x, low?, high?)")
    model = "g (float[N] x) => (float[N] z) <float h = {6}> { c = Clip(x, , h) z = Relu(c) }"
    assert rewritten(model, rule).text == "z = Clip(x, _, h)\n-> z"
    rule = Rewrite(
        "Concat{axis=k}(xs...)", "Concat{axis=k}(xs...)", where=[that("done", lambda m: len(m.lists["xs"]) > 9)]
    )
    assert rewritten("g (float[N] x) => (float[M] z) { z = Concat <axis = 0> (x, x) }", rule).reasons == ["done"]


@pytest.mark.parametrize("kind", ["float", "double", "float16"])
def test_a_number_gets_the_type_of_the_other_operands(rewritten, kind):
    rule = Rewrite("Neg(x)", "Mul(Exp(x), -1)")
    result = rewritten(f"g ({kind}[N] x) => ({kind}[N] z) {{ z = Neg(x) }}", rule)
    assert result.text == "z_Exp = Exp(x)\nz = Mul(z_Exp, z_constant)\n-> z"
    made = result.model.graph.initializers["z_constant"]
    assert (made.dtype, made.shape) == (result.model.graph.inputs[0].dtype, ir.Shape(()))


def test_a_list_of_whole_numbers_is_a_shape(rewritten):
    result = rewritten("g (float[N] x) => (float[N,A] z) { z = Relu(x) }", Rewrite("Relu(x)", "Reshape(x, [-1, 1])"))
    assert result.model.graph.initializers["z_constant"].const_value.numpy().tolist() == [-1, 1]
    assert result.model.graph.initializers["z_constant"].dtype == ir.DataType.INT64


def test_an_unknown_type_is_a_reason(rewritten, load):
    model = load(
        """g (float[N] x) => (float[N] z) { z = own.F(x) }
        <domain: "own", opset_import: ["" : 20]> F (x) => (z) { z = Neg(x) }""",
        domains='"own" : 1',
    )
    reasons = rewritten(model, Rewrite("Neg(x)", "Mul(x, -1)")).reasons
    assert reasons == ["the element type of the operands of Mul is unknown"]


def test_computed_names_are_constants_and_attributes(rewritten):
    merge = Rewrite(
        "Transpose{perm=p}(Transpose{perm=q}(x))",
        "Transpose{perm=r}(x)",
        let={"r": lambda match: [match.attr("q")[axis] for axis in match.attr("p")]},
    )
    model = (
        "g (float[A,B,C] x) => (float[D,E,F] z)"
        " { t = Transpose <perm = [1, 2, 0]> (x) z = Transpose <perm = [0, 2, 1]> (t) }"
    )
    assert rewritten(model, merge).text == "z = Transpose{perm=(1, 0, 2)}(x)\n-> z"
    fold = Rewrite(
        "Add(Add(x, a), b)",
        "Add(x, total)",
        where=[constant("a", "b")],
        let={"total": lambda match: match.array("a") + match.array("b")},
    )
    model = "g (float[2] x) => (float[2] z) <float[2] a = {1, 2}, float[2] b = {3, 5}> { t = Add(a, x) z = Add(t, b) }"
    result = rewritten(model, fold)
    assert result.text == "z = Add(x, z_total)\n-> z"
    assert result.model.graph.initializers["z_total"].const_value.numpy().tolist() == [4, 7]


def test_a_function_and_an_old_model_get_constant_nodes(rewritten, load):
    model = load(
        """g (float[N] x) => (float[N] z) { z = own.F(x) }
        <domain: "own", opset_import: ["" : 20]> F (x) => (z) { z = Relu(x) }""",
        domains='"own" : 1',
    )
    rule = Rewrite("Relu(x)", "Add(x, k)", let={"k": lambda match: np.float32(1) + np.zeros(1, np.float32)})
    result = rewritten(model, rule)
    assert [node.op_type for node in next(iter(result.model.functions.values()))] == ["Constant", "Add"]
    old = load("g (float[N] x) => (float[N] z) { z = Relu(x) }", opset=9, ir_version=3)
    result = rewritten(old, rule)
    assert [node.op_type for node in result.model.graph] == ["Constant", "Add"]
    assert not result.model.graph.initializers


def test_a_build_function_writes_what_a_text_cannot_say(rewritten):
    def build(match, tape):
        scale = tape.constant(match.array("s").reshape(-1, 1, 1, 1) * match.array("w"), "scaled")
        return tape.op("Conv", match["x"], scale, attributes=match.attrs("a"), dilations=[1, 1])

    rule = Rewrite("Mul(Conv{**a}(x, w), s)", build=build, where=[constant("w", "s")], name="scale into Conv")
    model = """g (float[1,1,3,3] x) => (float[1,2,3,3] z)
    <float[2,1,1,1] w = {1, 2}, float[2,1,1] s = {10, 100}> { c = Conv <group = 1> (x, w) z = Mul(c, s) }"""
    result = rewritten(model, rule)
    assert result.text == "z = Conv{dilations=(1, 1), group=1}(x, z_scaled)\n-> z"
    assert result.model.graph.initializers["z_scaled"].const_value.numpy().reshape(-1).tolist() == [10, 200]
    assert [site.text for site in result.done] == ["scale into Conv"]


def test_a_build_function_that_writes_what_does_not_exist_is_an_error(load):
    rule = Rewrite("Relu(x)", build=lambda match, tape: tape.op("Gelu", match["x"]))
    model = load("g (float[N] x) => (float[N] z) { z = Relu(x) }", 17)
    site = next(RuleSet([rule]).sites(model))
    with pytest.raises(GraphoptError, match="writes Gelu in a way that opset 17 does not have"):
        site.edit()


def test_several_outputs_are_replaced_by_name(rewritten):
    rule = Rewrite("q = MatMul(x, a)\nk = MatMul(x, b)", "k = Sub(x, b)\nq = Sub(x, a)")
    model = (
        "g (float[2,2] x, float[2,2] a, float[2,2] b) => (float[2,2] u, float[2,2] v)"
        " { q = MatMul(x, a) k = MatMul(x, b) u = Relu(q) v = Neg(k) }"
    )
    text = rewritten(model, rule).text.splitlines()
    assert sorted(text[:2]) == ["k = Sub(x, b)", "q = Sub(x, a)"]
    assert text[2:] == ["u = Relu(q)", "v = Neg(k)", "-> u, v"]


def test_an_output_in_the_middle_may_have_other_users(rewritten, load):
    rule = Rewrite(
        "s = Add(x, skip); y = LayerNormalization{**a}(s, g)",
        "y, _, _, s = com.microsoft::SkipLayerNormalization(x, skip, g)",
        outputs="s, y",
    )
    model = """g (float[2,4] x, float[2,4] k, float[4] g) => (float[2,4] u, float[2,4] v)
    { s = Add(x, k) early = Relu(s) y = LayerNormalization(s, g) u = Neg(y) v = Mul(early, s) }"""
    expected = """y, y_SkipLayerNormalization_1, y_SkipLayerNormalization_2, s = CALL(x, k, g)
early = Relu(s)
u = Neg(y)
v = Mul(early, s)
-> u, v""".replace("CALL", "com.microsoft::SkipLayerNormalization")
    assert rewritten(model, rule).text == expected
    # the same with a weight that is computed from the first output: no place is in front of all users
    late = model.replace("early = Relu(s)", "early = Relu(s) h = ReduceSum <keepdims = 0> (s, zero)").replace(
        "(s, g)", "(s, h)"
    )
    late = late.replace("\n    {", " <int64[1] zero = {0}>\n    {")
    result = rewritten(late, rule)
    assert result.reasons == ["its inputs and the users of its outputs leave no place for the new nodes"]
    # and with a weight that is computed after the first output, which no early user needs: behind it is a place
    late = late.replace("ReduceSum <keepdims = 0> (s, zero)", "Neg(g)").replace("early = Relu(s)", "early = Relu(x)")
    assert rewritten(late, rule).text.splitlines()[:2][1] == "h = Neg(g)"


def test_an_inner_value_that_is_used_elsewhere_keeps_the_place(rewritten):
    outside = GELU_MODEL.replace("(float[N] z)", "(float[N] z, float[N] w)").replace("z = Mul", "w = Relu(m) z = Mul")
    assert rewritten(outside, GELU).reasons == ["the inner value 'm' is used elsewhere too"]
    public = GELU_MODEL.replace("(float[N] z)", "(float[N] z, float[N] e)")
    assert rewritten(public, GELU).reasons == ["the inner value 'e' is an output of the graph"]
    captured = GELU_MODEL.replace("(float[N] z)", "(float[N] z, float[N] w)").replace(
        "(float[N] x)", "(float[N] x, bool c)"
    )
    captured = captured.replace(
        "z = Mul",
        "w = If(c) <then_branch = t () => (float[N] p)"
        " { p = Relu(a) }, else_branch = e () => (float[N] q) { q = Neg(x) }> z = Mul",
    )
    assert rewritten(captured, GELU).reasons == ["the inner value 'a' is used elsewhere too"]


def test_a_second_result_of_an_inner_node_must_be_unused(rewritten):
    rule = Rewrite("Relu(Dropout(x))", "Relu(x)")
    model = "g (float[N] x) => (float[N] z, bool[N] w) { d, m = Dropout(x) z = Relu(d) w = Not(m) }"
    assert rewritten(model, rule).reasons == ["the inner value 'm' is used elsewhere too"]
    assert rewritten(model.replace(", bool[N] w", "").replace("w = Not(m)", ""), rule).done


def test_shared_rules_leave_used_inner_nodes_in_place(rewritten):
    rule = Rewrite("Neg(Neg(x))", "x", shared=True)
    model = "g (float[N] x) => (float[N] u, float[N] v) { n = Neg(x) u = Exp(n) m = Neg(n) v = Log(m) }"
    assert rewritten(model, rule).text == "n = Neg(x)\nu = Exp(n)\nv = Log(x)\n-> u, v"


def test_shared_rules_look_at_values_with_many_users(rewritten):
    users = " ".join(f"u{index} = Exp(n)" for index in range(40))
    model = f"g (float[N] x) => (float[N] v) {{ n = Abs(x) m = Neg(n) k = Neg(x) v = Add(m, k) {users} }}"
    shared = Rewrite("Neg(Abs(x))", "Sin(x)", shared=True)
    result = rewritten(model, shared)
    assert [site.where for site in result.done] == ["Neg 'm'"]
    assert len(result.text.splitlines()) == 45
    assert not rewritten(model, Rewrite("Neg(Abs(x))", "Sin(x)")).done


def test_nodes_whose_results_the_replacement_uses_stay(rewritten):
    rule = Rewrite("y = Relu(x); Relu(y)", "y")
    model = "g (float[N] x) => (float[N] u, float[N] v) { r = Relu(x) s = Relu(r) u = Exp(s) v = Log(r) }"
    assert rewritten(model, rule).text == "r = Relu(x)\nu = Exp(r)\nv = Log(r)\n-> u, v"


def test_an_output_that_the_replacement_does_not_assign_stays(rewritten):
    rule = Rewrite("y = Conv{**a}(x, w); z = Relu(y)", "z = LeakyRelu{alpha=0}(y)", outputs="y, z")
    model = (
        "g (float[1,1,2,2] x, float[1,1,1,1] w) => (float[1,1,2,2] c, float[1,1,2,2] z) { c = Conv(x, w) z = Relu(c) }"
    )
    assert rewritten(model, rule).text == "c = Conv(x, w)\nz = LeakyRelu{alpha=0.0}(c)\n-> c, z"


def test_an_output_of_the_graph_keeps_its_name_when_an_input_replaces_it(rewritten):
    result = rewritten("g (float[N] x) => (float[N] z) { n = Neg(x) z = Neg(n) }", Rewrite("Neg(Neg(x))", "x"))
    assert result.text == "z = Identity(x)\n-> z"


def test_no_output_is_given_out_twice(rewritten):
    model = "g (float[N] x) => (float[N] r, float[N] z) { r = Relu(x) z = Relu(r) }"
    result = rewritten(model, Rewrite("y = Relu(x); Relu(y)", "y"))
    assert result.text == "r = Relu(x)\nz = Identity(r)\n-> r, z"


def test_types_shapes_and_metadata_are_carried(rewritten, load):
    model = load(GELU_MODEL.replace("z = Mul(half, m)", "y = Mul(half, m) z = Relu(y)"))
    nodes = {node.outputs[0].name: node for node in model.graph}
    nodes["y"].outputs[0].shape = ir.Shape(["N"])
    nodes["y"].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    nodes["y"].outputs[0].metadata_props["seen"] = "yes"
    nodes["y"].metadata_props["layer"] = "last"
    nodes["d"].metadata_props.update(layer="first", origin="mlp")
    result = rewritten(model, GELU)
    made = next(iter(result.model.graph))
    assert (made.op_type, made.outputs[0].name) == ("Gelu", "y")
    assert (made.outputs[0].shape, made.outputs[0].dtype) == (ir.Shape(["N"]), ir.DataType.FLOAT)
    assert made.metadata_props == {"layer": "last", "origin": "mlp"}
    assert made.outputs[0].metadata_props == {"seen": "yes"}


def test_names_are_fresh_and_the_same_every_time(rewritten):
    rule = Rewrite("Neg(x)", "Mul(Exp(x), -1.5)")
    model = (
        "g (float[N] x) => (float[N] z_Exp, float[N] z) <float[1] z_constant = {3}>"
        " { z_Exp = Add(x, z_constant) z = Neg(x) }"
    )
    texts = {rewritten(model, rule).text for _ in range(2)}
    assert texts == {"z_Exp = Add(x, z_constant)\nz_Exp_1 = Exp(x)\nz = Mul(z_Exp_1, z_constant_1)\n-> z_Exp, z"}


def test_constants_and_producers_that_nothing_uses_go_too(rewritten):
    model = (
        "g (float[N] x) => (float[N] z)"
        " { zero = Constant <value = float {0}> () e = Exp(x) m = Mul(e, zero) z = Add(m, x) }"
    )
    assert rewritten(model, Rewrite("Add(Mul(y, 0), x)", "Relu(x)")).text == "z = Relu(x)\n-> z"
    foreign = "g (float[N] x) => (float[N] z) <float zero = {0}> { e = own.Log(x) m = Mul(e, zero) z = Add(m, x) }"
    result = rewritten(onnx_model(foreign), Rewrite("Add(Mul(y, 0), x)", "Relu(x)"))
    assert [node.op_type for node in result.model.graph] == ["Log", "Relu"], "an unknown operator may have an effect"


def onnx_model(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20, "own" : 1]>\n{text}'))


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        ("Gelu(y)", "'y' is no name of the pattern"),
        ("Gleu(x)", "ONNX has no operator 'Gleu'"),
        ("Elu{alpha=k}(x)", "'k' is no attribute of the pattern"),
        ("Elu{**k}(x)", "'**k' is not in the pattern"),
        ("@act(x)", "'@act' is no label of the pattern"),
        ("Add|Sub(x, x)", "a replacement must say which operator it is"),
        ("y = Gelu(x)", "the replacement assigns none of the pattern's outputs"),
    ],
)
def test_a_replacement_that_cannot_be_written_is_an_error(replacement, message):
    with pytest.raises(GraphoptError) as caught:
        Rewrite("Relu(x)", replacement)
    assert caught.value.what == message


def test_a_rule_that_contradicts_itself_is_an_error():
    with pytest.raises(GraphoptError, match="either a replacement or a build function"):
        Rewrite("Relu(x)")
    with pytest.raises(GraphoptError, match="have nothing in common"):
        Rewrite("y = Relu(x); z = Relu(w)", "y = Neg(x); z = Neg(w)")
    with pytest.raises(GraphoptError, match="a condition is about 'w', no name of the pattern"):
        Rewrite("Relu(x)", "Neg(x)", where=[constant("w")])
    with pytest.raises(GraphoptError, match="the pattern has the outputs y, z"):
        Rewrite("y = Relu(x); z = Neg(x)", "Exp(x)")
