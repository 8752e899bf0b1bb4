from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_focus import FuseFocus

FOCUS = """p = Slice(x, zero, far, two, step) q = Slice(x, one, far, two, step)
           a = Slice(p, zero, far, three, step) b = Slice(q, zero, far, three, step)
           c = Slice(p, one, far, three, step) d = Slice(q, one, far, three, step)"""
NAMES = """int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] step = {2},
           int64[1] far = {9223372036854775807}"""


def yolo(operations: str, constants: str) -> str:
    return f"""g (float[N, 1, 4, 6] x) => (float[N, 1, h, w] y) <{constants}> {{ {operations} }}"""


def test_the_focus_layer_of_yolov5(rewrites):
    """As torch writes x[..., ::2, ::2]: one Slice for each axis."""
    rewrites(
        FuseFocus(),
        yolo(
            f"{FOCUS} f = Concat <axis = 1> (a, b, c, d) y = Conv <kernel_shape = [1, 1]> (f, w)",
            f"{NAMES}, float[1, 4, 1, 1] w = {{1, 2, 3, 4}}",
        ),
        yolo("y = Conv <strides = [2, 2]> (x, w)", "float[1, 1, 2, 2] w = {1, 3, 2, 4}"),
    )


def test_kernel_stride_and_padding_grow_with_the_blocks(rewrites):
    rewrites(
        FuseFocus(),
        """g (float[N, 1, 8] x) => (float[N, 1, w] y) <int64[1] zero = {0}, int64[1] one = {1}, int64[1] axis = {-1},
             int64[1] step = {2}, int64[1] far = {8}, float[1, 4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[1] k = {1}> {
             a = Slice(x, zero, far, axis, step) b = Slice(x, one, far, axis, step)
             f = Concat <axis = 1> (a, b, a, b) y = Conv <pads = [1, 1], strides = [2]> (f, w, k) }""",
        """g (float[N, 1, 8] x) => (float[N, 1, w] y)
             <float[1, 1, 6] w = {8, 14, 10, 16, 12, 18}, float[1] k = {1}> {
             y = Conv <pads = [2, 2], strides = [4]> (x, w, k) }""",
    )


def test_both_axes_in_one_slice(rewrites):
    parts = " ".join(f"{name} = Slice(x, s{name}, e, axes, steps)" for name in "abcd")
    starts = ", ".join(
        f"int64[2] s{name} = {{{at}}}" for name, at in zip("abcd", ("0, 0", "1, 0", "0, 1", "1, 1"), strict=True)
    )
    rewrites(
        FuseFocus(),
        yolo(
            f"{parts} f = Concat <axis = 1> (a, b, c, d) y = Conv(f, w)",
            f"""{starts}, int64[2] e = {{2147483647, 2147483647}}, int64[2] axes = {{2, 3}}, int64[2] steps = {{2, 2}},
                float[1, 4, 1, 1] w = {{1, 2, 3, 4}}""",
        ),
        yolo("y = Conv <strides = [2, 2]> (x, w)", "float[1, 1, 2, 2] w = {1, 3, 2, 4}"),
    )


@pytest.mark.parametrize("seed", range(6))
def test_space_to_depth_of_random_sizes(agrees, seed):
    rng = np.random.default_rng(seed)
    block, channels, outputs = (int(size) for size in rng.integers(2, 4, size=3))
    kernel, pads, strides = (rng.integers(low, 4, size=2).tolist() for low in (1, 0, 1))
    weights = rng.normal(size=(outputs, channels * block**2, *kernel)).astype(np.float32)
    x = ir.val("x", ir.DataType.FLOAT, ["n", channels, 6 * block, 5 * block])
    w = ir.val("w", const_value=ir.tensor(weights, name="w"))
    deep = ir.node("SpaceToDepth", [x], {"blocksize": block})
    conv = ir.node("Conv", [deep.outputs[0], w], {"pads": pads + pads[::-1], "strides": strides})
    (y,) = conv.outputs
    deep.outputs[0].name, y.name, y.type, y.shape = "d", "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([None] * 4)
    graph = ir.Graph([x], [y], nodes=[deep, conv], initializers=[w], opset_imports={"": 17})
    assert len(agrees(FuseFocus(), ir.Model(graph, ir_version=8), seed).changed) == 1


def test_pixel_unshuffle_as_torch_writes_it(rewrites):
    """The stem of Real-ESRGAN x2, in both exporters' form."""

    def text(operations: str, constants: str) -> str:
        return f"""g (float[N, 2, 4, 4] x) => (float[N, 1, h, w] y) <{constants}> {{ {operations} }}"""

    unshuffle = "i = Reshape(x, r) t = Transpose <perm = [0, 1, 3, 5, 2, 4]> (i) f = Reshape(t, s)"
    rewrites(
        FuseFocus(),
        text(
            f"{unshuffle} y = Conv <pads = [1, 0, 1, 0]> (f, w)",
            """int64[6] r = {-1, 2, 2, 2, 2, 2}, int64[4] s = {-1, 8, 2, 2},
               float[1, 8, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8}""",
        ),
        text(
            "y = Conv <pads = [2, 0, 2, 0], strides = [2, 2]> (x, w)", "float[1, 2, 2, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}"
        ),
    )


@pytest.mark.parametrize(
    ("cut", "perm", "joined"),
    [
        ("-1, 2, 2, 2, 2, 2", "0, 1, 3, 5, 4, 2", "-1, 8, 2, 2"),
        ("-1, 2, 4, 1, 4, 1", "0, 1, 3, 5, 2, 4", "-1, 8, 2, 2"),
        ("-1, 2, 2, 2, 2, 2", "0, 1, 3, 5, 2, 4", "-1, 8, 4, 1"),
        ("-1, 2, 2, 2, 2, 2", "0, 1, 3, 5, 2, 4", "2, 8, -1, 2"),
    ],
)
def test_other_shuffles_stay(keeps, cut, perm, joined):
    keeps(
        FuseFocus(),
        f"""g (float[N, 2, 4, 4] x) => (float[n, 1, h, w] y)
          <int64[6] r = {{{cut}}}, int64[4] s = {{{joined}}}, float[1, 8, 1, 1] w = {{1, 2, 3, 4, 5, 6, 7, 8}}> {{
          i = Reshape(x, r) t = Transpose <perm = [{perm}]> (i) f = Reshape(t, s) y = Conv(f, w) }}""",
        runs=False,
    )


def test_every_order_of_the_slices_finds_its_weights(agrees):
    for order in itertools.permutations("abcd"):
        text = yolo(
            f"{FOCUS} f = Concat <axis = 1> ({', '.join(order)}) y = Conv(f, w)",
            f"{NAMES}, float[1, 4, 1, 1] w = {{1, 2, 3, 4}}",
        )
        assert agrees(FuseFocus(), ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 17]> {text}'), 0).changed


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        (
            "f = Concat <axis = 1> (a, b, c, d) g = Conv(f, w) h = Slice(f, zero, one, one, one) y = Add(g, h)",
            "also used elsewhere",
        ),
        ("f = Concat <axis = 1> (a, b, c, d) y = Conv <group = 2> (f, v)", "groups or dilations"),
        ("f = Concat <axis = 1> (a, b, c, d) y = Conv <dilations = [2, 1]> (f, w)", "groups or dilations"),
        ('f = Concat <axis = 1> (a, b, c, d) y = Conv <auto_pad = "SAME_UPPER"> (f, w)', "by the size of its input"),
        ("f = Concat <axis = 1> (a, a, c, c) y = Conv(f, w)", "do not cover"),
        ("f = Concat <axis = 1> (a, b, c, n) y = Conv(f, w)", ""),
    ],
)
def test_what_is_kept(keeps, operations, reason):
    keeps(
        FuseFocus(),
        yolo(
            f"{FOCUS} n = Neg(a) {operations}",
            f"{NAMES}, float[1, 4, 1, 1] w = {{1, 2, 3, 4}}, float[2, 2, 1, 1] v = {{1, 2, 3, 4}}",
        ).replace("float[N, 1, h, w] y", "float[N, m, h, w] y"),
        reason=reason,
    )


def test_slices_that_stop_early_stay(keeps):
    keeps(
        FuseFocus(),
        yolo(
            f"{FOCUS} f = Concat <axis = 1> (a, b, c, d) y = Conv(f, w)",
            f"{NAMES.replace('9223372036854775807', '4')}, float[1, 4, 1, 1] w = {{1, 2, 3, 4}}",
        ),
    )


def test_inside_a_branch(rewrites):
    def text(body: str, names: str) -> str:
        return f"""g (bool p, float[1, 1, 4, 4] x) => (float[1, 1, h, w] y) <{names}> {{
             y = If (p) <then_branch = t () => (float[1, 1, h, w] u) {{ {body} }},
                         else_branch = e () => (float[1, 1, h, w] v) {{ v = Neg(x) }}> }}"""

    rewrites(
        FuseFocus(),
        text("d = SpaceToDepth <blocksize = 2> (x) u = Conv(d, w)", "float[1, 4, 1, 1] w = {1, 2, 3, 4}"),
        text("u = Conv <strides = [2, 2]> (x, w)", "float[1, 1, 2, 2] w = {1, 2, 3, 4}"),
    )
