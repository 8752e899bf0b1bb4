"""A model in the form a runtime loads, beyond 2 GB too, and without copying external data.

- A path is handed over as it is.
- A model in memory is serialised. Its external tensors stay where they are: ONNX Runtime is told their folder
  (``session.model_external_initializers_file_folder_path``).
- More than 1.9 GB in memory, external data in several folders, or in files that were exchanged since: the
  model is first written to a temporary folder.

For taps the graph's outputs are replaced in the serialised form only: the model itself is never touched.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import load, save
from graphopt.ir.completed import complete
from graphopt.ir.external_data import MappedTensor
from graphopt.ir.layout import slots
from graphopt.ir.serial import INLINE_LIMIT

_FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"


class Loadable:
    """A model to load, once or many times with other outputs.

    Args:
        model: a model in memory, or the path of a file.
    """

    def __init__(self, model: ir.Model | str | Path) -> None:
        self._model: ir.Model | None = None
        self.path: Path | None = None
        if isinstance(model, ir.Model):
            self._model, self.name = model, model.graph.name or "model"
        else:
            self.path, self.name = Path(model), str(model)
            if not self.path.is_file():
                raise GraphoptError("there is no such file", str(self.path), "check the path")
        self._proto: onnx.ModelProto | None = None
        self._folder: str | None = None
        self._written: tempfile.TemporaryDirectory[str] | None = None

    def payload(self, outputs: Sequence[str] | None = None) -> tuple[str | bytes, dict[str, str]]:
        """What to give to ``InferenceSession``: path or bytes, and session config entries.

        Args:
            outputs: inner tensors or outputs of the main graph that shall be the outputs instead of its own.
        """
        if self.path is not None and outputs is None:
            return str(self.path), {}
        proto = self._serialised()
        entries = {} if self._folder is None else {_FOLDER_ENTRY: self._folder}
        if outputs is None:
            return proto.SerializeToString(), entries
        own = list(proto.graph.output)
        kept = {item.name: item for item in own}
        try:
            del proto.graph.output[:]
            proto.graph.output.extend(kept.get(name) or onnx.ValueInfoProto(name=name) for name in outputs)
            return proto.SerializeToString(), entries
        finally:
            del proto.graph.output[:]
            proto.graph.output.extend(own)

    def whole(self) -> onnx.ModelProto:
        """The model with all its weights in one message (for the reference evaluator)."""
        if self.path is not None:
            return onnx.load(self.path)
        proto = onnx.ModelProto()
        proto.CopyFrom(self._serialised())
        if self._folder is not None:
            onnx.load_external_data_for_model(proto, self._folder)
        return proto

    def _serialised(self) -> onnx.ModelProto:
        """The message without its external data; sets the folder where that lies."""
        if self._proto is None:
            if self._model is None:
                assert self.path is not None
                self._model = load(self.path)
            inline, folders = _weights(self._model)
            if inline > INLINE_LIMIT or len(folders) > 1:
                self._proto = self._write(self._model)
            else:
                self._proto = ir.serde.serialize_model(self._model)
                complete(self._proto, self._model, {})
                self._folder = next(iter(folders), None)
        return self._proto

    def _write(self, model: ir.Model) -> onnx.ModelProto:
        self._written = tempfile.TemporaryDirectory(prefix="graphopt-")
        self._folder = self._written.name
        target = Path(self._folder, "model.onnx")
        save(model, target)
        return onnx.load(target, load_external_data=False)


def _weights(model: ir.Model) -> tuple[int, set[str]]:
    """Bytes of the tensors in memory, and the folders of the external ones ("" for one exchanged since)."""
    inline, folders = 0, set[str]()
    for tensor, _ in slots(model):
        if not isinstance(tensor, ir.ExternalTensor):
            inline += tensor.nbytes if tensor.dtype != ir.DataType.STRING else 0
        elif tensor.size and isinstance(tensor, MappedTensor) and not _current(tensor):
            folders.update(("", str(tensor.base_dir)))
        else:
            folders.add(os.path.realpath(tensor.base_dir))
    return inline, folders


def _current(tensor: MappedTensor) -> bool:
    """True while the path still leads to the file the tensor was loaded from."""
    try:
        now = os.stat(tensor.file.path)
    except OSError:
        return False
    return tensor.file._identity == (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)  # pyright: ignore[reportPrivateUsage]
