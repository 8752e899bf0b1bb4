"""Which operands and results of a node may have another floating-point type, by the operator's own schema.

A type letter of the schema (``T``) that now stands for float32 may stand for the other type where its constraint lists
it. Operands of a fixed type (the scales of a Resize) stay. So does a result whose letter no operand has: an attribute
or the standard decides it (the mean of a LayerNormalization).

Source: the type constraints in ONNX ``docs/Operators.md`` by version; for com.microsoft those of ONNX Runtime.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.rewrite import schema

FLOAT = ir.DataType.FLOAT

_MOVING_NAMES = (
    "Identity Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather GatherElements GatherND Concat Split Expand "
    "Tile DepthToSpace SpaceToDepth Pad Where Max Min Relu Neg Abs MaxPool GlobalMaxPool ReduceMax ReduceMin TopK "
    "Compress Trilu ReverseSequence Dropout"
)
_HEAVY_NAMES = "MatMul Gemm Conv ConvTranspose Einsum Attention MultiHeadAttention GroupQueryAttention LSTM GRU RNN"
_RANDOM_NAMES = "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli"
_MOVING = frozenset(_MOVING_NAMES.split())
_RANDOM = frozenset(_RANDOM_NAMES.split())
_TYPED_BY_ATTRIBUTE = frozenset(("Cast", "ConstantOfShape"))
_QUANTISERS = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))
HEAVY = frozenset(_HEAVY_NAMES.split())
"""Operators whose time is worth the casts around them."""


class Kind(enum.Enum):
    """How a node takes to another type."""

    ARITHMETIC = "rounds"
    MOVING = "only chooses and moves numbers, so that rounding before it is rounding after it"
    READING = "gives out no floating-point numbers"


@dataclass(frozen=True)
class Form:
    """What of a node can get the other type: positions of operands and results."""

    kind: Kind
    operands: tuple[int, ...]
    results: tuple[int, ...]


class Refusal(Exception):
    """A node stays as it is; the message is the reason."""


def form(node: ir.Node, version: int, other: ir.DataType) -> Form | None:
    """The form of a node in another type; None for a node without float32 numbers.

    Args:
        node: not a call of a local function.
        version: of the node's operator set.
        other: the type.

    Raises:
        Refusal: it has float32 numbers and must keep them.
    """
    letters = _letters(node, version)
    if any(gir.subgraphs(node)):
        raise Refusal("what If, Loop and Scan compute, and what goes in and out, stays float32")
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    if any(value.type is not None and not isinstance(value.type, ir.TensorType) for value in values):
        raise Refusal("sequences and optional values stay float32")
    operands = [index for index, value in enumerate(node.inputs) if value is not None and value.dtype == FLOAT]
    results = [index for index, value in enumerate(node.outputs) if value.dtype == FLOAT]
    if not operands and not results:
        if any(value.name and value.dtype is None for value in node.outputs):
            raise Refusal("its types are not known")
        return None
    if letters is None:
        raise Refusal(f"the types that {node.domain}::{node.op_type} takes are not known")
    if node.op_type in _QUANTISERS:
        raise Refusal("quantised numbers keep their float32 scales")
    if node.op_type in _RANDOM:
        raise Refusal("it is random")
    if gir.is_op(node, "MeanVarianceNormalization"):
        raise Refusal("its standard definition holds float32 constants")
    if gir.is_op(node, "ScatterElements", "ScatterND") and gir.attribute(node, "reduction", "none") != "none":
        raise Refusal("ONNX Runtime's CPU provider cannot reduce 16-bit numbers there, so nothing could be proven")
    if gir.has_reference(node):
        raise Refusal("an attribute is a parameter of the function")
    name = other.name.lower()
    if gir.is_op(node, *_TYPED_BY_ATTRIBUTE) and results:
        if gir.is_op(node, "Cast") and node.inputs[0] is not None and node.inputs[0].dtype == other:
            return None  # its users take what it is a cast of
        if other not in letters.allowed(letters.results[0]):
            raise Refusal(f"{node.op_type} cannot give {name} in opset {version}")
        return Form(Kind.MOVING, tuple(operands), (0,))
    bound = {letters.operands[index] for index in operands}
    fitting = {letter for letter in bound if other in letters.allowed(letter)}
    for index in results:
        letter, value = letters.results[index], node.outputs[index]
        if letter in bound and letter not in fitting:
            raise Refusal(f"{node.op_type} does not compute in {name} in opset {version}")
        is_used = value.uses() or value.is_graph_output()
        if letter not in bound and is_used and bound and not gir.is_op(node, "LayerNormalization"):
            raise Refusal(f"no operand decides the type of its result '{value.name}'")
    narrowed = tuple(index for index in operands if letters.operands[index] in fitting)
    follow = tuple(index for index in results if letters.results[index] in fitting)
    if results and not follow:
        raise Refusal(f"an attribute of {node.op_type} says that it gives float32")
    if not narrowed:
        raise Refusal(f"{node.op_type} takes only float32")
    kind = Kind.READING if not results else Kind.MOVING if gir.is_op(node, *_MOVING) else Kind.ARITHMETIC
    return Form(kind, narrowed, follow)


@dataclass(frozen=True)
class _Letters:
    """The type letters of one node's operands and results."""

    operands: tuple[str, ...]
    results: tuple[str, ...]
    constraints: Mapping[str, frozenset[ir.DataType]]

    def allowed(self, letter: str) -> frozenset[ir.DataType]:
        return self.constraints.get(letter, frozenset())


def _letters(node: ir.Node, version: int) -> _Letters | None:
    domain = "" if node.domain in gir.STANDARD_DOMAINS else node.domain
    counts = len(node.inputs), len(node.outputs)
    if domain == "com.microsoft":
        known = _of_runtime().get(node.op_type)
        if known is None:
            return None
        operands, results, constraints = known
        return _Letters(_spread(operands, counts[0]), _spread(results, counts[1]), constraints)
    operands = schema.operand_types(domain, node.op_type, version, counts[0]) or () if counts[0] else ()
    results = schema.result_types(domain, node.op_type, version, counts[1])
    if results is None:
        return None
    constraints = {
        letter: schema.allowed_types(domain, node.op_type, version, letter) for letter in {*operands, *results}
    }
    return _Letters(operands, results, constraints)


def _spread(letters: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The last letter of a schema holds for all that follow."""
    return tuple(letters[min(index, len(letters) - 1)] for index in range(count)) if letters else ("",) * count


_Known = tuple[tuple[str, ...], tuple[str, ...], Mapping[str, frozenset[ir.DataType]]]


@cache
def _of_runtime() -> dict[str, _Known]:
    """Type letters of ONNX Runtime's own operators; none where this build of it does not tell."""
    try:
        from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
    except ImportError:
        return {}
    found: dict[str, _Known] = {}
    for item in get_all_operator_schema():
        if item.domain == "com.microsoft":
            constraints = {
                entry.type_param_str: frozenset(
                    kind for text in entry.allowed_type_strs if (kind := _data_type(text)) is not None
                )
                for entry in item.type_constraints
            }
            operands = tuple(entry.typeStr for entry in item.inputs)
            found[item.name] = operands, tuple(entry.typeStr for entry in item.outputs), constraints
    return found


def _data_type(text: str) -> ir.DataType | None:
    """``tensor(float16)`` as an element type."""
    return ir.DataType.__members__.get(text.removeprefix("tensor(").removesuffix(")").upper())
