from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.ir import infer, orders
from graphopt.passes.layout.set_io_layout import SetIoLayout
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.drive import drive

NETWORK = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 4, 5] x, float[N, 3] z) => (float[N, 2, 4, 5] y, float[N, 3] u)
    <float[2, 2, 1, 1] w = {1, 2, 3, 4}> { a = Relu(x) b = Conv(a, w) y = Sigmoid(b) u = Neg(z) }"""
LAST = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 4, 5, 2] x) => (float[N, 4, 5, 2] y)
    <float[2, 2, 1, 1] w = {1, 2, 3, 4}> { a = Relu(x) t = Transpose<perm = [0, 3, 1, 2]>(a) b = Conv(t, w)
    y = Transpose<perm = [0, 2, 3, 1]>(b) }"""


def optimized(text: str, recipe: str) -> ir.Model:
    model, outcomes = PassManager(recipe, verify="each", strict=True).run(ir.from_onnx_text(text))
    assert outcomes.verdict is not None and outcomes.verdict.verdict == "equal"
    return model


def kept(text: str, pass_: SetIoLayout) -> list[str]:
    model = ir.from_onnx_text(text)
    infer(model)
    done = drive(pass_, model, Context())
    assert not done.changed
    return [reason for _, reason in done.kept]


def test_images_come_and_go_with_their_channels_last():
    model = optimized(NETWORK, 'set-io-layout{inputs="nhwc", outputs="nhwc"}, place-transposes')
    assert [tuple(map(str, value.shape)) for value in model.graph.inputs] == [("N", "4", "5", "2"), ("N", "3")]
    assert [tuple(map(str, value.shape)) for value in model.graph.outputs] == [("N", "4", "5", "2"), ("N", "3")]
    assert [value.name for value in model.graph.inputs] == ["x", "z"]
    assert [value.name for value in model.graph.outputs] == ["y", "u"]
    assert orders.read(model) == {"x": (0, 2, 3, 1), "y": (0, 2, 3, 1)}


def test_the_result_is_the_same_bits_permuted():
    before, after = ir.from_onnx_text(NETWORK), optimized(NETWORK, 'set-io-layout{inputs="nhwc", outputs="nhwc"}')
    numbers = np.random.default_rng(0)
    x, z = (numbers.standard_normal(shape).astype(np.float32) for shape in ((2, 2, 4, 5), (2, 3)))
    expected = Session(before, optimized=False).run({"x": x, "z": z})["y"]
    found = Session(after, optimized=False).run({"x": np.ascontiguousarray(x.transpose(0, 2, 3, 1)), "z": z})["y"]
    assert np.array_equal(found, np.asarray(expected).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("wanted", ["nhwc", "nchw"])
def test_there_and_back_is_what_it_was(wanted):
    text = NETWORK if wanted == "nhwc" else LAST
    other = "nchw" if wanted == "nhwc" else "nhwc"
    there = optimized(text, f'set-io-layout{{inputs="{wanted}", outputs="{wanted}"}}, place-transposes')
    back, _ = PassManager(
        f'set-io-layout{{inputs="{other}", outputs="{other}"}}, place-transposes', verify="each", strict=True
    ).run(there)
    original = ir.from_onnx_text(text)
    assert [str(value.shape) for value in back.graph.inputs] == [str(value.shape) for value in original.graph.inputs]
    assert orders.read(back) == {}
    assert sum(node.op_type == "Transpose" for node in back.graph) == (0 if wanted == "nhwc" else 2)


def test_what_has_its_channels_there_already_stays():
    assert kept(NETWORK, SetIoLayout("nchw", "nchw")) == ["it has its channels first already"] * 2
    assert kept(LAST, SetIoLayout("nhwc", "nhwc")) == ["it has its channels last already"] * 2


def test_by_default_nothing_is_asked_for():
    assert kept(NETWORK, SetIoLayout()) == []


def test_an_input_read_in_two_orders_stays():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1, 2, 2, 2] x) => (float[1, 2, 2, 2] y)
        <float[2, 2, 1, 1] w = {1, 2, 3, 4}> { a = Conv(x, w) t = Transpose<perm = [0, 3, 1, 2]>(x) b = Conv(t, w)
        y = Add(a, b) }"""
    assert kept(text, SetIoLayout("nhwc")) == ["it is used in more than one order"]


def test_an_input_with_a_default_stays():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]> g (float[1, 2, 1, 1] x) => (float[1, 2, 1, 1] y)
        <float[2, 2, 1, 1] w = {1, 2, 3, 4}> { y = Conv(x, w) }"""
    )
    value = model.graph.inputs[0]
    value.const_value = ir.tensor(np.ones((1, 2, 1, 1), np.float32))
    model.graph.initializers.add(value)
    infer(model)
    done = drive(SetIoLayout("nhwc"), model, Context())
    assert [reason for _, reason in done.kept] == ["it has a default value"]


def test_a_named_input_needs_no_convolution():
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[1, 2, 3, 4] x) => (float[1, 2, 3, 4] y) { y = Relu(x) }'
    assert kept(text, SetIoLayout("nhwc")) == ["no input is found to be an image; name those that are"]
    assert kept(text, SetIoLayout("nhwc", names=("none",))) == ["the model has no input or output of this name"]
    model = optimized(text, 'set-io-layout{inputs="nhwc", names=["x"]}, place-transposes')
    assert tuple(model.graph.inputs[0].shape) == (1, 3, 4, 2)


def test_an_output_keeps_its_name_when_it_is_read_inside_too():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1, 2, 3, 4] x) => (float[1, 2, 3, 4] y, float[1, 2, 3, 4] z)
        <float[2, 2, 1, 1] w = {1, 2, 3, 4}> { y = Conv(x, w) z = Neg(y) }"""
    model = optimized(text, 'set-io-layout{outputs="nhwc", names=["y"]}, place-transposes')
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert [tuple(value.shape) for value in model.graph.outputs] == [(1, 3, 4, 2), (1, 2, 3, 4)]


def test_lines_and_volumes():
    for rank, last in ((3, (0, 2, 1)), (5, (0, 2, 3, 4, 1))):
        sizes = (1, 2, 3, 4, 5)[:rank]
        ones = ", ".join("1" for _ in range(rank - 2))
        shape = ", ".join(map(str, sizes))
        text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[{shape}] x) => (float[{shape}] y)
            <float[2, 2, {ones}] w = {{1, 2, 3, 4}}> {{ y = Conv(x, w) }}"""
        model = optimized(text, 'set-io-layout{inputs="nhwc"}')
        assert tuple(model.graph.inputs[0].shape) == tuple(sizes[axis] for axis in last)


def test_a_layout_nobody_knows_is_refused():
    with pytest.raises(GraphoptError, match="nhcw"):
        SetIoLayout("nhcw")
