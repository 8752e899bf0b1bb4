"""A mobile network the way tf2onnx writes it: NHWC, with a pair of Transposes around each convolution.

Pads, biases, Relu6, residuals, squeeze-and-excitation gates and the mean at the end are NHWC; with ``quantized`` there
are QuantizeLinear and DequantizeLinear between them, per tensor on activations and per channel on constants.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class ChannelsLast:
    """Builds it block by block."""

    def __init__(self, *, quantized: bool, dynamic: bool) -> None:
        self.numbers = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.quantized = quantized
        self.sizes = ["N", "H", "W", 3] if dynamic else [1, 32, 32, 3]

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def random(self, *shape: int) -> str:
        return self.constant(self.numbers.standard_normal(shape).astype(np.float32) * 0.3)

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def fake(self, x: str) -> str:
        """Quantized and back."""
        if not self.quantized:
            return x
        scale, zero = self.constant(np.array(0.05, np.float32)), self.constant(np.array(128, np.uint8))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, scale, zero), scale, zero)

    def conv(self, x: str, channels: int, out: int, *, size: int = 1, stride: int = 1, group: int = 1) -> str:
        if size > 1:
            pads = np.array([0, 1, 1, 0, 0, 1, 1, 0], np.int64)
            x = self.node("Pad", x, self.constant(pads))
        weights = self.random(out, channels // group, size, size)
        x = self.node("Transpose", self.fake(x), perm=[0, 3, 1, 2])
        x = self.node("Conv", x, weights, group=group, strides=[stride, stride])
        x = self.node("Transpose", x, perm=[0, 2, 3, 1])
        return self.node("Add", x, self.random(out))

    def relu6(self, x: str) -> str:
        limits = [self.constant(np.array(limit, np.float32)) for limit in (0, 6)]
        return self.fake(self.node("Clip", x, *limits))

    def gate(self, x: str, channels: int) -> str:
        mean = self.node("ReduceMean", x, axes=[1, 2], keepdims=1)
        small = self.node("Relu", self.conv(mean, channels, 4))
        return self.node("Mul", x, self.node("Sigmoid", self.conv(small, 4, channels)))

    def block(self, x: str, channels: int) -> str:
        wide = self.relu6(self.conv(x, channels, 2 * channels))
        deep = self.relu6(self.conv(wide, 2 * channels, 2 * channels, size=3, group=2 * channels))
        return self.node("Add", x, self.fake(self.conv(self.gate(deep, 2 * channels), 2 * channels, channels)))

    def model(self, blocks: int) -> onnx.ModelProto:
        x = self.relu6(self.conv("image", 3, 8, size=3, stride=2))
        for _ in range(blocks):
            x = self.block(x, 8)
        doubled = self.node(
            "Resize", x, "", self.constant(np.array([1, 2, 2, 1], np.float32)), mode="nearest", nearest_mode="floor"
        )
        x = self.node("Concat", doubled, doubled, axis=3)
        mean = self.node("ReduceMean", x, axes=[1, 2], keepdims=0)
        result = self.node("Softmax", self.node("MatMul", mean, self.random(16, 5)), axis=-1)
        graph = helper.make_graph(
            self.nodes,
            "channels_last",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, self.sizes)],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, [self.sizes[0], 5])],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
