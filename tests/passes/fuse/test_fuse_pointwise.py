from __future__ import annotations

import dataclasses

import onnx_ir as ir
import pytest

from graphopt.ir import infer
from graphopt.passes.fuse.fuse_pointwise import RULES, FusePointwise
from graphopt.pipeline import Context
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

MATRIX = "float[2, 3] w = {1, 2, 3, 4, 5, 6}"
KERNEL = "float[3, 2, 1, 1] w = {1, 4, 2, 5, 3, 6}"
BIAS = "float[3] b = {1, 2, 3}"


def image(operations: str, constants: str) -> str:
    return f"g (float[N, 2, H, W] x) => (float[N, 3, H, W] y) <{constants}> {{ {operations} }}"


def channels_last(operations: str, constants: str) -> str:
    return f"g (float[N, H, W, 2] x) => (float[N, H, W, 3] y) <{constants}> {{ {operations} }}"


@pytest.mark.parametrize(
    ("bias", "add"),
    [
        ("float[3] b = {1, 2, 3}", "a = Add(m, b)"),
        ("float[1, 1, 1, 3] b = {1, 2, 3}", "a = Add(b, m)"),
        ("float b = {2}", "a = Add(m, b)"),
    ],
)
def test_a_linear_layer_over_the_channels_is_a_convolution(rewrites, bias, add):
    expected = "float[3] b = {2, 2, 2}" if bias.startswith("float b") else BIAS
    rewrites(
        FusePointwise(),
        image(
            f"i = Transpose <perm = [0, 2, 3, 1]> (x) m = MatMul(i, w) {add} y = Transpose <perm = [0, 3, 1, 2]> (a)",
            f"{MATRIX}, {bias}",
        ),
        image("y = Conv(x, w, b)", f"{KERNEL}, {expected}"),
    )


def test_without_a_bias_too(rewrites):
    rewrites(
        FusePointwise(),
        image(
            "i = Transpose <perm = [0, 2, 3, 1]> (x) m = MatMul(i, w) y = Transpose <perm = [0, 3, 1, 2]> (m)", MATRIX
        ),
        image("y = Conv(x, w)", KERNEL),
    )


def test_over_one_axis(rewrites):
    """Token mixing: N, tokens, channels to N, channels, tokens and back."""

    def text(operations: str, constants: str) -> str:
        return f"g (float[N, 2, L] x) => (float[N, 3, L] y) <{constants}> {{ {operations} }}"

    rewrites(
        FusePointwise(),
        text("i = Transpose <perm = [0, 2, 1]> (x) m = MatMul(i, w) y = Transpose <perm = [0, 2, 1]> (m)", MATRIX),
        text("y = Conv(x, w)", KERNEL.replace("3, 2, 1, 1", "3, 2, 1")),
    )


@pytest.mark.parametrize("attributes", ["", "<kernel_shape = [1, 1], strides = [1, 1]>", '<auto_pad = "SAME_UPPER">'])
def test_a_pointwise_convolution_over_the_last_axis_is_a_product(rewrites, attributes):
    """tf2onnx writes a convolution of a channels-last model between two transpositions."""
    rewrites(
        FusePointwise(),
        channels_last(
            f"i = Transpose <perm = [0, 3, 1, 2]> (x) m = Conv {attributes} (i, w, b) y = Transpose <perm = [0, 2, 3, 1]> (m)",
            f"{KERNEL}, {BIAS}",
        ),
        channels_last("m = MatMul(x, w) y = Add(m, b)", f"{MATRIX}, {BIAS}"),
    )


def test_a_convolution_without_a_bias_is_one_product(rewrites):
    rewrites(
        FusePointwise(),
        channels_last(
            "i = Transpose <perm = [0, 3, 1, 2]> (x) m = Conv(i, w) y = Transpose <perm = [0, 2, 3, 1]> (m)", KERNEL
        ),
        channels_last("y = MatMul(x, w)", MATRIX),
    )


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        (
            "i = Transpose <perm = [0, 2, 3, 1]> (x) m = MatMul(i, w) y = Transpose <perm = [0, 3, 2, 1]> (m)",
            "other side and back",
        ),
        (
            "i = Transpose <perm = [0, 2, 3, 1]> (x) m = MatMul(i, k) y = Transpose <perm = [0, 3, 1, 2]> (m)",
            "k is not",
        ),
        (
            "i = Transpose <perm = [0, 2, 3, 1]> (x) m = MatMul(i, w) a = Add(m, t) y = Transpose <perm = [0, 3, 1, 2]> (a)",
            "per channel",
        ),
        (
            "i = Transpose <perm = [0, 3, 1, 2]> (x) m = Conv <strides = [2, 2]> (i, c) y = Transpose <perm = [0, 2, 3, 1]> (m)",
            "leaves elements out",
        ),
        (
            "i = Transpose <perm = [0, 3, 1, 2]> (x) m = Conv <pads = [1, 1, 1, 1]> (i, c) y = Transpose <perm = [0, 2, 3, 1]> (m)",
            "it pads",
        ),
        (
            "i = Transpose <perm = [0, 3, 1, 2]> (x) m = Conv <group = 2> (i, d) y = Transpose <perm = [0, 2, 3, 1]> (m)",
            "has groups",
        ),
        (
            "i = Transpose <perm = [0, 3, 1, 2]> (x) m = Conv(i, e) y = Transpose <perm = [0, 2, 3, 1]> (m)",
            "more than one element",
        ),
    ],
)
def test_what_is_kept_has_a_reason(keeps, operations, reason):
    keeps(
        FusePointwise(),
        f"""g (float[2, 2, 2, 2] x, float[2, 2] k) => (float[n, c, h, w] y)
          <{MATRIX}, float[3, 2, 1, 1] c = {{1, 2, 3, 4, 5, 6}}, float[2, 1, 1, 1] d = {{1, 2}}, float[1, 2, 1, 2] e = {{1, 2, 3, 4}},
           float[2, 1] t = {{1, 2}}> {{ {operations} }}""",
        reason=reason.replace("k is not", "w is not a constant"),
    )


TOKENS = (
    "float[4, 3] u = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[3, 4] v = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}"
)
TURNED = """float[3, 4, 1] u = {1, 4, 7, 10, 2, 5, 8, 11, 3, 6, 9, 12},
            float[4, 3, 1] v = {1, 5, 9, 2, 6, 10, 3, 7, 11, 4, 8, 12}"""


def mixer(operations: str, constants: str, opset: int = 20) -> str:
    """N images of 4 patches with 2 channels each."""
    return f"""<ir_version: 9, opset_import: ["": {opset}]>
      g (float[N, 4, 2] x) => (float[N, 4, 2] y) <{constants}> {{ {operations} }}"""


def test_the_token_mixing_of_an_mlp_mixer_happens_in_place(rewrites):
    """The dynamo exporter at opset 20: the activation is one operator."""
    rewrites(
        FusePointwise(),
        mixer(
            """t = Transpose <perm = [0, 2, 1]> (x) a = MatMul(t, u) b = Add(a, p) c = Gelu(b) d = MatMul(c, v)
               e = Add(q, d) y = Transpose <perm = [0, 2, 1]> (e)""",
            f"{TOKENS}, float[3] p = {{1, 2, 3}}, float[4] q = {{1, 2, 3, 4}}",
        ),
        mixer(
            "a = Conv(x, u, p) c = Gelu(a) y = Conv(c, v, q)",
            f"{TURNED}, float[3] p = {{1, 2, 3}}, float[4] q = {{1, 2, 3, 4}}",
        ),
    )


def test_a_decomposed_activation_moves_along(rewrites):
    """The TorchScript exporter at opset 17: Gelu is five operators, and reads its input twice."""
    gelu = "d = Div(b, r) f = Erf(d) g = Add(f, one) h = Mul(b, g) i = Mul(h, half)"
    numbers = "float r = {1.4142135}, float one = {1}, float[1] half = {0.5}"
    rewrites(
        FusePointwise(),
        mixer(
            f"""t = Transpose <perm = [0, 2, 1]> (x) a = MatMul(t, u) b = Add(p, a) {gelu} j = MatMul(i, v)
                y = Transpose <perm = [0, 2, 1]> (j)""",
            f"{TOKENS}, {numbers}, float[3] p = {{1, 2, 3}}",
            17,
        ),
        mixer(
            f"b = Conv(x, u, p) {gelu} y = Conv(i, v)",
            f"{TURNED}, {numbers}, float[3] p = {{1, 2, 3}}",
            17,
        ),
    )


def test_numbers_per_channel_get_axes_behind_them(rewrites):
    rewrites(
        FusePointwise(),
        image(
            """i = Transpose <perm = [0, 2, 3, 1]> (x) s = Sub(r, i) m = MatMul(s, w) a = Relu(m) c = Mul(a, b)
               y = Transpose <perm = [0, 3, 1, 2]> (c)""",
            f"{MATRIX}, {BIAS}, float[1, 2] r = {{5, 6}}",
        ),
        image(
            "s = Sub(r, x) m = Conv(s, w) a = Relu(m) y = Mul(a, b)",
            f"{KERNEL}, float[3, 1, 1] b = {{1, 2, 3}}, float[2, 1, 1] r = {{5, 6}}",
        ),
    )


def test_a_product_that_is_read_twice_is_computed_once(rewrites):
    rewrites(
        FusePointwise(),
        image(
            "i = Transpose <perm = [0, 2, 3, 1]> (x) m = MatMul(i, w) a = Mul(m, m) y = Transpose <perm = [0, 3, 1, 2]> (a)",
            MATRIX,
        ),
        image("m = Conv(x, w) y = Mul(m, m)", KERNEL),
    )


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        (
            "a = MatMul(t, u) b = Relu(a) n = MatMul(b, v) y = Transpose <perm = [0, 2, 1]> (n) k = Neg(b)",
            "also used elsewhere",
        ),
        (
            "a = MatMul(t, u) b = Relu(a) n = MatMul(b, v) y = Transpose <perm = [0, 2, 1]> (n) k = Neg(t)",
            "also used elsewhere",
        ),
        (
            "a = MatMul(t, u) b = Add(a, m) n = MatMul(b, v) y = Transpose <perm = [0, 2, 1]> (n)",
            "not one number per channel",
        ),
        ("a = MatMul(t, u) b = Softmax(a) n = MatMul(b, v) y = Transpose <perm = [0, 2, 1]> (n)", ""),
        ("a = Relu(t) y = Transpose <perm = [0, 2, 1]> (a)", ""),
        ("a = MatMul(t, u) b = Relu(a) c = MatMul(b, v) n = Add(c, x4) y = Transpose <perm = [0, 2, 1]> (n)", ""),
    ],
)
def test_regions_that_are_kept(keeps, operations, reason):
    keeps(
        FusePointwise(),
        f"""<ir_version: 9, opset_import: ["": 20]>
        g (float[N, 4, 2] x, float[N, 2, 4] x4) => (float[N, 4, 2] y) <{TOKENS}, float[2, 1] m = {{1, 2}}> {{
          t = Transpose <perm = [0, 2, 1]> (x) {operations} }}""",
        reason=reason,
    )


def test_a_region_that_is_left_out_leaves_nothing_behind(in_type):
    model = in_type(
        mixer(
            """t = Transpose <perm = [0, 2, 1]> (x) a = MatMul(t, u) b = Relu(a) d = MatMul(b, v)
               y = Transpose <perm = [0, 2, 1]> (d)""",
            TOKENS,
        ),
        ir.DataType.FLOAT,
    )
    infer(model)
    (x,) = model.graph.inputs
    before = [len(value.uses()) for value in (x, *model.graph.initializers.values())]
    (site,) = [site for site in FusePointwise().apply(model, Context()) if site.edit is not None]
    assert "in place of the channels" in site.text
    assert [len(value.uses()) for value in (x, *model.graph.initializers.values())] == before


def test_a_region_inside_a_branch(rewrites):
    def text(body: str, names: str) -> str:
        return f"""g (bool p, float[1, 4, 2] x) => (float[1, 4, 2] y) <{names}> {{
             y = If (p) <then_branch = t () => (float[1, 4, 2] k) {{ {body} }},
                         else_branch = e () => (float[1, 4, 2] l) {{ l = Neg(x) }}> }}"""

    rewrites(
        FusePointwise(),
        text(
            """t = Transpose <perm = [0, 2, 1]> (x) a = MatMul(t, u) b = Relu(a) d = MatMul(b, v)
               k = Transpose <perm = [0, 2, 1]> (d)""",
            TOKENS,
        ),
        text("a = Conv(x, u) b = Relu(a) k = Conv(b, v)", TURNED),
    )


def test_double_stays(keeps, in_type):
    text = image(
        "i = Transpose <perm = [0, 2, 3, 1]> (x) m = MatMul(i, w) y = Transpose <perm = [0, 3, 1, 2]> (m)", MATRIX
    )
    keeps(FusePointwise(), in_type(text, ir.DataType.DOUBLE), reason="has element type double")


def test_a_target_that_objects_keeps_them(keeps):
    target = dataclasses.replace(targets()["onnx"], lacks=frozenset({"Conv1x1"}))
    text = image(
        "i = Transpose <perm = [0, 2, 3, 1]> (x) m = MatMul(i, w) y = Transpose <perm = [0, 3, 1, 2]> (m)", MATRIX
    )
    keeps(FusePointwise(), text, context=Context(target=target), reason="has no Conv1x1")


@pytest.mark.parametrize(
    ("rule", "shapes", "perms"),
    [
        (RULES.rules[0], {"x": "n c h w", "w": "c m", "b": "m"}, ([0, 2, 3, 1], [0, 3, 1, 2])),
        (RULES.rules[1], {"x": "n c h", "w": "c m"}, ([0, 2, 1], [0, 2, 1])),
        (RULES.rules[2], {"x": "n h w c", "w": "m c 1 1", "b": "m"}, ([0, 3, 1, 2], [0, 2, 3, 1])),
    ],
)
def test_each_rule_holds_on_random_shapes(rule, shapes, perms):
    fuzz(rule, shapes=shapes, attributes={"p": perms[0], "q": perms[1], "a": {}})
