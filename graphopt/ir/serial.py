"""From protobuf to the IR and back without loss; the files themselves are the business of ``files.py``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError

from .carried import Carried, SparseTensor
from .completed import complete
from .external_data import adopt
from .layout import SMALL, Layout, Slot, slots, stand_in, standing_in
from .protos import views
from .reading import require_versions
from .references import validate
from .structure import examine
from .tidy import tidy
from .walk import graphs

INLINE_LIMIT = 1_900_000_000
"""Bytes of weights that may stay inside the model file; protobuf cannot hold 2 GiB."""

EXTERNAL = "graphopt.external"
"""The mark, in ``model.graph.meta``, of a model that was loaded with external data: it is saved with external data."""


def from_proto(proto: onnx.ModelProto, path: str | os.PathLike[str] | None = None) -> ir.Model:
    """Turn a parsed model into the IR with all the checks of ``load``.

    Args:
        proto: becomes the property of the model: its tensors are shared, other parts are changed.
        path: the file it came from, where external data is looked up.

    Raises:
        GraphoptError: as ``load``.
    """
    require_versions(proto)
    findings = examine(views(proto))
    references = validate(proto, path)
    carried = Carried(proto)
    try:
        model = ir.serde.deserialize_model(proto)
    except Exception as error:
        raise GraphoptError(f"the model cannot be represented: {_root(error)}", "", "export it anew") from error
    carried.put_into(model)
    if references:
        adopt(model, references)
        model.graph.meta[EXTERNAL] = True
    for owner in (model, *model.functions.values()):
        if "ai.onnx" in owner.opset_imports:
            owner.opset_imports[""] = owner.opset_imports.pop("ai.onnx")
    if findings.shadows:
        tidy(model)
    if findings.unsorted:
        for graph in (model.graph, *model.functions.values()):
            graph.sort()
    return model


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one message with all weights inside, for other libraries; nothing is lost.

    Raises:
        GraphoptError: more than 1.9 GB of weights, or something that the format cannot hold.
    """
    if _bytes_inside(slots(model)) > INLINE_LIMIT:
        raise GraphoptError("the model is too large for one protobuf message", "weights", "pass it on as a file")
    return serialize(model, "", outside=False)[0]


def serialize(
    model: ir.Model, location: str, *, outside: bool | None = None, above: int = SMALL
) -> tuple[onnx.ModelProto, Layout]:
    """The model as a message, and the layout of the data file that belongs to it.

    Args:
        model: the same afterwards as before.
        location: the name of the data file as the message gives it.
        outside: whether large tensors go to the data file; None decides as ``save`` describes.
        above: more bytes than that are large.

    Raises:
        GraphoptError: something in the model cannot be written as ONNX, or what stays inside is over 1.9 GB.
    """
    found = list(slots(model))
    if outside is None:
        outside = (
            EXTERNAL in model.graph.meta
            or any(isinstance(tensor, ir.ExternalTensor) for tensor, _ in found)
            or _bytes_inside(found) > INLINE_LIMIT
        )
    if outside and above > SMALL:
        inside = sum(tensor.nbytes for tensor, _ in found if not Layout.wants(tensor, above) and _has_bytes(tensor))
        if inside > INLINE_LIMIT:
            hint = "ask for a smaller size, so that more go to the data file"
            raise GraphoptError("the weights that would stay inside are too large for one file", "weights", hint)
    layout = Layout(location)
    replacements: list[tuple[Slot, ir.TensorProtocol]] = []
    for slot in found:
        tensor = slot[0]
        if isinstance(tensor, SparseTensor):
            replacements.append((slot, stand_in(tensor, "", 0, 0)))
        elif outside and Layout.wants(tensor, above):
            replacements.append((slot, layout.place(tensor)))
        elif isinstance(tensor, ir.ExternalTensor):
            replacements.append((slot, _in_memory(tensor)))
    sparse = _sparse_values(model)
    with standing_in(replacements):
        try:
            proto = ir.serde.serialize_model(model)
        except Exception as error:
            raise GraphoptError(f"the model cannot be written as ONNX: {_root(error)}") from error
    complete(proto, model, sparse)
    return proto, layout


def _bytes_inside(found: Iterable[Slot]) -> int:
    return sum(tensor.nbytes for tensor, _ in found if _has_bytes(tensor))


def _has_bytes(tensor: ir.TensorProtocol) -> bool:
    return not isinstance(tensor, SparseTensor) and tensor.dtype != ir.DataType.STRING


def _sparse_values(model: ir.Model) -> dict[int, SparseTensor]:
    return {
        id(value): value.const_value
        for graph in graphs(model)
        for value in graph.initializers.values()
        if isinstance(value.const_value, SparseTensor)
    }


def _in_memory(tensor: ir.ExternalTensor) -> ir.Tensor[Any]:
    return ir.Tensor(
        tensor.numpy(),
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props) or None,
    )


def _root(error: BaseException) -> str:
    """The first line of the error at the bottom of a chain: ``onnx_ir`` wraps each level in another one."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
