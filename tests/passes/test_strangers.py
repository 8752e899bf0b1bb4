"""Models of a kind that no pass is made for go through every preset unharmed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.target import targets

HEAD = '<ir_version: 10, opset_import: ["": 21, "custom": 1, "local": 1]> '
STRANGERS = {
    "custom operators": HEAD
    + """g (float[2, 4] x) => (y) {
        a = custom.Twist <angle = 3.0> (x) b = Erf(a) c = custom.Fold(b, b) d = Add(c, x) y = custom.Softmax(d) }""",
    "strings": HEAD
    + """g (string[N] s) => (string[N] t, bool[N] e) {
        t = StringNormalizer <case_change_action = "LOWER"> (s) e = Equal(s, t) }""",
    "sequences": HEAD
    + """g (float[2, 4] x) => (seq(float) q, float[K, 4] y) <int64 axis = {0}> {
        q = SplitToSequence <axis = 0> (x) y = ConcatFromSequence <axis = 0> (q) }""",
    "optionals": HEAD
    + """g (optional(float[2]) o) => (float[2] y) { a = OptionalGetElement(o) b = Neg(a) y = Neg(b) }""",
    "scalars": HEAD
    + """g (float x, float z) => (float y) <float half = {0.5}, float one = {1}, float root = {1.4142135}> {
        a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) e = Mul(d, half) y = Add(e, z) }""",
    "empty tensors": HEAD
    + """g (float[0, 4] x, float[N, 0] z) => (y, u) <float[4, 0] w = {}, float[4] v = {1, 2, 3, 4}> {
        a = MatMul(x, w) b = Softmax(a) y = Concat<axis = 0>(b, z) c = Mul(x, v) u = Transpose<perm = [1, 0]>(c) }""",
    "unknown ranks": HEAD
    + """g (float x_like, float[] x) => (y) <float two = {2}> {
        m = ReduceMean<keepdims = 1>(x) d = Sub(x, m) p = Pow(d, two) t = Transpose(p) y = Softmax(t) }""",
    "training": HEAD
    + """g (float[4, 3, 8, 8] x, float[3] s, float[3] b, float[3] m, float[3] v) => (y, rm, rv) {
        n, rm, rv = BatchNormalization <training_mode = 1> (x, s, b, m, v)
        ratio = Constant <value_float = 0.0> () t = Constant <value = bool {1}> ()
        y, mask = Dropout(n, ratio, t) }""",
    "functions": HEAD
    + """g (float[N, 4] x) => (y) { a = local.norm(x) y = local.norm <eps = 0.5> (a) }
        <domain: "local", opset_import: ["": 21]> norm <eps: float = 0.1> (v) => (w) {
          m = ReduceMean <keepdims = 1> (v) d = Sub(v, m) q = Mul(d, d) r = ReduceMean <keepdims = 1> (q)
          e = Constant <value_float: float = @eps> () f = Add(r, e) s = Sqrt(f) w = Div(d, s) }""",
}


def sparse() -> onnx.ModelProto:
    """A sparse initialiser: few runtimes take one, everybody has to keep it."""
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    places = helper.make_tensor("w_indices", TensorProto.INT64, [2], [0, 5])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        sparse_initializer=[helper.make_sparse_tensor(values, places, [3, 2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("target", ["onnx", "x86-64", "tensorrt"])
@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_comes_through_unharmed(kind: str, target: str) -> None:
    model = ir.from_onnx_text(STRANGERS[kind])
    before = ir.to_proto(model).SerializeToString()
    found = targets()[target]
    result, outcomes = PassManager(Recipe.parse(found.recipe)).run(model, Context(target=found))
    assert not [step.failed or step.left_out for step in outcomes if step.failed or step.left_out]
    assert outcomes.verdict is None or outcomes.verdict.ok
    assert ir.to_proto(model).SerializeToString() == before
    custom = [node for node in model.graph if node.domain == "custom"]
    assert [node.op_type for node in result.graph if node.domain == "custom"] == [node.op_type for node in custom]


def test_a_model_that_cannot_be_compared_says_why() -> None:
    model = ir.from_onnx_text(STRANGERS["custom operators"])
    _, outcomes = PassManager(Recipe.parse("clean, fuse")).run(model)
    assert outcomes.verdict is None
    assert "Twist" in outcomes.unverified or "custom" in outcomes.unverified


def test_a_sparse_initialiser_is_kept(tmp_path) -> None:
    from graphopt.ir import load, save

    onnx.save(sparse(), tmp_path / "sparse.onnx")
    result, outcomes = PassManager(Recipe.parse("clean, fuse")).run(load(tmp_path / "sparse.onnx"))
    assert not any(step.failed for step in outcomes)
    save(result, tmp_path / "after.onnx")
    (kept,) = onnx.load(tmp_path / "after.onnx").graph.sparse_initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept.indices), [0, 5])
