"""Loading and saving models.

``load`` trusts nothing: format, versions, names, order and every reference to external data are checked
before ``onnx_ir`` sees the model, because it would accept and silently mend some of what is wrong. Weights
stay on disk. ``save`` writes whole files or none, keeps what ``onnx_ir`` cannot hold (``carried.py``), and
moves the weights of large models out of the protobuf, which ends at 2 GB.

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
from .layout import hold
from .reading import SYNTAX_SUFFIX, TEXT_SUFFIXES, read_proto
from .serial import from_proto, serialize


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Load an ONNX model without reading its weights.

    Protobuf text (``.textproto``, ``.pbtxt``, ``.prototxt``) and ONNX's own syntax (``.onnxtxt``) are read too.
    External weights are memory-mapped on first use, so a model of any size loads at once. What can be put
    right without guessing is: nodes out of order are sorted, names of a subgraph's inputs or initialisers
    that hide outer ones are changed, ``ai.onnx`` becomes ``""``. Up to IR version 3, inputs that only name an
    initialiser are taken off ``graph.inputs``: runtimes treat those initialisers as constants (``save``
    writes the entries again).

    Raises:
        GraphoptError: no such file, not an ONNX model, truncated, unknown versions, external data that is
            missing, too short or outside the model's folder, names or order against the ONNX rules.
    """
    with placed(path):
        return from_proto(read_proto(path), path)


def save(model: ir.Model, path: str | os.PathLike[str], *, external_above: int | None = None) -> None:
    """Save a model, whole or not at all; the model in memory stays as it is and usable.

    Weights go to ``<name>.data`` beside the model, streamed, when the model was loaded with external data or
    when they are more than 1.9 GB; tensors up to 1 KiB stay inside. The same model gives the same bytes. A
    model may be written onto the files it was loaded from. The data file is put into place just before the
    model file; a power cut between these two renames leaves the old model with the new data.

    Args:
        model: the model.
        path: of the model file.
        external_above: put every tensor of more bytes than that into the data file, however small the model is, and
            leave the others inside; None decides as said above.

    Raises:
        GraphoptError: the folder is missing or read-only, the disk is full, or the model holds something that
            the format cannot. Nothing is left behind then.
    """
    target = os.fspath(path)
    if target.endswith(SYNTAX_SUFFIX):
        raise GraphoptError("the ONNX text syntax cannot hold every model", target, "save as .onnx or .textproto")
    with placed(path), Staging() as staging:
        location = os.path.basename(target) + ".data"
        if external_above is None:
            proto, layout = serialize(model, location)
        else:
            proto, layout = serialize(model, location, outside=True, above=external_above)
        content = _encode(proto, target)
        if layout:
            data = os.path.join(os.path.dirname(target), layout.location)
            hold(model, data)
            staging.attempt(data, layout.write)
        staging.write(target, content)
        staging.commit()


@contextmanager
def placed(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the file to the place of an error that only names a node or tensor in it."""
    name = os.fspath(path)
    try:
        yield
    except GraphoptError as error:
        if name in error.where:
            raise
        where = f"{error.where} in {name}" if error.where else name
        raise GraphoptError(error.what, where, error.hint, usage=error.usage) from error.__cause__
    except (MemoryError, RecursionError) as error:
        raise GraphoptError("the model does not fit into memory", name, "close other programs") from error


def _encode(proto: onnx.ModelProto, target: str) -> bytes:
    try:
        if target.endswith(TEXT_SUFFIXES):
            return text_format.MessageToString(proto).encode()
        return proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise GraphoptError("the graph alone is over 2 GB, which protobuf cannot hold", target, "split it") from error
