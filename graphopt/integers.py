"""Which operators a runtime computes on integers, as data: what quantisation has to know of its target.

An operator between DequantizeLinear and QuantizeLinear nodes is the same mathematics as before. Whether it becomes an
integer kernel depends on what the runtime looks for around it, which is what these tables say; that it does is counted
afterwards in the graph that the runtime really runs (``graphopt.flows.fused``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Result = Literal["quantised", "either"]


@dataclass(frozen=True)
class Integers:
    """The integer operators of a runtime.

    Attributes:
        products: operators with weights, and whether their integer kernel gives a quantised result only, or may give
            floats too.
        computing: operators without weights that have an integer kernel when every operand and the result are
            quantised.
        moving: operators that only move numbers: they work on codes as they are, with one scale before and behind.
        clamping: activations that a quantised result makes superfluous.
        activations, weights: element types, the best first.
        per_channel: weights may have a scale for each output channel.
        per_channel_activations: activations too.
        asymmetric: activations may have a zero point other than 0.
        products_of_activations: products of two activations have an integer kernel worth having.
    """

    products: Mapping[str, Result] = field(default_factory=dict)
    computing: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()
    clamping: frozenset[str] = frozenset()
    activations: tuple[str, ...] = ("uint8", "int8")
    weights: tuple[str, ...] = ("int8", "uint8")
    per_channel: bool = True
    asymmetric: bool = True
    products_of_activations: bool = False


_MOVING = frozenset(
    ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather", "Expand", "Tile")
)

# onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc, 1.31: QLinearConv
# exists with a quantised result only; MatMul and Gemm may end in floats. ConvTranspose has no integer kernel.
ORT_CPU = Integers(
    products={"Conv": "quantised", "MatMul": "either", "Gemm": "either"},
    computing=frozenset(
        ("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Softmax", "Where")
    ),
    moving=_MOVING,
    clamping=frozenset(("Relu", "Clip")),
)

# What OpenVINO's low-precision transformations take: also float results and ConvTranspose.
OPENVINO = Integers(
    products={"Conv": "either", "ConvTranspose": "either", "MatMul": "either", "Gemm": "either"},
    computing=frozenset(("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool")),
    moving=_MOVING,
    clamping=frozenset(("Relu", "Clip")),
    products_of_activations=True,
)

# TensorRT: symmetric int8 only, https://docs.nvidia.com/deeplearning/tensorrt (explicit quantisation): the result of a
# product stays float where an element-wise operator follows, which it fuses.
TENSORRT = Integers(
    products={"Conv": "either", "ConvTranspose": "either", "MatMul": "either", "Gemm": "either"},
    computing=frozenset(("Add", "Concat", "AveragePool", "GlobalAveragePool")),
    moving=_MOVING,
    clamping=frozenset(("Relu",)),
    activations=("int8",),
    weights=("int8",),
    asymmetric=False,
    products_of_activations=True,
)

# Any runtime that reads QDQ graphs: the common ground.
ANY = ORT_CPU
