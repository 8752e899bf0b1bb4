"""What ``onnx_ir`` 1.1.0 cannot hold, carried past it so that nothing is lost between load and save.

| in the file | in ``onnx_ir`` alone | here |
|---|---|---|
| ``sparse_initializer`` | dropped | an initialiser whose tensor is a ``SparseTensor``, written back sparse |
| Constant with ``sparse_value`` | refused | the same: runtimes treat both alike |
| ``training_info`` | dropped | kept on the main graph, written back |
| map and opaque types (scikit-learn) | refused or dropped | kept by tensor name on their graph, written back |
| quantization annotations of unknown tensors | dropped | kept on their graph, written back |
| metadata of tensors, annotation of an input that is an output | written twice | written once |
| inputs that only name an initialiser (IR 3) | overridable inputs | constants; ``save`` adds the inputs again |

Other sparse attributes, device configurations below IR version 11 and map types in attributes are refused
with a reason. Dropped on purpose: ``value_info`` of tensors that do not exist, checksums of external files (the
files are rewritten), all but the last of metadata entries with one key.

``completed.py`` is the way back. The store is ``graph.meta``, which ``Model.clone`` copies. ``Model.meta`` it
does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError

from .protos import graphs, node_place, roots, tensors
from .walk import subgraphs as ir_subgraphs

TRAINING = "graphopt.training_info"
TYPES = "graphopt.types"
ANNOTATIONS = "graphopt.annotations"
INPUTS = "graphopt.inputs"

_DEVICES_SINCE = 11
CONSTANT_INPUTS_BEFORE = 4


class SparseTensor(ir.Tensor[Any]):
    """A sparse initialiser: an ordinary tensor to every reader, made dense when it is read, saved sparse."""

    def __init__(self, proto: onnx.SparseTensorProto, name: str | None = None) -> None:
        values = proto.values
        self.proto = proto
        super().__init__(
            _Dense(proto), ir.DataType(values.data_type), shape=ir.Shape(tuple(proto.dims)), name=name or values.name
        )


class _Dense:
    """Makes the array when it is asked for; indices are flat (rank 1) or coordinates (rank 2)."""

    def __init__(self, proto: onnx.SparseTensorProto) -> None:
        self._proto = proto

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._proto.dims)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        values = ir.serde.deserialize_tensor(self._proto.values).numpy()
        indices = ir.serde.deserialize_tensor(self._proto.indices).numpy()
        dense = np.zeros(self.shape, values.dtype)
        if indices.ndim == 2:
            dense[tuple(indices.T)] = values
        else:
            dense.reshape(-1)[indices] = values
        return dense


@dataclass(slots=True)
class _OfGraph:
    sparse: list[onnx.SparseTensorProto] = field(default_factory=list["onnx.SparseTensorProto"])
    types: dict[str, onnx.TypeProto] = field(default_factory=dict[str, "onnx.TypeProto"])
    annotations: list[onnx.TensorAnnotation] = field(default_factory=list["onnx.TensorAnnotation"])


class Carried:
    """Takes out of a parsed model what ``onnx_ir`` cannot hold, and puts it into the deserialised one.

    Raises:
        GraphoptError: something that can be carried neither by ``onnx_ir`` nor past it.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._graphs: list[_OfGraph] = []
        self._training = [_copy(info) for info in proto.training_info]
        for info in self._training:
            _refuse_external(info)
        proto.ClearField("training_info")
        old_devices = proto.ir_version < _DEVICES_SINCE
        if proto.configuration and old_devices:
            raise _devices("the model")
        for root in roots(proto):
            for graph in graphs(root):
                for node in graph.node:
                    if old_devices and node.device_configurations:
                        raise _devices(node_place(node))
                    _refuse_attributes(node, sparse_constants=isinstance(root, onnx.GraphProto))
                self._graphs.append(_take(graph) if isinstance(graph, onnx.GraphProto) else _OfGraph())
        self._inputs = _input_order(proto)

    def put_into(self, model: ir.Model) -> None:
        """Complete the deserialised model. Call it before its nodes are moved."""
        found = [graph for root in ir_roots(model) for graph in ir_graphs(root)]
        for graph, held in zip(found, self._graphs, strict=True):
            for sparse in held.sparse:
                graph.initializers[sparse.values.name].const_value = SparseTensor(sparse)
            if held.types:
                graph.meta[TYPES] = held.types
            if held.annotations:
                graph.meta[ANNOTATIONS] = held.annotations
        if self._training:
            model.graph.meta[TRAINING] = self._training
        if self._inputs:
            model.graph.meta[INPUTS] = self._inputs
            real = [value for value in model.graph.inputs if not value.is_initializer()]
            model.graph.inputs.clear()
            model.graph.inputs.extend(real)


def ir_roots(model: ir.Model) -> Iterator[ir.Graph]:
    """In the order of ``protos.roots``."""
    yield model.graph
    for function in model.functions.values():
        yield function.graph


def ir_graphs(root: ir.Graph) -> Iterator[ir.Graph]:
    """In the order of ``protos.graphs``."""
    pending = [root]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph:
            if node.attributes:
                pending.extend(ir_subgraphs(node))


def _copy(info: onnx.TrainingInfoProto) -> onnx.TrainingInfoProto:
    copied = onnx.TrainingInfoProto()
    copied.CopyFrom(info)
    return copied


def _devices(place: str) -> GraphoptError:
    return GraphoptError(
        f"device configurations need IR version {_DEVICES_SINCE}",
        place,
        "raise the model's IR version or remove them",
    )


def _refuse_external(info: onnx.TrainingInfoProto) -> None:
    for graph in (info.initialization, info.algorithm):
        for held in tensors(graph):
            if held.tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise GraphoptError("external data in the training information is not supported", held.place)


_SPARSE = frozenset((onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS))


def _refuse_attributes(node: onnx.NodeProto, *, sparse_constants: bool) -> None:
    for attribute in node.attribute:
        if attribute.type in _SPARSE and not (sparse_constants and _is_sparse_constant(node)):
            raise GraphoptError(f"the sparse attribute '{attribute.name}' is not supported", node_place(node))
        if attribute.type == onnx.AttributeProto.TYPE_PROTO and _is_exotic(attribute.tp):
            raise GraphoptError(f"the type in attribute '{attribute.name}' is not supported", node_place(node))
        if attribute.type == onnx.AttributeProto.TYPE_PROTOS and any(map(_is_exotic, attribute.type_protos)):
            raise GraphoptError(f"the types in attribute '{attribute.name}' are not supported", node_place(node))


def _is_sparse_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx") and len(node.attribute) == 1


def _is_exotic(kind: onnx.TypeProto) -> bool:
    """True for map and opaque types, and for sequences and optionals of them."""
    while True:
        field_name = kind.WhichOneof("value")
        if field_name in ("map_type", "opaque_type"):
            return True
        if field_name not in ("sequence_type", "optional_type"):
            return False
        kind = getattr(kind, field_name).elem_type


def _take(graph: onnx.GraphProto) -> _OfGraph:
    held = _OfGraph()
    for node in [node for node in graph.node if any(a.type in _SPARSE for a in node.attribute)]:
        graph.sparse_initializer.add().CopyFrom(node.attribute[0].sparse_tensor)
        graph.sparse_initializer[-1].values.name = node.output[0]
        graph.node.remove(node)
    for sparse in graph.sparse_initializer:
        _require_fitting(sparse)
        kept = onnx.SparseTensorProto()
        kept.CopyFrom(sparse)
        held.sparse.append(kept)
        graph.initializer.add(name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims)
    graph.ClearField("sparse_initializer")
    for infos in (graph.input, graph.output, graph.value_info):
        for info in infos:
            if _is_exotic(info.type):
                held.types[info.name] = onnx.TypeProto()
                held.types[info.name].CopyFrom(info.type)
                info.ClearField("type")
    if graph.quantization_annotation:
        known = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
        known.update(name for node in graph.node for name in node.output)
        for annotation in graph.quantization_annotation:
            if annotation.tensor_name not in known:
                held.annotations.append(onnx.TensorAnnotation())
                held.annotations[-1].CopyFrom(annotation)
    return held


def _require_fitting(sparse: onnx.SparseTensorProto) -> None:
    place, dims = f"sparse initializer '{sparse.values.name}'", tuple(sparse.dims)
    indices = ir.serde.deserialize_tensor(sparse.indices).numpy()
    count = math.prod(sparse.values.dims)
    if indices.shape not in ((count,), (count, len(dims))):
        raise GraphoptError(f"it has {count} values and indices of shape {list(indices.shape)}", place)
    limits = dims if indices.ndim == 2 else (math.prod(dims),)
    if count and ((indices < 0).any() or (indices.reshape(count, -1).max(axis=0) >= limits).any()):
        raise GraphoptError(f"it has indices outside its shape {list(dims)}", place)


def _input_order(proto: onnx.ModelProto) -> tuple[str, ...]:
    """The main graph's inputs where some of them only name an initialiser, which makes it a constant up to IR 3."""
    if proto.ir_version >= CONSTANT_INPUTS_BEFORE:
        return ()
    constants = {tensor.name for tensor in proto.graph.initializer}
    names = tuple(info.name for info in proto.graph.input)
    return names if constants.intersection(names) else ()
