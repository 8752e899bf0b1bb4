"""Data-free calibration: gradients are right, and inputs that are made meet the statistics of the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphopt import ir as gir
from graphopt.calibrate import CalibrationData
from graphopt.calibrate.adjoints import adjoint
from graphopt.calibrate.synthesize import normalizations, synthesize
from graphopt.calibrate.trail import Trail
from graphopt.errors import GraphoptError
from graphopt.execute.session import Session


def with_weights(text: str, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> ir.Model:
    """The model with positive numbers for the values that nothing computes."""
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(seed)
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, shape in shapes.items():
        value = used[name]
        array = rng.normal(size=shape) if name.startswith("w") else rng.uniform(0.5, 1.5, shape)
        value.const_value = ir.tensor(array.astype(np.float32), name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.initializers.add(value)
    gir.infer(model)
    return model


OPERATORS: dict[str, tuple[str, tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    "conv": ("y = Conv <pads=[1,1,1,1]> (x, w)", (2, 3, 6, 7), {"w": (4, 3, 3, 3)}),
    "conv without zeros around": ("y = Conv (x, w)", (1, 3, 6, 7), {"w": (4, 3, 3, 2)}),
    "strided conv": ("y = Conv <pads=[1,1,0,0], strides=[2,2]> (x, w)", (1, 3, 7, 8), {"w": (4, 3, 3, 3)}),
    "depthwise conv": ("y = Conv <pads=[2,2,2,2], group=4, dilations=[2,2]> (x, w)", (1, 4, 6, 6), {"w": (4, 1, 3, 3)}),
    "grouped conv": (
        'y = Conv <group=2, auto_pad="SAME_UPPER", strides=[2,2]> (x, w)',
        (1, 4, 6, 7),
        {"w": (6, 2, 3, 3)},
    ),
    "conv along one axis": ("y = Conv <pads=[1,1]> (x, w)", (2, 3, 9), {"w": (4, 3, 3)}),
    "transposed conv": ("y = ConvTranspose <strides=[2,2], pads=[1,1,1,1]> (x, w)", (1, 3, 4, 5), {"w": (3, 2, 4, 4)}),
    "normalisation": ("y = BatchNormalization (x, a, b, c, d)", (2, 3, 4, 4), dict.fromkeys("abcd", (3,))),
    "relu": ("y = Relu(x)", (3, 5), {}),
    "clip": ("l = Constant <value_float=-0.5> () h = Constant <value_float=0.5> () y = Clip(x, l, h)", (3, 5), {}),
    "leaky relu": ("y = LeakyRelu <alpha=0.2> (x)", (3, 5), {}),
    "sigmoid": ("y = Sigmoid(x)", (3, 5), {}),
    "tanh": ("y = Tanh(x)", (3, 5), {}),
    "hard sigmoid": ("y = HardSigmoid(x)", (3, 5), {}),
    "hard swish": ("y = HardSwish(x)", (3, 5), {}),
    "sum that broadcasts": ("s = ReduceMean <axes=[1]> (x) y = Sub(x, s)", (3, 5), {}),
    "product": ("s = Sigmoid(x) y = Mul(s, x)", (3, 5), {}),
    "quotient": ("s = Sigmoid(x) y = Div(x, s)", (3, 5), {}),
    "product with a constant": ("y = Mul(x, a)", (3, 5), {"a": (1, 5)}),
    "constant over it": ("s = Sigmoid(x) y = Div(a, s)", (3, 5), {"a": (5,)}),
    "global pool": ("y = GlobalAveragePool(x)", (2, 3, 4, 5), {}),
    "average pool": ("y = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]> (x)", (2, 3, 7, 6), {}),
    "max pool": ("y = MaxPool <kernel_shape=[2,2], strides=[2,2]> (x)", (2, 3, 6, 6), {}),
    "reshape": ("s = Constant <value_ints=[3,-1]> () y = Reshape(x, s)", (2, 3, 4), {}),
    "transpose": ("y = Transpose <perm=[2,0,1]> (x)", (2, 3, 4), {}),
    "concat": ("s = Tanh(x) y = Concat <axis=1> (s, x)", (2, 3, 4), {}),
    "pad": ("s = Constant <value_ints=[0,1,2,0,3,1]> () y = Pad(x, s)", (2, 3, 4), {}),
    "slice": (
        "s = Constant <value_ints=[1,-3]> () e = Constant <value_ints=[9,-1]> () a = Constant <value_ints=[1,2]> ()"
        " y = Slice(x, s, e, a)",
        (2, 3, 4),
        {},
    ),
    "product of matrices": ("y = MatMul(x, w)", (2, 3, 4), {"w": (4, 5)}),
    "gemm": ("y = Gemm <transB=1, alpha=0.5> (x, w, b)", (3, 4), {"w": (5, 4), "b": (5,)}),
}


@pytest.mark.parametrize("case", OPERATORS)
def test_gradients_are_those_of_differences(case: str):
    body, shape, weights = OPERATORS[case]
    sizes = ",".join(map(str, shape))
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[{sizes}] x) => (float y) {{ {body} }}'
    model = with_weights(text, weights)
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape).astype(np.float32)
    plain = Session(model, optimized=False)
    y = plain.run({"x": x})["y"]
    ahead = rng.normal(size=y.shape).astype(np.float32)
    found = Session(backward(model, {"x": x}, ahead), optimized=False).run({"x": x})["dx"]
    step = 1e-3
    flat = x.reshape(-1)
    for index in rng.choice(flat.size, min(flat.size, 12), replace=False):
        there, back = flat.copy(), flat.copy()
        there[index] += step
        back[index] -= step
        results = [plain.run({"x": item.reshape(shape)})["y"].astype(np.float64) for item in (there, back)]
        expected = float(np.sum((results[0] - results[1]) * ahead)) / (2 * step)
        assert found.reshape(-1)[index] == pytest.approx(expected, abs=2e-2, rel=2e-2)


def backward(model: ir.Model, feeds: dict[str, np.ndarray], ahead: np.ndarray) -> ir.Model:
    """The model that gives dL/dx for L = sum(y * ahead)."""
    copy = gir.copy_model(model)
    names = [str(value.name) for node in copy.graph for value in node.outputs]
    values = {**feeds, **Session(model, optimized=False, outputs=names).run(feeds)}
    shapes = {name: value.shape for name, value in values.items()}
    numbers = {name: value for name, value in values.items() if value.dtype.kind == "i"}
    trail = Trail(copy.graph, 17, shapes, numbers)
    nodes = list(copy.graph)
    gradients: dict[Any, ir.Value] = {nodes[-1].outputs[0]: trail.constant(ahead)}
    for node in reversed(nodes):
        if node.outputs[0] not in gradients:
            continue
        for index, value in enumerate(node.inputs):
            if value is None or value.const_value is not None or gir.constant(value) is not None:
                continue
            slope = adjoint(trail, node, gradients[node.outputs[0]], index)
            assert slope is not None, node.op_type
            gradients[value] = trail.op("Add", [gradients[value], slope]) if value in gradients else slope
    result = trail.op("Identity", [gradients[copy.graph.inputs[0]]])
    result.name, result.type = "dx", ir.TensorType(ir.DataType.FLOAT)
    copy.graph.outputs.clear()
    copy.graph.outputs.append(result)
    return copy


def convolutional(opset: int = 17, batch: str = "n") -> ir.Model:
    """Two layers whose statistics are those of inputs with mean 3 and deviation 0.5."""
    text = f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[{batch},3,16,16] x) => (float[{batch},4,14,14] y)
    {{ a = Conv (x, w1) b = BatchNormalization (a, s, o, m1, v1) c = Relu(b)
       d = Conv <pads=[1,1,1,1]> (c, w2) y = BatchNormalization (d, s, o, m2, v2) }}"""
    shapes = {"w1": (4, 3, 3, 3), "w2": (4, 4, 3, 3)} | dict.fromkeys(("s", "o", "m1", "v1", "m2", "v2"), (4,))
    model = with_weights(text, shapes)
    x = np.random.default_rng(5).normal(3.0, 0.5, (8, 3, 16, 16)).astype(np.float32)
    for tensor, mean, variance in (("a", "m1", "v1"), ("d", "m2", "v2")):
        found = np.concatenate(
            [Session(model, optimized=False, outputs=[tensor]).run({"x": part[None]})[tensor] for part in x]
        )
        for name, array in ((mean, found.mean(axis=(0, 2, 3))), (variance, found.var(axis=(0, 2, 3)))):
            model.graph.initializers[name].const_value = ir.tensor(array.astype(np.float32), name=name)
    return model


def test_inputs_that_are_made_meet_the_statistics():
    model = convolutional()
    assert len(normalizations(model)) == 2
    found = synthesize(model, 4, steps=80)
    assert found.layers == 2
    assert found.loss_after < 0.1 * found.loss_before
    x = np.concatenate([sample["x"] for sample in found.samples])
    assert x.shape == (4, 3, 16, 16)


def test_a_model_of_fixed_batch_is_fed_one_sample_at_a_time():
    found = synthesize(convolutional(batch="1"), 2, steps=5)
    assert [sample["x"].shape for sample in found.samples] == [(1, 3, 16, 16)] * 2
    assert not np.array_equal(found.samples[0]["x"], found.samples[1]["x"])


def test_older_and_newer_opsets_do_too():
    for opset in (11, 20):
        assert synthesize(convolutional(opset), 1, steps=3).loss_after < np.inf


def test_the_same_seed_gives_the_same_and_the_data_are_marked():
    model = convolutional()
    first = CalibrationData.synthesize(model, 2, seed=3, steps=3, threads=1)
    again = CalibrationData.synthesize(model, 2, seed=3, steps=3, threads=1)
    other = CalibrationData.synthesize(model, 2, seed=4, steps=3, threads=1)
    assert first.digest == again.digest != other.digest
    assert first.synthetic
    assert "2 BatchNormalizations" in first.where


def test_a_model_without_normalisations_is_refused_with_a_reason():
    model = with_weights(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1,3] x) => (float[1,3] y) { y = Relu(x) }', {}
    )
    with pytest.raises(GraphoptError, match="no BatchNormalizations"):
        synthesize(model)
