"""fuse-hardsigmoid: every dialect of the clipped line."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_hardsigmoid import FuseHardsigmoid

NUMBERS = "float z = {0}, float o = {1}, float h = {6}, float t = {3}, float s = {0.16666667}, float p = {0.5}"


def model(nodes: str, *, x: str = "float[2,3] x", y: str = "float[?,?] y") -> str:
    return f"g ({x}) => ({y}) <{NUMBERS}> {{ {nodes} }}"


PLAIN = "g (float[2,3] x) => (float[?,?] y) { y = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.5> (x) }"


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Add(x, t) b = Clip(a, z, h) y = Div(b, h)",
        "a = Add(t, x) b = Clip(a, z, h) y = Mul(s, b)",
        "a = Add(x, t) b = Relu(a) c = Min(b, h) y = Mul(c, s)",
        "a = Add(x, t) b = Relu(a) c = Clip(b, z, h) y = Mul(c, s)",
        "a = Add(x, t) b = Min(h, a) c = Max(z, b) y = Div(c, h)",
        "a = Mul(x, s) b = Add(a, p) y = Clip(b, z, o)",
        "a = Div(x, h) b = Add(p, a) c = Max(b, z) y = Min(c, o)",
        "a = Add(x, t) b = Div(a, h) y = Clip(b, z, o)",
        "a = Neg(x) b = Sub(t, a) c = Clip(b, z, h) y = Div(c, h)",
    ],
)
def test_each_dialect_becomes_hard_sigmoid(rewrites, nodes):
    rewrites(FuseHardsigmoid(), model(nodes), PLAIN)


@pytest.mark.parametrize("opset", [7, 10])
def test_clip_with_attributes_counts_too(rewrites, opset):
    header = f'<ir_version: 8, opset_import: ["": {opset}]>'
    before = model("a = Add(x, t) b = Clip <min: float = 0.0, max: float = 6.0> (a) y = Div(b, h)")
    rewrites(FuseHardsigmoid(), header + before, header + PLAIN)


def test_other_slopes_are_kept_as_they_are(rewrites):
    rewrites(
        FuseHardsigmoid(),
        "g (float[2] x) => (float[?] y) <float k = {0.25}, float b = {-1}, float z = {0}, float o = {1}>"
        "{ a = Mul(x, k) c = Add(a, b) y = Clip(c, z, o) }",
        "g (float[2] x) => (float[?] y) { y = HardSigmoid <alpha: float = 0.25, beta: float = -1.0> (x) }",
    )


def test_a_scale_before_a_hard_sigmoid_becomes_its_slope(rewrites):
    rewrites(
        FuseHardsigmoid(),
        model("a = Mul(x, t) y = HardSigmoid <alpha: float = 0.25, beta: float = 0.5> (a)"),
        "g (float[2,3] x) => (float[?,?] y) { y = HardSigmoid <alpha: float = 0.75, beta: float = 0.5> (x) }",
    )


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Clip(x, z, o)",
        "a = Max(x, z) y = Min(a, o)",
        "a = Add(x, t) y = Clip(a, z, h)",
        "a = Add(x, t) b = Relu(a) y = Div(b, h)",
        "a = Add(x, t) b = Clip(a, o, h) y = Div(b, h)",
        "a = Mul(x, z) y = Clip(a, z, o)",
    ],
)
def test_what_is_no_hard_sigmoid_is_no_candidate(keeps, nodes):
    assert not keeps(FuseHardsigmoid(), model(nodes)).kept


def test_bounds_that_are_inputs_are_no_candidates(keeps):
    text = model("a = Add(x, t) b = Clip(a, z, u) y = Div(b, h)", x="float[2,3] x, float u")
    assert not keeps(FuseHardsigmoid(), text).kept


def test_numbers_that_an_input_may_override_are_no_candidates(keeps):
    text = "g (float[2] x, float h = {6}) => (float[?] y) <float z = {0}, float t = {3}>"
    text += "{ a = Add(x, t) b = Clip(a, z, h) y = Div(b, h) }"
    assert not keeps(FuseHardsigmoid(), text).kept


def test_a_number_that_adds_a_dimension_stays(rewrites):
    rewrites(
        FuseHardsigmoid(),
        """g (float x) => (float[?] y) <float[1] t = {3}, float z = {0}, float h = {6}>
        { a = Add(x, t) b = Clip(a, z, h) y = Div(b, h) }""",
        """g (float x) => (float[?] y) <float[1] t = {3}>
        { a = Add(x, t) y = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.0> (a) }""",
    )


def test_it_starts_behind_a_value_that_is_used_elsewhere(rewrites):
    rewrites(
        FuseHardsigmoid(),
        model("a = Add(x, t) b = Clip(a, z, h) y = Div(b, h) w = Relu(a)", y="float[?,?] y, float[?,?] w"),
        """g (float[2,3] x) => (float[?,?] y, float[?,?] w) <float t = {3}>
        { a = Add(x, t) y = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.0> (a) w = Relu(a) }""",
    )


def test_an_intermediate_output_stays(keeps):
    text = model("a = Add(x, t) b = Clip(a, z, h) y = Div(b, h)", y="float[?,?] y, float[?,?] b")
    assert not keeps(FuseHardsigmoid(), text).changed


def test_float16_has_a_kernel(rewrites, in_type):
    rewrites(
        FuseHardsigmoid(),
        in_type(model("a = Add(x, t) b = Clip(a, z, h) y = Div(b, h)"), ir.DataType.FLOAT16),
        in_type(PLAIN, ir.DataType.FLOAT16),
    )


def test_double_has_no_kernel_and_is_left(keeps, in_type):
    text = model("a = Add(x, t) b = Clip(a, z, h) y = Div(b, h)")
    keeps(FuseHardsigmoid(), in_type(text, ir.DataType.DOUBLE), reason="no HardSigmoid for DOUBLE")


def test_integers_are_no_candidates(keeps):
    text = """g (int32[3] x) => (int32[?] y) <int32 z = {0}, int32 o = {1}, int32 t = {3}>
        { a = Add(x, t) y = Clip(a, z, o) }"""
    assert not keeps(FuseHardsigmoid(), text).kept


def test_works_in_an_if_branch_with_outer_numbers(rewrites):
    def text(branch: str, numbers: str = "") -> str:
        return f"""g (bool c, float[2,3] x) => (float[?,?] y) {numbers} {{ y = If (c) <
            then_branch = a () => (float[?,?] r) {{ {branch} }},
            else_branch = b () => (float[?,?] q) {{ q = Abs(x) }}> }}"""

    rewrites(
        FuseHardsigmoid(),
        text("u = Add(x, t) v = Clip(u, z, h) r = Div(v, h)", f"<{NUMBERS}>"),
        text("r = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.5> (x)"),
    )


def test_works_in_a_local_function(rewrites):
    def text(nodes: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
            g (float[4,3] x) => (float[?,?] y) {{ y = own.block(x) }}
            <domain: "own", opset_import: ["": 17]> block (x) => (y) {{ {nodes} }}"""

    rewrites(
        FuseHardsigmoid(),
        text(
            """t = Constant <value = float {3}> () z = Constant <value = float {0}> ()
            h = Constant <value = float {6}> () a = Add(x, t) b = Clip(a, z, h) y = Div(b, h)"""
        ),
        text("y = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.5> (x)"),
    )
