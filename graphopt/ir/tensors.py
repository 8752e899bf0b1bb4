"""Tensors that two values can share without sharing a name.

onnx_ir writes a value's name into its tensor, so a tensor that a copy of the model shares with the original would be
renamed in both.
"""

from __future__ import annotations

import onnx_ir as ir

from .carried import SparseTensor
from .walk import graphs


def detached(tensor: ir.TensorProtocol, name: str | None = None) -> ir.TensorProtocol:
    """The same elements, neither copied nor read, under a name of their own.

    External data stay external: they are only mapped when they are read, and written as what they are.
    """
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
    read = tensor.raw if isinstance(tensor, ir.LazyTensor) else lambda: tensor
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
