"""What ``onnx_ir`` leaves out when it serialises a model, put back: the counterpart of ``carried.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError

from .carried import (
    ANNOTATIONS,
    CONSTANT_INPUTS_BEFORE,
    INPUTS,
    TRAINING,
    TYPES,
    SparseTensor,
    ir_graphs,
    ir_roots,
)
from .protos import graphs, roots, tensors


def complete(proto: onnx.ModelProto, model: ir.Model, sparse: dict[int, SparseTensor]) -> None:
    """Put into a serialised model what ``onnx_ir`` left out.

    Args:
        proto: the model as ``onnx_ir`` wrote it.
        model: the model it was written from.
        sparse: by the identity of the value, the sparse initialisers; ``proto`` has empty tensors for them.

    Raises:
        GraphoptError: training information that names an initialiser which is gone.
    """
    pairs = zip(
        (graph for root in ir_roots(model) for graph in ir_graphs(root)),
        (graph for root in roots(proto) for graph in graphs(root)),
        strict=True,
    )
    for graph, written in pairs:
        if not isinstance(written, onnx.GraphProto):
            continue
        _write_sparse(written, graph, sparse)
        _write_types(written, graph.meta.get(TYPES, {}))
        for info in (*written.input, *written.output):
            if not info.HasField("type"):
                info.type.SetInParent()  # ONNX asks for the field, be it empty
        _write_annotations(written, graph.meta.get(ANNOTATIONS, ()))
        if proto.ir_version < CONSTANT_INPUTS_BEFORE and written is not proto.graph:
            _write_as_constants(written)
    if proto.ir_version < CONSTANT_INPUTS_BEFORE:
        _write_inputs(proto.graph, model.graph.meta.get(INPUTS, ()))
    _write_metadata_once(proto)
    training: list[onnx.TrainingInfoProto] = model.graph.meta.get(TRAINING, [])
    for info in training:
        _require_bindings(proto.graph, info)
        proto.training_info.add().CopyFrom(info)


def _write_metadata_once(proto: onnx.ModelProto) -> None:
    """``onnx_ir`` copies a tensor with its metadata and then adds the metadata once more."""
    for root in roots(proto):
        for held in tensors(root):
            entries = held.tensor.metadata_props
            if len(entries) > 1:
                once = {entry.key: entry.value for entry in entries}
                del entries[:]
                for key in sorted(once):
                    entries.add(key=key, value=once[key])


def _write_sparse(written: onnx.GraphProto, graph: ir.Graph, sparse: dict[int, SparseTensor]) -> None:
    found = {value.name: sparse[id(value)] for value in graph.initializers.values() if id(value) in sparse}
    if not found:
        return
    dense = [tensor for tensor in written.initializer if tensor.name not in found]
    order = [tensor.name for tensor in written.initializer if tensor.name in found]
    kept = onnx.GraphProto(initializer=dense)
    written.ClearField("initializer")
    written.initializer.extend(kept.initializer)
    for name in order:
        written.sparse_initializer.add().CopyFrom(found[name].proto)
        written.sparse_initializer[-1].values.name = name


def _write_types(written: onnx.GraphProto, types: Mapping[str, onnx.TypeProto]) -> None:
    if not types:
        return
    described: set[str] = set()
    for infos in (written.input, written.output, written.value_info):
        for info in infos:
            described.add(info.name)
            if info.name in types and info.type.WhichOneof("value") is None:
                info.type.CopyFrom(types[info.name])
    made = {name for node in written.node for name in node.output}
    for name in types:
        if name in made and name not in described:
            written.value_info.add(name=name, type=types[name])


def _write_annotations(written: onnx.GraphProto, unknown: Sequence[onnx.TensorAnnotation]) -> None:
    if not written.quantization_annotation and not unknown:
        return
    once = {annotation.tensor_name: annotation for annotation in (*unknown, *written.quantization_annotation)}
    kept = onnx.GraphProto(quantization_annotation=once.values())
    written.ClearField("quantization_annotation")
    written.quantization_annotation.extend(kept.quantization_annotation)


def _write_as_constants(written: onnx.GraphProto) -> None:
    """Up to IR 3 an initialiser must be an input, which the graphs of an If cannot have."""
    inputs = {info.name for info in written.input}
    constants = [tensor for tensor in written.initializer if tensor.name not in inputs]
    if not constants:
        return
    nodes = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in constants]
    kept = onnx.GraphProto(node=[*nodes, *written.node])
    kept.initializer.extend(tensor for tensor in written.initializer if tensor.name in inputs)
    for name in ("node", "initializer"):
        written.ClearField(name)
        getattr(written, name).extend(getattr(kept, name))


def _write_inputs(graph: onnx.GraphProto, order: tuple[str, ...]) -> None:
    """Name every initialiser among the inputs, at its old place where it has one.

    An input that an initialiser no longer stands for is not among the model's inputs either (``Carried`` took
    it out), so it does not come back.
    """
    inputs = {info.name: info for info in graph.input}
    described = {info.name: info for info in graph.value_info}
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs}
    for name, tensor in constants.items():
        inputs[name] = described.get(name) or onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
    names = [name for name in order if name in inputs]
    names.extend(name for name in inputs if name not in set(order))
    kept = onnx.GraphProto(
        input=[inputs[name] for name in names],
        value_info=[info for info in graph.value_info if info.name not in constants],
    )
    for name in ("input", "value_info"):
        graph.ClearField(name)
        getattr(graph, name).extend(getattr(kept, name))


def _require_bindings(graph: onnx.GraphProto, info: onnx.TrainingInfoProto) -> None:
    known = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    known.update(tensor.name for tensor in info.algorithm.initializer)
    for binding in (*info.initialization_binding, *info.update_binding):
        if binding.key not in known:
            raise GraphoptError(
                f"the training information updates '{binding.key}', which the model no longer has",
                "training_info",
                f"drop it first: model.graph.meta.pop('{TRAINING}')",
            )
