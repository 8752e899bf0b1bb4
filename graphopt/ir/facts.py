"""What is known about values: constants, shapes, types. Facts only, never a file's declarations."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

STANDARD_DOMAINS = frozenset(("", "ai.onnx"))


def where(item: ir.Node | ir.Value) -> str:
    """How messages name a place: ``Conv 'conv1'`` for a node, ``tensor 'x'`` for a value."""
    if isinstance(item, ir.Value):
        return f"tensor '{item.name}'"
    operator = item.op_type if item.domain in STANDARD_DOMAINS else f"{item.domain}::{item.op_type}"
    label = item.name or next((output.name for output in item.outputs if output.name), "")
    return f"{operator} '{label}'"


def is_op(node: ir.Node | None, *op_types: str, domain: str = "") -> bool:
    """True for a node of one of the operators of the domain (by default the standard one)."""
    if node is None or node.op_type not in op_types:
        return False
    return node.domain == domain or (node.domain in STANDARD_DOMAINS and domain in STANDARD_DOMAINS)


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a value that is the same in every run, or None.

    Constant are: initialisers that no graph input can override (from IR version 4 on, an initialiser that
    is also a graph input is only that input's default), and outputs of Constant nodes.
    """
    if value is None:
        return None
    if value.is_initializer():
        return None if value.is_graph_input() else value.const_value
    producer = value.producer()
    if producer is None or not is_op(producer, "Constant") or has_reference(producer):
        return None
    return _constant_of(producer)


def _constant_of(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node; None for a sparse one."""
    for name, item in node.attributes.data.items():
        match name:
            case "value":
                return item.value  # as_tensor() would try every property of the tensor first
            case "value_float" | "value_floats":
                return ir.tensor(np.array(item.value, dtype=np.float32))
            case "value_int" | "value_ints":
                return ir.tensor(np.array(item.value, dtype=np.int64))
            case "value_string":
                return ir.StringTensor([item.as_string().encode()], shape=ir.Shape([]))
            case "value_strings":
                strings = [text.encode() for text in item.as_strings()]
                return ir.StringTensor(strings, shape=ir.Shape([len(strings)]))
            case _:  # sparse_value
                continue
    return None


def array(value: ir.Value | None, max_elements: int | None = None) -> np.ndarray | None:
    """A constant's elements, read-only by convention, or None when it is no constant or larger than asked for.

    Args:
        value: any value; None (an omitted input) gives None.
        max_elements: larger tensors are not read; None reads any (external data is memory-mapped).
    """
    tensor = constant(value)
    if tensor is None or (max_elements is not None and tensor.size > max_elements):
        return None
    return tensor.numpy()


def scalar(value: ir.Value | None) -> Any:
    """The one element of a constant of size 1 (any rank) as a Python number, or None."""
    elements = array(value, max_elements=1)
    return elements.reshape(()).item() if elements is not None and elements.size == 1 else None


def known_ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """The elements of an integer tensor that are known before the run, as constant or by shape inference."""
    if value is None:
        return None
    tensor = constant(value)
    if tensor is None and value.producer() is not None:
        tensor = value.const_value  # shape inference leaves what it could prove here
    if tensor is None or tensor.size > 4096 or not tensor.dtype.is_integer():
        return None
    return tuple(int(element) for element in tensor.numpy().reshape(-1))


Dim = int | str | None


def dims(value: ir.Value | None) -> tuple[Dim, ...] | None:
    """The shape as ints and symbols, None for a dimension nothing is known of; None when the rank is unknown.

    Two dimensions with the same symbol are equal in every run.
    """
    if value is None:
        return None
    tensor = constant(value)
    shape = tensor.shape if tensor is not None else value.shape
    if shape is None:
        return None
    return tuple([dim if isinstance(dim, int) else dim.value for dim in shape])


def rank(value: ir.Value | None) -> int | None:
    """The number of dimensions, or None."""
    shape = dims(value)
    return None if shape is None else len(shape)


def static_dims(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape when every dimension is a known number, else None."""
    shape = dims(value)
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return tuple(int(dim) for dim in shape if isinstance(dim, int))


def same_shape(first: ir.Value | None, second: ir.Value | None) -> bool:
    """True when both shapes are known to be equal in every run (unknown dimensions are not)."""
    left, right = dims(first), dims(second)
    return left is not None and left == right and None not in left


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute's Python value; the default when it is absent or a reference to a function's parameter.

    Use ``has_reference`` first where a reference must not be taken for the default.
    """
    found = node.attributes.get(name)
    return default if found is None or found.is_ref() else found.value


def has_reference(node: ir.Node) -> bool:
    """True when an attribute is a parameter of the enclosing local function: its value depends on the call."""
    for item in node.attributes.data.values():  # noqa: SIM110  asked of every node
        if item.is_ref():
            return True
    return False
