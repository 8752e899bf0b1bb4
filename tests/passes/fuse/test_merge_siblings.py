from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.merge_siblings import MergeSiblings
from graphopt.pipeline import Context
from graphopt.target import targets

LIKING = Context(target=dataclasses.replace(targets()["onnx"], forms=frozenset({"MergedMatMul", "MergedConv"})))

QKV = "float[2, 2] u = {1, 2, 3, 4}, float[2, 3] v = {1, 2, 3, 4, 5, 6}, float[2, 1] w = {7, 8}"
WIDE = "float[2, 6] m = {1, 2, 1, 2, 3, 7, 3, 4, 4, 5, 6, 8}"


def three(operations: str, constants: str, opset: int = 17) -> str:
    return f"""<ir_version: 8, opset_import: ["": {opset}]>
      g (float[N, 5, 2] x) => (float[N, 5, 2] a, float[N, 5, 3] b, float[N, 5, 1] c) <{constants}> {{ {operations} }}"""


def test_three_products_are_one(rewrites):
    rewrites(
        MergeSiblings(),
        three("a = MatMul(x, u) b = MatMul(x, v) c = MatMul(x, w)", QKV),
        three("y = MatMul(x, m) a, b, c = Split <axis = 2> (y, s)", f"{WIDE}, int64[3] s = {{2, 3, 1}}"),
        context=LIKING,
    )


def test_before_opset_13_split_has_its_sizes_in_an_attribute(rewrites):
    rewrites(
        MergeSiblings(),
        three("a = MatMul(x, u) b = MatMul(x, v) c = MatMul(x, w)", QKV, 11),
        three("y = MatMul(x, m) a, b, c = Split <axis = 2, split = [2, 3, 1]> (y)", WIDE, 11),
        context=LIKING,
    )


def test_biases_go_side_by_side_and_who_has_none_gets_zeros(rewrites):
    """Query, key and value of BERT and ViT; Whisper's keys have no bias."""
    rewrites(
        MergeSiblings(),
        three(
            "i = MatMul(x, u) a = Add(i, p) b = MatMul(x, v) k = MatMul(x, w) c = Add(q, k)",
            f"{QKV}, float[2] p = {{1, 2}}, float[1, 1] q = {{3}}",
        ),
        three(
            "y = MatMul(x, m) z = Add(y, n) a, b, c = Split <axis = 2> (z, s)",
            f"{WIDE}, float[6] n = {{1, 2, 0, 0, 0, 3}}, int64[3] s = {{2, 3, 1}}",
        ),
        context=LIKING,
    )


def test_an_add_of_something_else_stays_behind_its_part(rewrites):
    def text(operations: str, constants: str) -> str:
        return f"""g (float[5, 2] x, float[5, 2] r) => (float[5, 2] a, float[5, 3] b, float[5, 1] c) <{constants}> {{
             {operations} }}"""

    rewrites(
        MergeSiblings(),
        text("i = MatMul(x, u) a = Add(i, r) b = MatMul(x, v) c = MatMul(x, w)", QKV),
        text(
            "y = MatMul(x, m) i, b, c = Split <axis = 1> (y, s) a = Add(i, r)",
            f"{WIDE}, int64[3] s = {{2, 3, 1}}",
        ),
        context=LIKING,
    )


def test_gemms_with_one_alpha(rewrites):
    def text(operations: str, constants: str) -> str:
        return (
            f"""g (float[5, 2] x) => (float[5, 2] a, float[5, 1] b, float[5, 1] c) <{constants}> {{ {operations} }}"""
        )

    rewrites(
        MergeSiblings(),
        text(
            """a = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, u, p) b = Gemm <transB = 1, alpha = 0.5> (x, w, q)
               c = Gemm <transB = 1, alpha = 0.5> (x, w)""",
            "float[2, 2] u = {1, 2, 3, 4}, float[1, 2] w = {5, 6}, float[2] p = {1, 2}, float[1] q = {3}",
        ),
        text(
            "y = Gemm <transB = 1, alpha = 0.5> (x, m, n) a, b, c = Split <axis = 1> (y, s)",
            "float[4, 2] m = {1, 2, 3, 4, 5, 6, 5, 6}, float[4] n = {2, 4, 3, 0}, int64[3] s = {2, 1, 1}",
        ),
        context=LIKING,
    )


def test_convolutions_of_one_window(rewrites):
    def text(operations: str, constants: str) -> str:
        return f"""g (float[1, 1, 6] x) => (float[1, 2, 6] a, float[1, 1, 6] b, float[1, 1, 6] c, float[1, 1, 6] d)
             <float[1, 1, 1] other = {{9}}, {constants}> {{ d = Conv(x, other) {operations} }}"""

    rewrites(
        MergeSiblings(),
        text(
            """a = Conv <pads = [1, 1]> (x, u, p) b = Conv <pads = [1, 1], strides = [1]> (x, v)
               c = Conv <pads = [1, 1], kernel_shape = [3]> (x, v)""",
            "float[2, 1, 3] u = {1, 2, 3, 4, 5, 6}, float[1, 1, 3] v = {7, 8, 9}, float[2] p = {1, 2}",
        ),
        text(
            "y = Conv <pads = [1, 1]> (x, m, n) a, b, c = Split <axis = 1> (y, s)",
            "float[4, 1, 3] m = {1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 8, 9}, float[4] n = {1, 2, 0, 0}, int64[3] s = {2, 1, 1}",
        ),
        context=LIKING,
    )


def test_a_target_that_was_not_measured_keeps_them(keeps):
    keeps(
        MergeSiblings(),
        three("a = MatMul(x, u) b = MatMul(x, v) c = MatMul(x, w)", QKV),
        reason="MergedMatMul is not known to be faster on onnx",
    )


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        ("a = MatMul(x, u) b = MatMul(x, v) c = MatMul(z, w)", "no fewer nodes than 2 MatMuls"),
        ("a = MatMul(x, u) b = MatMul(z, v) k = Neg(x) c = MatMul(k, w)", ""),
        ("a = MatMul(x, u) b = Gemm(x, v) c = Gemm <alpha = 2.0> (x, w)", ""),
        ("a = MatMul(u, t) b = MatMul(x, v) c = MatMul(x, w)", "no fewer"),
    ],
)
def test_what_stays(keeps, operations, reason):
    keeps(
        MergeSiblings(),
        f"""g (float[2, 2] x, float[2, 2] z, float[2, 2] t) => (float[2, 2] a, float[2, 3] b, float[2, 1] c) <{QKV}> {{
             {operations} }}""",
        context=LIKING,
        reason=reason,
    )


def test_large_shared_weights_are_not_copied(keeps):
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]>
           g (float[1, 512] x, float[1, 512] z) => (float[1, n] a, float[1, n] b, float[1, n] c, float[1, n] d)
             <float[1] v = {0}, float[1] w = {0}> {
             a = MatMul(x, v) b = MatMul(x, w) c = MatMul(x, v) d = MatMul(z, w) }"""
    )
    for seed, value in enumerate(list(model.graph.initializers.values())):
        elements = np.random.default_rng(seed).normal(size=(512, 600)).astype(np.float32)
        value.const_value, value.shape = ir.tensor(elements, name=value.name), ir.Shape(elements.shape)
    keeps(MergeSiblings(), model, context=LIKING, reason="are shared, and a copy would add 1228800 bytes")


def test_large_weights_are_put_together_only_when_they_are_read(rewrites):
    def text(body: str, names: str) -> ir.Model:
        return ir.from_onnx_text(
            f"""<ir_version: 8, opset_import: ["": 17]>
            g (float[1, 512] x) => (float[1, n] a, float[1, n] b, float[1, n] c) <{names}> {{ {body} }}"""
        )

    before = text(
        "a = MatMul(x, u) b = MatMul(x, v) c = MatMul(x, w)", "float[1] u = {0}, float[1] v = {0}, float[1] w = {0}"
    )
    parts = [np.random.default_rng(seed).normal(size=(512, 600)).astype(np.float32) for seed in range(3)]
    for elements, value in zip(parts, before.graph.initializers.values(), strict=True):
        value.const_value, value.shape = ir.tensor(elements, name=value.name), ir.Shape(elements.shape)
    after = text("y = MatMul(x, m) a, b, c = Split <axis = 1> (y, s)", "float[1] m = {0}, int64[3] s = {600, 600, 600}")
    wide = after.graph.initializers["m"]
    wide.const_value = ir.tensor(np.concatenate(parts, axis=1), name="m")
    rewrites(MergeSiblings(), before, after, context=LIKING)


def test_other_element_types(rewrites, in_type):
    before = three("a = MatMul(x, u) b = MatMul(x, v) c = MatMul(x, w)", QKV)
    after = three("y = MatMul(x, m) a, b, c = Split <axis = 2> (y, s)", f"{WIDE}, int64[3] s = {{2, 3, 1}}")
    for dtype in (ir.DataType.FLOAT16, ir.DataType.DOUBLE):
        rewrites(MergeSiblings(), in_type(before, dtype), in_type(after, dtype), context=LIKING)


def test_each_graph_merges_its_own(rewrites):
    def text(body: str, names: str) -> str:
        return f"""g (bool p, float[5, 2] x) => (float[5, 2] y, float[5, 2] z) <{names} float[2, 2] u = {{1, 2, 3, 4}}> {{
             z = MatMul(x, u)
             y = If (p) <then_branch = t () => (float[5, 2] i) {{ {body} }},
                         else_branch = e () => (float[5, 2] j) {{ j = Neg(x) }}> }}"""

    rewrites(
        MergeSiblings(),
        text("a = MatMul(x, u) b = MatMul(x, u) c = MatMul(x, u) d = Add(a, b) i = Mul(d, c)", ""),
        text(
            "y = MatMul(x, m) a, b, c = Split <axis = 1> (y, s) d = Add(a, b) i = Mul(d, c)",
            "float[2, 6] m = {1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4}, int64[3] s = {2, 2, 2},",
        ),
        context=LIKING,
    )


def test_chains_of_siblings_merge_in_one_go(rewrites):
    def chain(layer: str, names: str) -> str:
        body = " ".join(layer.format(number, f"x{number - 1}" if number else "x") for number in range(3))
        return f"g (float[5, 2] x) => (float[5, 2] x2) <{names}> {{ {body} }}"

    end = "d{0} = Add(a{0}, b{0}) x{0} = Mul(c{0}, d{0})"
    wide = "float[2, 6] m{0} = {{1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4}}, int64[3] s{0} = {{2, 2, 2}}"
    done = rewrites(
        MergeSiblings(),
        chain(
            "a{0} = MatMul({1}, u) b{0} = MatMul({1}, u) c{0} = MatMul({1}, u) " + end, "float[2, 2] u = {1, 2, 3, 4}"
        ),
        chain(
            "y{0} = MatMul({1}, m{0}) a{0}, b{0}, c{0} = Split <axis = 1> (y{0}, s{0}) " + end,
            ", ".join(wide.format(number) for number in range(3)),
        ),
        context=LIKING,
    )
    assert len(done.changed) == 3
