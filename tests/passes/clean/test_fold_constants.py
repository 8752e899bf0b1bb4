from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.ir import count_nodes, load, nodes, save
from graphopt.passes.clean.fold_constants import FoldConstants


def test_arithmetic_on_constants_is_done_once(rewrites):
    rewrites(
        FoldConstants(),
        """g (float[2] x) => (float[2] y) {
             a = Constant<value = float[2] {1, 4}>()
             b = Sqrt(a)
             c = Mul(b, b)
             d = Add(c, b)
             y = Add(x, d)
           }""",
        "g (float[2] x) => (float[2] y) <float[2] d = {2, 6}> { y = Add(x, d) }",
    )


def test_inside_a_branch_and_with_outer_constants(rewrites):
    rewrites(
        FoldConstants(),
        """g (bool p, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
             y = If (p) <then_branch = t () => (float[2] u) { n = Neg(w) u = Mul(x, n) },
                         else_branch = e () => (float[2] v) { v = Neg(x) }>
           }""",
        """g (bool p, float[2] x) => (float[2] y) {
             y = If (p) <then_branch = t () => (float[2] u) <float[2] n = {-1, -2}> { u = Mul(x, n) },
                         else_branch = e () => (float[2] v) { v = Neg(x) }>
           }""",
    )


def test_inside_a_local_function_the_result_is_a_constant_node(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "local": 1]>
            g (float[2] x) => (float[2] y) {{ y = local.f(x) }}
            <domain: "local", opset_import: ["": 17]> f (a) => (c) {{ {body} }}"""

    rewrites(
        FoldConstants(),
        text("k = Constant<value = float[2] {4, 9}>() r = Sqrt(k) c = Add(a, r)"),
        text("r = Constant<value = float[2] {2, 3}>() c = Add(a, r)"),
    )


def test_the_default_of_an_overridable_input_is_no_constant(keeps):
    keeps(
        FoldConstants(),
        "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 4}> { r = Sqrt(w) y = Add(x, r) }",
    )


def test_dequantised_weights_stay_quantised(keeps):
    keeps(
        FoldConstants(),
        """g (float[1, 2] x) => (float[1, 2] y) <int8[2, 2] q = {1, 2, 3, 4}, float s = {0.5}, int8 z = {0}> {
             w = DequantizeLinear(q, s, z)
             y = MatMul(x, w)
           }""",
        reason="keeps quantised weights small",
    )


@pytest.mark.parametrize(
    "generator",
    [
        "b = Tile(a, n)",
        "b = Expand(a, n)",
        "b = ConstantOfShape(n)",
    ],
)
def test_a_generator_of_many_elements_stays(keeps, generator):
    keeps(
        FoldConstants(max_bytes=64),
        f"g (float[4, 8] x) => (y) <float[1, 1] a = {{7}}, int64[2] n = {{4, 8}}> {{ {generator} y = Add(x, b) }}",
        reason="more than what it replaces",
    )


def test_a_generator_of_few_elements_is_folded(rewrites):
    rewrites(
        FoldConstants(),
        "g (float[2, 2] x) => (y) <float[1, 1] a = {7}, int64[2] n = {2, 2}> { b = Tile(a, n) y = Add(x, b) }",
        "g (float[2, 2] x) => (y) <float[2, 2] b = {7, 7, 7, 7}> { y = Add(x, b) }",
    )


def test_a_transposed_weight_that_has_one_user_costs_nothing(rewrites):
    done = rewrites(
        FoldConstants(max_bytes=0),
        "g (float[1, 2] x) => (y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { t = Transpose(w) y = MatMul(x, t) }",
        "g (float[1, 2] x) => (y) <float[2, 3] t = {1, 3, 5, 2, 4, 6}> { y = MatMul(x, t) }",
    )
    assert len(done.changed) == 1


def test_a_transposed_weight_that_has_two_users_would_be_stored_twice(keeps):
    keeps(
        FoldConstants(max_bytes=0),
        """g (float[1, 2] x, int64[1] i) => (y, z) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
             t = Transpose(w)
             y = MatMul(x, t)
             z = Gather(w, i)
           }""",
        reason="more than what it replaces",
        runs=False,
    )


@pytest.mark.parametrize("operator", ["RandomNormal", "RandomUniform"])
def test_random_numbers_are_not_frozen(keeps, operator):
    keeps(
        FoldConstants(),
        f"g (float[2] x) => (float[2] y) {{ r = {operator}<shape = [2]>() y = Add(x, r) }}",
        reason="random",
        runs=False,
    )


def test_a_constant_output_is_computed_and_keeps_its_name(rewrites):
    rewrites(
        FoldConstants(),
        "g (float[1] x) => (float[1] y, float[1] z) <float[1] c = {4}> { y = Relu(x) z = Sqrt(c) }",
        "g (float[1] x) => (float[1] y, float[1] z) <float[1] c = {2}> { y = Relu(x) z = Identity(c) }",
    )


def test_strings_are_folded_too(rewrites):
    done = rewrites(
        FoldConstants(),
        """<ir_version: 9, opset_import: ["": 20]> g (string[1] x) => (string[2] y) {
             a = Constant<value_strings = ["p", "q"]>()
             b = Concat<axis = 0>(a, a)
             y = StringConcat(x, b)
           }""",
        """<ir_version: 9, opset_import: ["": 20]> g (string[1] x) => (string[2] y) <string[4] b = {"p", "q", "p", "q"}> {
             y = StringConcat(x, b)
           }""",
    )
    assert len(done.changed) == 1


def test_external_weights_stay_in_their_file(tmp_path):
    weight = np.arange(600_000, dtype=np.float32).reshape(600, 1000)
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=["N", 1000])
    w = ir.Value(
        name="w", const_value=ir.tensor(weight), type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([600, 1000])
    )
    transpose = ir.node("Transpose", [w], {"perm": [1, 0]})
    product = ir.node("MatMul", [x, transpose.outputs[0]])
    product.outputs[0].name, product.outputs[0].dtype = "y", ir.DataType.FLOAT
    graph = ir.Graph(
        [x], [product.outputs[0]], nodes=[transpose, product], initializers=[w], opset_imports={"": 17}, name="g"
    )
    ir.save(ir.Model(graph, ir_version=8), tmp_path / "m.onnx", external_data="m.data")
    model = load(tmp_path / "m.onnx")
    from graphopt.pipeline import Context
    from graphopt.pipeline.drive import drive

    done = drive(FoldConstants(), model, Context())
    assert not done.changed
    assert done.kept[0][1] == "its weights stay in their file"
    save(model, tmp_path / "out.onnx")
    assert count_nodes(load(tmp_path / "out.onnx")) == 2 == len(list(nodes(model)))
