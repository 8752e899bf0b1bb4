from __future__ import annotations

import dataclasses
import random

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.execute.session import Session
from graphopt.ir import check, forget, infer, sweep
from graphopt.passes.layout.pad_channels import FORM, PadChannels
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.target import targets

ONES = "1, 1, 1"


def test_channels_between_two_convolutions_become_a_multiple(rewrites):
    def text(weights: str, after: str) -> str:
        return f"""g (float[N, 2, 4, 4] x) => (float[N, 1, 4, 4] y) <{weights}> {{
             a = Conv(x, w, b) c = Sigmoid(a) y = Conv(c, v) }}""".replace("Sigmoid(a)", after)

    done = rewrites(
        PadChannels(multiple=4),
        text(
            """float[3, 2, 1, 1] w = {1, 2, 3, 4, 5, 6}, float[3] b = {1, 2, 3}, float[1, 3, 1, 1] v = {1, 2, 3}""",
            "Sigmoid(a)",
        ).replace("y = Conv(c, v)", "d = Conv(c, v) y = Relu(d)"),
        text(
            """float[4, 2, 1, 1] w = {1, 2, 3, 4, 5, 6, 0, 0}, float[4] b = {1, 2, 3, 0}, float[1, 4, 1, 1] v = {1, 2, 3, 0}""",
            "Sigmoid(a)",
        ).replace("y = Conv(c, v)", "d = Conv(c, v) y = Relu(d)"),
    )
    assert [text for _, text in done.changed] == ["3 channels become 4"]
    assert [text for _, text in done.kept] == ["tensor 'y' is an output"]


def test_a_depthwise_convolution_gets_more_groups(rewrites):
    rewrites(
        PadChannels(multiple=4),
        """g (float[1, 1, 4, 4] x) => (float[1, 4, 4, 4] y) <float[2, 1, 1, 1] w = {1, 2}, float[2, 1, 1, 1] d = {3, 4},
             float[4, 2, 1, 1] v = {1, 2, 3, 4, 5, 6, 7, 8}> {
             a = Conv(x, w) b = Conv<group = 2>(a, d) y = Conv(b, v) }""",
        """g (float[1, 1, 4, 4] x) => (float[1, 4, 4, 4] y) <float[4, 1, 1, 1] w = {1, 2, 0, 0},
             float[4, 1, 1, 1] d = {3, 4, 0, 0}, float[4, 4, 1, 1] v = {1, 2, 0, 0, 3, 4, 0, 0, 5, 6, 0, 0, 7, 8, 0, 0}> {
             a = Conv(x, w) b = Conv<group = 4>(a, d) y = Conv(b, v) }""",
    )


def test_a_residual_and_its_normalisation_grow_together(rewrites):
    def text(size: int, zeros: str, ones: str) -> str:
        w = ", ".join(f"1, 2{', 0' * (size - 2)}" for _ in range(2)) + ", 0" * ((size - 2) * size)
        return f"""g (float[1, 1, 4, 4] x) => (float[1, 4, 4, 4] y) <float[{size}, 1, 1, 1] u = {{1, 2{zeros}}},
             float[{size}, {size}, 1, 1] w = {{{w}}}, float[{size}] s = {{1, 2{zeros}}}, float[{size}] m = {{3, 4{zeros}}},
             float[{size}] r = {{5, 6{ones}}}, float[{size}, 1, 1] k = {{7, 8{zeros}}},
             float[4, {size}, 1, 1] v = {{{", ".join(f"1, 2{zeros}" for _ in range(4))}}}> {{
             a = Conv(x, u) b = Conv(a, w) c = BatchNormalization(b, s, m, m, r) d = Add(a, c) e = Mul(d, k)
             f = MaxPool<kernel_shape = [2, 2]>(e) y = Conv(f, v) }}"""

    rewrites(PadChannels(multiple=4), text(2, "", ""), text(4, ", 0, 0", ", 1, 1"))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Concat<axis = 1>(a, a)", "Concat 'y' reads or makes its channels"),
        ("y = Softmax<axis = 1>(a)", "Softmax 'y' reads or makes its channels"),
        ("y = Reciprocal(a)", "Reciprocal 'y' reads or makes its channels"),
        ("b = Sigmoid(a) y = Div(a, b)", "Div 'y' reads or makes its channels"),
        ("y = Relu(a)", "tensor 'y' is an output"),
        ("b = Add(a, z) y = Conv(b, v)", "tensor 'z' is an input"),
    ],
)
def test_channels_that_something_counts_stay(keeps, body, reason):
    keeps(
        PadChannels(multiple=4),
        f"""g (float[1, 1, 4, 4] x, float[1, 2, 4, 4] z) => (float[A, B, C, D] y) <float[2, 1, 1, 1] w = {{1, 2}},
             float[4, 2, 1, 1] v = {{1, 2, 3, 4, 5, 6, 7, 8}}> {{ a = Conv(x, w) {body} }}""",
        reason=reason,
    )


def test_one_channel_is_not_broadcast_as_many(keeps):
    keeps(
        PadChannels(multiple=4),
        """g (float[1, 1, 4, 4] x, float[1, 4, 4, 4] z) => (float[1, 4, 4, 4] y) <float[1, 1, 1, 1] w = {2},
             float[4, 4, 1, 1] v = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}> {
             a = Conv(x, w) b = Mul(a, z) y = Conv(b, v) }""",
        reason="Mul 'b' reads or makes its channels",
    )


def test_grouped_and_computed_weights_stay(keeps):
    keeps(
        PadChannels(multiple=4),
        """g (float[1, 4, 4, 4] x) => (float[1, 4, 4, 4] y) <float[6, 2, 1, 1] w = {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6},
             float[4, 3, 1, 1] v = {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6}> {
             a = Conv<group = 2>(x, w) y = Conv<group = 2>(a, v) }""",
        reason="has 2 groups",
    )
    keeps(
        PadChannels(multiple=4),
        """g (float[1, 4, 4, 4] x, float[6, 4, 1, 1] w) => (float[1, 6, 4, 4] y) { y = Conv(x, w) }""",
        reason="the weights or the bias of Conv 'y' are not constant",
    )


def test_what_a_branch_reads_stays(keeps):
    keeps(
        PadChannels(multiple=4),
        """g (bool p, float[1, 1, 4, 4] x) => (float[1, 2, 4, 4] y) <float[2, 1, 1, 1] w = {1, 2}> {
             a = Conv(x, w)
             y = If (p) <then_branch = t () => (float[1, 2, 4, 4] u) { u = Neg(a) },
                         else_branch = e () => (float[1, 2, 4, 4] v) { v = Abs(a) }> }""",
        reason="in another graph has it too",
    )


def test_inside_a_branch(rewrites):
    def text(body: str) -> str:
        return f"""g (bool p, float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y) <float[2, 1, 1, 1] w = {{1, 2}},
             float[1, 2, 1, 1] v = {{3, 4}}, float[1, 1, 1, 1] k = {{2}}> {{
             y = If (p) <then_branch = t () => (float[1, 1, 2, 2] u) {{ {body} }},
                         else_branch = e () => (float[1, 1, 2, 2] n) {{ n = Neg(x) }}> }}"""

    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]>' + text("a = Conv(x, w) u = Conv(a, v)"))
    infer(model)
    done = drive(PadChannels(multiple=2 * 2), model, Context())
    assert [line for _, line in done.changed] == ["2 channels become 4"]


def test_only_on_request_or_for_a_target_that_likes_it():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y)
        <float[2, 1, 1, 1] w = {1, 2}, float[1, 2, 1, 1] v = {3, 4}> { a = Conv(x, w) y = Conv(a, v) }"""
    likes = dataclasses.replace(targets()["x86-64"], forms=frozenset({FORM}))
    for context, count in ((Context(), 0), (Context(target=likes), 1)):
        model = ir.from_onnx_text(text)
        infer(model)
        assert len(drive(PadChannels(), model, context).changed) == count


def _network(seed: int) -> onnx.ModelProto:
    """A random network of convolutions of few channels, with residuals, gates and pooling."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    values: list[tuple[str, int]] = [("x", 2)]

    def constant(*shape: int) -> str:
        name = f"w{len(constants)}"
        constants.append(numpy_helper.from_array(numbers.standard_normal(shape).astype(np.float32) * 0.5, name))
        return name

    def add(op: str, inputs: list[str], channels: int, **attributes: object) -> None:
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        values.append((name, channels))

    for _ in range(rng.randint(4, 14)):
        name, channels = rng.choice(values[-3:])
        match rng.randrange(8):
            case 0 | 1 | 2:
                more = rng.choice((1, 2, 3, 4, 5))
                size = rng.choice((1, 3))
                inputs = [name, constant(more, channels, size, size)]
                inputs += [constant(more)] if rng.random() < 0.5 else []
                add("Conv", inputs, more, pads=[size // 2] * 4)
            case 3:
                add(rng.choice(("Relu", "Sigmoid", "Tanh", "Exp", "Reciprocal")), [name], channels)
            case 4:
                add("Conv", [name, constant(channels, 1, 3, 3)], channels, pads=[1] * 4, group=channels)
            case 5:
                others = [other for other, count in values if count == channels]
                add(rng.choice(("Add", "Mul")), [name, rng.choice(others)], channels)
            case 6:
                add(rng.choice(("Add", "Mul")), [name, constant(channels, 1, 1)], channels)
            case _:
                add("GlobalAveragePool", [name], channels)
                gate = values.pop()[0]
                add("Mul", [name, gate], channels)
    output = values[-1]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 4])],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, [1, output[1], 5, 4])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@settings(max_examples=100)
@given(seed=st.integers(0, 10**9))
def test_random_networks_compute_the_same(seed):
    model = ir.from_proto(_network(seed))
    if model.graph.outputs[0].is_graph_input():
        return
    feeds = {"x": np.random.default_rng(seed).standard_normal((1, 2, 5, 4)).astype(np.float32)}
    (expected,) = Session(model, optimized=False).run(feeds).values()
    after = model.clone()
    sweep(after)
    infer(after)
    drive(PadChannels(multiple=4), after, Context())
    forget(after)
    check(after)
    (found,) = Session(after, optimized=False).run(feeds).values()
    wide = np.asarray(expected, np.float64)
    if np.isfinite(wide).all() and np.abs(wide).max() < 1e6:
        np.testing.assert_allclose(np.asarray(found), wide, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(wide).max()))
    infer(after)
    assert not drive(PadChannels(multiple=4), after, Context()).changed
