"""Tensors that two values can share without sharing a name.

onnx_ir writes a value's name into its tensor, so a tensor that a copy of the model shares with the original would be
renamed in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from .carried import SparseTensor
from .walk import graphs

_NATIVE = frozenset(
    (ir.DataType.BOOL, ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8,
     ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT8, ir.DataType.UINT16,
     ir.DataType.UINT32, ir.DataType.UINT64)
)  # fmt: skip
_FEW_BYTES = 1024


def detached(tensor: ir.TensorProtocol, name: str | None = None) -> ir.TensorProtocol:
    """The same elements under a name of their own, neither copied nor read, unless they are few.

    External data stay external: they are only mapped when they are read, and written as what they are. A few elements
    in a protobuf message are decoded here, once for all who will ask for them.
    """
    if type(tensor) is ir.TensorProtoTensor:  # the most frequent kind; isinstance asks for every property
        few = tensor.dtype in _NATIVE and tensor.nbytes <= _FEW_BYTES
        return _decoded(tensor, name) if few else _lazy(tensor, name, lambda: tensor)
    if isinstance(tensor, ir.ExternalTensor):
        return ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
            base_dir=tensor.base_dir,
        )
    if isinstance(tensor, SparseTensor):
        return SparseTensor(tensor.proto, name)
    if isinstance(tensor, ir.StringTensor):
        return ir.StringTensor(tensor.raw, shape=tensor.shape, name=name)
    return _lazy(tensor, name, tensor.raw if isinstance(tensor, ir.LazyTensor) else lambda: tensor)


def _decoded(tensor: ir.TensorProtocol, name: str | None) -> ir.Tensor[Any]:
    return ir.Tensor(
        tensor.numpy(),  # of a type of numpy's own, which says what it is
        name=name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _lazy(tensor: ir.TensorProtocol, name: str | None, read: Callable[[], ir.TensorProtocol]) -> ir.LazyTensor:
    return ir.LazyTensor(
        read,
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def copy_model(model: ir.Model) -> ir.Model:
    """A copy whose edits and renamings the original never sees; weights are shared, not copied."""
    copy = model.clone()
    for graph in graphs(copy):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = detached(value.const_value, value.name)
        for node in graph:
            for item in tuple(node.attributes.values()):
                if not item.is_ref() and item.type == ir.AttributeType.TENSOR:
                    tensor = item.as_tensor()
                    node.attributes.add(ir.AttrTensor(item.name, detached(tensor, tensor.name)))
    return copy
