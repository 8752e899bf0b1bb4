"""fuse-hardswish: every dialect, in the form each target likes."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_hardswish import FuseHardswish
from graphopt.pipeline import Context
from graphopt.target import find_target

NUMBERS = "float z = {0}, float o = {1}, float h = {6}, float t = {3}, float s = {0.16666667}, float p = {0.5}"
OPENVINO = Context(target=find_target("x86-openvino"))


def model(nodes: str, *, x: str = "float[2,3] x", y: str = "float[?,?] y", numbers: str = f"<{NUMBERS}>") -> str:
    return f"g ({x}) => ({y}) {numbers} {{ {nodes} }}"


PADDLE = "a = Add(x, t) b = Clip(a, z, h) c = Mul(x, b) y = Div(c, h)"
PRODUCT = model("a = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.5> (x) y = Mul(x, a)", numbers="")
DIALECTS = [
    PADDLE,
    "a = Add(t, x) b = Clip(a, z, h) c = Mul(b, x) y = Mul(s, c)",
    "a = Add(x, t) b = Clip(a, z, h) c = Div(b, h) y = Mul(x, c)",
    "a = Add(x, t) b = Clip(a, z, h) c = Mul(b, s) y = Mul(c, x)",
    "a = Add(x, t) b = Relu(a) c = Clip(b, z, h) d = Mul(x, c) y = Div(d, h)",
    "a = Add(x, t) b = Relu(a) c = Min(b, h) d = Mul(x, c) y = Div(d, h)",
    "a = Add(x, t) b = Min(a, h) c = Max(z, b) d = Mul(x, c) y = Mul(d, s)",
    "a = Add(x, t) b = Clip(a, z, h) c = Div(x, h) y = Mul(c, b)",
    "a = Add(x, t) b = Clip(a, z, h) c = Mul(s, x) y = Mul(b, c)",
    "a = Mul(x, s) b = Add(a, p) c = Clip(b, z, o) y = Mul(x, c)",
    "a = Sub(x, n) b = Clip(a, z, h) c = Mul(x, b) y = Div(c, h)",
]


@pytest.mark.parametrize("nodes", DIALECTS)
def test_each_dialect_becomes_a_product_with_hard_sigmoid(rewrites, nodes):
    before = model(nodes, numbers=f"<{NUMBERS}, float n = {{-3}}>")
    rewrites(FuseHardswish(), before, PRODUCT)


@pytest.mark.parametrize("nodes", DIALECTS)
def test_each_dialect_becomes_hard_swish_where_the_target_likes_it(rewrites, nodes):
    before = model(nodes, numbers=f"<{NUMBERS}, float n = {{-3}}>")
    rewrites(FuseHardswish(), before, model("y = HardSwish(x)", numbers=""), context=OPENVINO)


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_clip_with_attributes_counts_too(rewrites, opset):
    header = f'<ir_version: 8, opset_import: ["": {opset}]>'
    before = model("a = Add(x, t) b = Clip <min: float = 0.0, max: float = 6.0> (a) c = Mul(x, b) y = Div(c, h)")
    rewrites(FuseHardswish(), header + before, header + PRODUCT)


@pytest.mark.parametrize("opset", [11, 13])
def test_below_opset_14_there_is_no_hard_swish(rewrites, opset):
    header = f'<ir_version: 8, opset_import: ["": {opset}]>'
    rewrites(FuseHardswish(), header + model(PADDLE), header + PRODUCT, context=OPENVINO)


def test_the_product_with_hard_sigmoid_is_the_usual_form_and_stays(keeps):
    assert not keeps(FuseHardswish(), PRODUCT).kept


def test_the_product_becomes_hard_swish_where_the_target_likes_it(rewrites):
    rewrites(FuseHardswish(), PRODUCT, model("y = HardSwish(x)", numbers=""), context=OPENVINO)


def test_other_slopes_become_a_product_on_every_target(rewrites):
    rewrites(
        FuseHardswish(),
        model("a = Add(x, p) b = Clip(a, z, o) y = Mul(x, b)"),
        model("a = HardSigmoid <alpha: float = 1.0, beta: float = 0.5> (x) y = Mul(x, a)", numbers=""),
        context=OPENVINO,
    )


def test_numbers_of_shape_1_are_numbers_too(rewrites):
    numbers = "<float[1] t = {3}, float z = {0}, float[1] h = {6}, float k = {6}>"
    before = model("a = Add(x, t) b = Clip(a, z, k) c = Mul(x, b) y = Div(c, h)", numbers=numbers)
    rewrites(FuseHardswish(), before, PRODUCT)


def test_a_value_that_is_computed_stays_the_operand(rewrites):
    rewrites(
        FuseHardswish(),
        model("v = Mul(x, t) a = Add(v, t) b = Clip(a, z, h) c = Mul(v, b) y = Div(c, h)"),
        model(
            "v = Mul(x, t) a = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.5> (v) y = Mul(v, a)",
            numbers="<float t = {3}>",
        ),
    )


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Add(x, t) b = Clip(a, z, h) y = Mul(x, b)",  # not divided
        "a = Add(x, t) b = Clip(a, z, h) c = Mul(x, b) y = Div(c, t)",
        "a = Add(x, t) b = Clip(a, o, h) c = Mul(x, b) y = Div(c, h)",
        "w = Abs(x) a = Add(x, t) b = Clip(a, z, h) c = Mul(w, b) y = Div(c, h)",
        "y = Mul(x, x)",
    ],
)
def test_what_is_no_hard_swish_is_no_candidate(keeps, nodes):
    assert not keeps(FuseHardswish(), model(nodes)).kept


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_an_intermediate_that_is_an_output_is_kept(keeps, name):
    keeps(FuseHardswish(), model(PADDLE, y=f"float[?,?] y, float[?,?] {name}"), reason="also used elsewhere")


def test_an_intermediate_that_is_used_elsewhere_is_kept(keeps):
    text = model(f"{PADDLE} w = Relu(b)", y="float[?,?] y, float[?,?] w")
    keeps(FuseHardswish(), text, reason="the result of Clip 'b' is also used elsewhere")


def test_an_intermediate_that_a_subgraph_uses_is_kept(keeps):
    text = model(
        f"""{PADDLE} w = If (k) <then_branch = d () => (float[?,?] v) {{ v = Abs(b) }},
            else_branch = e () => (float[?,?] u) {{ u = Neg(x) }}>""",
        x="bool k, float[2,3] x",
        y="float[?,?] y, float[?,?] w",
    )
    keeps(FuseHardswish(), text, reason="also used elsewhere")


def test_float16_has_a_kernel(rewrites, in_type):
    rewrites(FuseHardswish(), in_type(model(PADDLE), ir.DataType.FLOAT16), in_type(PRODUCT, ir.DataType.FLOAT16))


@pytest.mark.parametrize("dtype", [ir.DataType.DOUBLE, ir.DataType.BFLOAT16])
def test_types_without_a_kernel_are_left(keeps, in_type, dtype):
    text = in_type(model(PADDLE), dtype)
    keeps(FuseHardswish(), text, reason=f"no HardSigmoid for {dtype.name}", runs=dtype == ir.DataType.DOUBLE)


def test_works_in_an_if_branch(rewrites):
    def text(branch: str, numbers: str = "") -> str:
        return f"""g (bool c, float[2,3] x) => (float[?,?] y) {numbers} {{ y = If (c) <
            then_branch = a () => (float[?,?] r) {{ {branch} }},
            else_branch = b () => (float[?,?] q) {{ q = Abs(x) }}> }}"""

    rewrites(
        FuseHardswish(),
        text("u = Add(x, t) v = Clip(u, z, h) w = Mul(x, v) r = Div(w, h)", f"<{NUMBERS}>"),
        text("u = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.5> (x) r = Mul(x, u)"),
    )


def test_works_in_a_local_function_on_scalars_whose_type_the_numbers_tell(rewrites):
    def text(nodes: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
            g (float[4,3] x) => (float[?,?] y) {{ y = own.block(x) }}
            <domain: "own", opset_import: ["": 17]> block (x) => (y) {{ {nodes} }}"""

    rewrites(
        FuseHardswish(),
        text(
            f"""t = Constant <value = float {{3}}> () z = Constant <value = float {{0}}> ()
            h = Constant <value = float {{6}}> () {PADDLE}"""
        ),
        text("a = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.5> (x) y = Mul(x, a)"),
    )
