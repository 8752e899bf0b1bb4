from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.merge_parallel_convs import MergeParallelConvs

THREE = "float[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}"
ONE = "float[1, 1, 1, 1] v = {10}"


def one_channel(operations: str, constants: str, opset: int = 17) -> str:
    return f"""<ir_version: 8, opset_import: ["": {opset}]>
      g (float[1, 1, 6, 6] x) => (float[1, 1, a, b] y) <{constants}> {{ {operations} }}"""


def test_a_small_kernel_goes_into_a_large_one(rewrites):
    rewrites(
        MergeParallelConvs(),
        one_channel(
            "c = Conv <pads = [1, 1, 1, 1]> (x, w, p) d = Conv(x, v, q) y = Add(c, d)",
            f"{THREE}, {ONE}, float[1] p = {{1}}, float[1] q = {{2}}",
        ),
        one_channel(
            "y = Conv <pads = [1, 1, 1, 1]> (x, w, p)",
            "float[1, 1, 3, 3] w = {1, 2, 3, 4, 15, 6, 7, 8, 9}, float[1] p = {3}",
        ),
    )


def test_a_repvgg_block_is_one_convolution(rewrites):
    """Dense, pointwise and identity branch, as torch adds them; the other normalisations are in the weights."""
    rewrites(
        MergeParallelConvs(),
        one_channel(
            """c = Conv <pads = [1, 1, 1, 1]> (x, w, p) d = Conv(x, v) e = Add(c, d)
               n = BatchNormalization <epsilon = 0.0> (x, s, t, m, r) y = Add(e, n)""",
            f"""{THREE}, {ONE}, float[1] p = {{1}}, float[1] s = {{4}}, float[1] t = {{3}}, float[1] m = {{1}},
                float[1] r = {{4}}""",
        ),
        one_channel(
            "y = Conv <pads = [1, 1, 1, 1]> (x, w, p)",
            "float[1, 1, 3, 3] w = {1, 2, 3, 4, 17, 6, 7, 8, 9}, float[1] p = {2}",
        ),
    )


def test_with_stride_2_the_taps_still_meet(rewrites):
    rewrites(
        MergeParallelConvs(),
        one_channel(
            "c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w) d = Conv <strides = [2, 2]> (x, v) y = Add(d, c)",
            f"{THREE}, {ONE}",
        ),
        one_channel(
            "y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w)",
            "float[1, 1, 3, 3] w = {1, 2, 3, 4, 15, 6, 7, 8, 9}",
        ),
    )


def test_a_residual_connection_is_the_centre_tap(rewrites):
    """Conditional position encodings: x + depthwise(x)."""

    def text(operations: str, weights: str) -> str:
        return f"""g (float[1, 2, 4] x) => (float[1, 2, 4] y) <float[2, 1, 3] w = {{{weights}}}> {{ {operations} }}"""

    rewrites(
        MergeParallelConvs(),
        text("c = Conv <pads = [1, 1], group = 2> (x, w) y = Add(x, c)", "1, 2, 3, 4, 5, 6"),
        text("y = Conv <pads = [1, 1], group = 2> (x, w)", "1, 3, 3, 4, 6, 6"),
    )


def test_an_identity_in_groups_meets_its_own_channel(rewrites):
    def text(operations: str, weights: str) -> str:
        return f"g (float[1, 4, 2] x) => (float[1, 4, 2] y) <float[4, 2, 1] w = {{{weights}}}> {{ {operations} }}"

    rewrites(
        MergeParallelConvs(),
        text("c = Conv <group = 2> (x, w) y = Add(c, x)", "0, 0, 0, 0, 0, 0, 0, 0"),
        text("y = Conv <group = 2> (x, w)", "1, 0, 0, 1, 1, 0, 0, 1"),
    )


def test_kernels_of_one_row_and_one_column_go_into_the_cross(rewrites):
    """ACNet: 3 x 3, 1 x 3 and 3 x 1, added by one Sum (Keras and Caffe2 write it so)."""
    rewrites(
        MergeParallelConvs(),
        one_channel(
            """a = Conv <pads = [0, 1, 0, 1]> (x, r) b = Conv <pads = [1, 1, 1, 1]> (x, w)
               c = Conv <pads = [1, 0, 1, 0]> (x, k) y = Sum(a, b, c)""",
            f"{THREE}, float[1, 1, 1, 3] r = {{10, 20, 30}}, float[1, 1, 3, 1] k = {{100, 200, 300}}",
        ),
        one_channel(
            "y = Conv <pads = [1, 1, 1, 1]> (x, w)",
            "float[1, 1, 3, 3] w = {1, 102, 3, 14, 225, 36, 7, 308, 9}",
        ),
    )


def test_what_a_sum_has_besides_stays(rewrites):
    rewrites(
        MergeParallelConvs(),
        one_channel(
            "c = Conv <pads = [1, 1, 1, 1]> (x, w) d = Conv(x, v) e = Neg(x) y = Sum(c, e, d)", f"{THREE}, {ONE}"
        ),
        one_channel(
            "c = Conv <pads = [1, 1, 1, 1]> (x, w) e = Neg(x) y = Sum(c, e)",
            "float[1, 1, 3, 3] w = {1, 2, 3, 4, 15, 6, 7, 8, 9}",
        ),
    )


@pytest.mark.parametrize(
    ("attributes", "position"),
    [
        ('auto_pad = "SAME_UPPER"', 0),
        ('auto_pad = "SAME_LOWER"', 1),
        ("pads = [1, 0]", 1),
        ("pads = [0, 1]", 0),
    ],
)
def test_even_kernels_are_aligned_by_their_padding(rewrites, attributes, position):
    weights = [1, 2]
    weights[position] += 10

    def text(operations: str, weights: str) -> str:
        return f"""g (float[1, 1, 5] x) => (float[1, 1, 5] y)
          <float[1, 1, 2] w = {{{weights}}}, float[1, 1, 1] v = {{10}}> {{ {operations} }}"""

    rewrites(
        MergeParallelConvs(),
        text(f"c = Conv <{attributes}> (x, w) d = Conv(x, v) y = Add(c, d)", "1, 2"),
        text(f"y = Conv <{attributes}> (x, w)", f"{weights[0]}, {weights[1]}").replace(", float[1, 1, 1] v = {10}", ""),
    )


def test_dilated_taps_meet_every_second_element(rewrites):
    def text(operations: str, constants: str) -> str:
        return f"g (float[1, 1, 9] x) => (float[1, 1, 9] y) <{constants}> {{ {operations} }}"

    rewrites(
        MergeParallelConvs(),
        text(
            """c = Conv <pads = [4, 4], dilations = [2]> (x, w) d = Conv <pads = [2, 2], dilations = [2]> (x, v)
               y = Add(c, d)""",
            "float[1, 1, 5] w = {1, 2, 3, 4, 5}, float[1, 1, 3] v = {10, 20, 30}",
        ),
        text("y = Conv <pads = [4, 4], dilations = [2]> (x, w)", "float[1, 1, 5] w = {1, 12, 23, 34, 5}"),
    )


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        (
            "c = Conv <pads = [1, 1]> (x, w) d = Conv(x, v) e = Neg(c) f = Add(c, d) y = Add(e, f)",
            "also used elsewhere",
        ),
        (
            "c = Conv <pads = [1, 1], dilations = [1]> (x, w) d = Conv <pads = [2, 2], dilations = [2]> (x, w) y = Add(c, d)",
            "different dilations",
        ),
        ("c = Conv <pads = [2, 0]> (x, w) d = Conv <pads = [0, 1]> (x, k) y = Add(c, d)", ""),
        ("c = Conv <pads = [1, 1]> (x, w) d = Conv <pads = [0, 2]> (x, w) y = Add(c, d)", "window of neither"),
        ("c = Conv <pads = [1, 1]> (x, w) n = BatchNormalization(x, p, p, p, x1) y = Add(c, n)", "is not a constant"),
        ("c = Conv <pads = [1, 1]> (x, x3) y = Add(c, x)", "are not constant"),
    ],
)
def test_what_is_kept_has_a_reason(keeps, operations, reason):
    keeps(
        MergeParallelConvs(),
        f"""g (float[1, 1, 5] x, float[1] x1, float[1, 1, 3] x3) => (float[1, 1, n] y)
          <float[1, 1, 3] w = {{1, 2, 3}}, float[1, 1, 2] k = {{1, 2}}, float[1, 1, 1] v = {{10}}, float[1] p = {{1}}> {{
          {operations} }}""",
        reason=reason,
    )


def test_more_channels_than_the_input_has_no_identity(keeps):
    keeps(
        MergeParallelConvs(),
        """g (float[1, 1, 5] x) => (float[1, 2, 5] y) <float[2, 1, 1] w = {1, 2}> { c = Conv(x, w) y = Add(c, x) }""",
        reason="the branches have 2 and 1 output channels",
    )


def test_dense_and_depthwise_branches_stay(keeps):
    keeps(
        MergeParallelConvs(),
        """g (float[1, 2, 5] x) => (float[1, 2, 5] y) <float[2, 2, 1] w = {1, 2, 3, 4}, float[2, 1, 1] v = {1, 2}> {
             c = Conv(x, w) d = Conv <group = 2> (x, v) y = Add(c, d) }""",
        reason="the branches have 1 and 2 groups",
    )


def test_strides_that_differ_stay(keeps):
    """The sizes may agree for one input: 1 element."""
    keeps(
        MergeParallelConvs(),
        """g (float[1, 1, 1] x) => (float[1, 1, 1] y) <float[1, 1, 3] w = {1, 2, 3}, float[1, 1, 1] v = {1}> {
             c = Conv <pads = [1, 1]> (x, w) d = Conv <strides = [2]> (x, v) y = Add(c, d) }""",
        reason="the branches have strides [1] and [2]",
    )


def test_convolutions_of_other_tensors_stay(keeps):
    keeps(
        MergeParallelConvs(),
        """g (float[1, 1, 5] x, float[1, 1, 5] z) => (float[1, 1, 5] y) <float[1, 1, 1] v = {1}> {
             c = Conv(x, v) d = Conv(z, v) y = Add(c, d) }""",
    )


def test_a_batch_normalisation_that_trains_stays(keeps):
    keeps(
        MergeParallelConvs(),
        """g (float[2, 1, 5] x) => (float[2, 1, 5] y) <float[1, 1, 1] v = {1}, float[1] p = {1}> {
             c = Conv(x, v) d, m, s = BatchNormalization <training_mode = 1> (x, p, p, p, p) y = Add(c, d) }""",
        reason="does not normalise channels by constants",
    )


def test_other_element_types(rewrites, keeps, in_type):
    before = one_channel("c = Conv <pads = [1, 1, 1, 1]> (x, w) d = Conv(x, v) y = Add(c, d)", f"{THREE}, {ONE}")
    after = one_channel("y = Conv <pads = [1, 1, 1, 1]> (x, w)", "float[1, 1, 3, 3] w = {1, 2, 3, 4, 15, 6, 7, 8, 9}")
    rewrites(MergeParallelConvs(), in_type(before, ir.DataType.FLOAT16), in_type(after, ir.DataType.FLOAT16))
    huge = before.replace("v = {10}", "v = {60000}").replace("4, 5, 6", "4, 60000, 6")
    keeps(MergeParallelConvs(), in_type(huge, ir.DataType.FLOAT16), reason="would overflow")


def test_inside_a_branch(rewrites):
    def text(body: str, names: str) -> str:
        return f"""g (bool p, float[1, 1, 5] x) => (float[1, 1, 5] y) <{names}> {{
             y = If (p) <then_branch = t () => (float[1, 1, 5] i) {{ {body} }},
                         else_branch = e () => (float[1, 1, 5] j) {{ j = Neg(x) }}> }}"""

    rewrites(
        MergeParallelConvs(),
        text("c = Conv <pads = [1, 1]> (x, w) i = Add(c, x)", "float[1, 1, 3] w = {1, 2, 3}"),
        text("i = Conv <pads = [1, 1]> (x, w)", "float[1, 1, 3] w = {1, 3, 3}"),
    )


@pytest.mark.parametrize("seed", range(24))
def test_random_blocks_become_one_convolution(agrees, seed):
    """Random kernels, places of the small one in the large one, pads, strides, dilations and groups."""
    rng = np.random.default_rng(seed)
    groups, channels = int(rng.choice([1, 2, 4])), 4
    large = rng.integers(1, 6, size=2)
    small = np.array([rng.integers(1, size + 1) for size in large]) if seed % 2 else np.ones(2, dtype=int)
    place = np.array([rng.integers(0, size + 1) for size in large - small])
    strides = rng.integers(1, 3, size=2) if seed % 2 else np.ones(2, dtype=int)
    dilations = rng.integers(1, 3, size=2)
    begins, ends = (rng.integers(0, 2, size=(2, 2)) * (seed % 2)).tolist()
    x = ir.val("x", ir.DataType.FLOAT, ["n", channels, 13, 14])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17})
    results: list[ir.Value] = []
    around = [(place * dilations + begins), (large - small - place) * dilations + ends]
    for kernel, pads in ((large, around), (small, (begins, ends))):
        weights = rng.normal(size=(channels, channels // groups, *kernel)).astype(np.float32)
        value = ir.val(f"w{len(results)}", const_value=ir.tensor(weights, name=f"w{len(results)}"))
        graph.initializers.add(value)
        attributes = {
            "pads": [int(pad) for side in pads for pad in side],
            "strides": strides.tolist(),
            "dilations": dilations.tolist(),
            "group": groups,
        }
        graph.append(ir.node("Conv", [x, value], attributes, name=f"conv{len(results)}"))
        results.append(graph[-1].outputs[0])
        results[-1].name = f"c{len(results)}"
    if seed % 2 == 0:
        results.append(x)
    graph.append(ir.node("Sum", rng.permutation(np.array(results, dtype=object)).tolist(), name="sum"))
    (y,) = graph[-1].outputs
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([None] * 4)
    graph.outputs.append(y)
    done = agrees(MergeParallelConvs(), ir.Model(graph, ir_version=8), seed)
    assert len(done.changed) == len(results) - 1
