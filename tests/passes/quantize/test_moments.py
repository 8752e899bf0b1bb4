"""Moments of products: patches are what the convolution sees."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.passes.quantize._moments import View, view_of

RNG = np.random.default_rng(0)

CONVS = {
    "plain": ("kernel_shape=[3,3]", (6, 4, 3, 3), (2, 4, 9, 8)),
    "padded, strided, dilated": (
        "kernel_shape=[3,2], pads=[2,1,0,3], strides=[2,1], dilations=[1,2]",
        (6, 4, 3, 2),
        (2, 4, 9, 8),
    ),
    "groups": ("kernel_shape=[3,3], group=2, pads=[1,1,1,1]", (6, 2, 3, 3), (2, 4, 9, 8)),
    "depthwise with a multiplier": ("kernel_shape=[3,3], group=4", (8, 1, 3, 3), (2, 4, 9, 8)),
    "same upper": ('kernel_shape=[4,3], auto_pad="SAME_UPPER", strides=[2,2]', (6, 4, 4, 3), (2, 4, 9, 8)),
    "same lower": ('kernel_shape=[4,3], auto_pad="SAME_LOWER", strides=[3,2]', (6, 4, 4, 3), (2, 4, 9, 8)),
    "valid": ('kernel_shape=[2,3], auto_pad="VALID"', (6, 4, 2, 3), (2, 4, 9, 8)),
    "one axis": ("kernel_shape=[5], pads=[2,2], strides=[2]", (6, 4, 5), (3, 4, 20)),
    "three axes": ("kernel_shape=[2,3,2], pads=[1,0,0,0,1,1]", (5, 3, 2, 3, 2), (1, 3, 5, 6, 4)),
}


def product(text: str, weight: np.ndarray, x: np.ndarray) -> tuple[View, np.ndarray]:
    """The view of the node, and what it gives."""
    dims = ",".join(map(str, x.shape))
    model = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 17]> g (float[{dims}] x) => (float y) {{ {text} }}')
    node = next(iter(model.graph))
    node.inputs[1].const_value = ir.tensor(weight, name="w")
    node.inputs[1].type, node.inputs[1].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(weight.shape)
    model.graph.initializers.add(node.inputs[1])
    model.graph.outputs[0].shape = None
    view = view_of(node, weight)
    assert isinstance(view, View)
    return view, Session(model, optimized=False).run({"x": x})["y"]


def same(text: str, weight: np.ndarray, x: np.ndarray) -> None:
    """The error of the true weight is 0 and that of another one is what the other product gives."""
    view, y = product(text, weight, x)
    other = (weight + 0.1 * RNG.normal(size=weight.shape)).astype(np.float32)
    _, z = product(text, other, x)
    found = view.moments(x, y, 10**9, RNG)
    assert found.rows == y.size // (weight.shape[0] if not view.turned else weight.shape[1])
    assert found.error(view.rows(weight)).sum() < 1e-5 * found.power.sum()
    np.testing.assert_allclose(found.error(view.rows(other)).sum(), np.sum((y.astype(float) - z) ** 2), rtol=1e-3)
    np.testing.assert_array_equal(view.stored(view.rows(weight)), weight)


@pytest.mark.parametrize("name", CONVS)
def test_the_form_of_a_convolution_is_the_error_of_its_outputs(name: str):
    attributes, shape, given = CONVS[name]
    weight = RNG.normal(size=shape).astype(np.float32)
    same(f"y = Conv <{attributes}> (x, w)", weight, RNG.normal(size=given).astype(np.float32))


@pytest.mark.parametrize(
    ("text", "shape", "given"),
    [
        ("y = MatMul(x, w)", (8, 5), (2, 3, 8)),
        ("y = MatMul(x, w)", (8, 5), (8,)),
        ("y = Gemm(x, w)", (8, 5), (7, 8)),
        ("y = Gemm <transB=1> (x, w)", (5, 8), (7, 8)),
    ],
)
def test_the_form_of_a_matrix_product_is_the_error_of_its_outputs(
    text: str, shape: tuple[int, ...], given: tuple[int, ...]
):
    same(text, RNG.normal(size=shape).astype(np.float32), RNG.normal(size=given).astype(np.float32))


def test_patches_that_are_drawn_are_right_ones():
    attributes, shape, given = CONVS["groups"]
    weight, x = RNG.normal(size=shape).astype(np.float32), RNG.normal(size=given).astype(np.float32)
    view, y = product(f"y = Conv <{attributes}> (x, w)", weight, x)
    found = view.moments(x, y, 20, RNG)
    assert found.rows == 20
    assert found.error(view.rows(weight)).sum() < 1e-5 * found.power.sum()


def test_what_is_not_known_has_a_reason():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1,2,4,4] x, float[2,3,2,2] w) => (float y)'
        "{ y = ConvTranspose(x, w) }"
    )
    assert "not ConvTranspose" in str(view_of(next(iter(model.graph)), np.zeros((2, 3, 2, 2))))
