"""Loading and saving models.

``load`` trusts nothing: format, versions, names, order and every reference to external data are checked before
``onnx_ir`` sees the model, because it would accept and silently mend some of what is wrong. Weights stay on disk.
``save`` writes whole files or none, keeps what ``onnx_ir`` cannot hold (``carried.py``), and moves the weights of
large models out of the protobuf, which ends at 2 GB.

Sources: ONNX ``docs/IR.md`` (what a model must have), ``docs/ExternalData.md``, ``docs/Versioning.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir
from google.protobuf import text_format
from google.protobuf.message import EncodeError

from graphopt.errors import GraphoptError

from .atomic import Staging
from .carried import Carried, SparseTensor, complete
from .external_data import Layout, MappedTensor, adopt, hold, slots, standing_in
from .protos import views
from .reading import TEXT, read_proto, require_versions
from .references import validate
from .structure import examine
from .unshadow import unshadow

INLINE_LIMIT = 1_900_000_000
"""Bytes of weights that may stay inside the model file; protobuf cannot hold 2 GiB."""

EXTERNAL = "graphopt.external"
"""The mark, in ``model.graph.meta``, of a model that was loaded with external data: it is saved with external data."""


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Load an ONNX model; ``.onnx``, or protobuf text (``.textproto``, ``.pbtxt``, ``.prototxt``), or ``.onnxtxt``.

    External weights are memory-mapped on first use, so a model of any size loads at once. What can be put right
    without guessing is: nodes out of order are sorted, names of a subgraph's inputs or initialisers that hide outer
    ones are changed, ``ai.onnx`` becomes ``""``. Up to IR version 3, inputs that only name an initialiser are taken
    off ``graph.inputs``: runtimes treat those initialisers as constants (``save`` writes the entries again).

    Raises:
        GraphoptError: no such file, not an ONNX model, truncated, unknown versions, external data that is missing,
            too short or outside the model's folder, names or order against the ONNX rules.
    """
    with placed(path):
        return from_proto(read_proto(path), path)


def save(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Save a model, whole or not at all; the model in memory stays as it is and usable.

    Weights go to ``<name>.data`` beside the model, streamed, when the model was loaded with external data or when they
    are more than 1.9 GB; tensors up to 1 KiB stay inside. The same model gives the same bytes. A model may be written
    onto the files it was loaded from. The data file is put into place just before the model file; a power cut
    between these two renames leaves the old model with the new data.

    Raises:
        GraphoptError: the folder is missing or read-only, the disk is full, or the model holds something that the
            format cannot. Nothing is left behind then.
    """
    target = os.fspath(path)
    with placed(path), Staging() as staging:
        proto, layout = serialize(model, os.path.basename(target) + ".data")
        content = _encode(proto, target)
        if layout:
            data = os.path.join(os.path.dirname(target), layout.location)
            hold(model, data)
            staging.attempt(data, layout.write)
        staging.write(target, content)
        staging.commit()


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
        unshadow(model)
    if findings.unsorted:
        for graph in (model.graph, *model.functions.values()):
            graph.sort()
    return model


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one message with all weights inside, for other libraries; nothing is lost.

    Raises:
        GraphoptError: more than 1.9 GB of weights, or something that the format cannot hold.
    """
    inlined = [(slot, _in_memory(slot[0])) for slot in slots(model) if isinstance(slot[0], ir.ExternalTensor)]
    if sum(tensor.nbytes for tensor, _ in slots(model)) > INLINE_LIMIT:
        raise GraphoptError("the model is too large for one protobuf message", "weights", "pass it on as a file")
    with standing_in(inlined):
        return serialize(model, "", outside=False)[0]


def serialize(model: ir.Model, location: str, *, outside: bool | None = None) -> tuple[onnx.ModelProto, Layout]:
    """The model as a message, and the layout of the data file that belongs to it.

    Args:
        model: unchanged afterwards.
        location: the name of the data file as the message gives it.
        outside: whether weights go to the data file; None decides as ``save`` describes.
    """
    found = list(slots(model))
    if outside is None:
        outside = (
            bool(model.graph.meta.get(EXTERNAL))
            or any(isinstance(tensor, ir.ExternalTensor) for tensor, _ in found)
            or sum(tensor.nbytes for tensor, _ in found if not isinstance(tensor, SparseTensor)) > INLINE_LIMIT
        )
    layout = Layout(location)
    replacements: list[tuple[tuple[ir.TensorProtocol, object], ir.TensorProtocol]] = []
    for slot in found:
        tensor = slot[0]
        if isinstance(tensor, SparseTensor):
            replacements.append((slot, Layout("").place(tensor)))
        elif outside and Layout.wants(tensor):
            replacements.append((slot, layout.place(tensor)))
        elif isinstance(tensor, ir.ExternalTensor):
            replacements.append((slot, _in_memory(tensor)))
    sparse = _sparse_values(model) if any(isinstance(tensor, SparseTensor) for tensor, _ in found) else {}
    with standing_in(replacements):  # type: ignore[arg-type]
        try:
            proto = ir.serde.serialize_model(model)
        except Exception as error:
            raise GraphoptError(f"the model cannot be written as ONNX: {_root(error)}", "", "") from error
    _metadata_once(proto)
    complete(proto, model, sparse)
    return proto, layout
