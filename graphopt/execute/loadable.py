"""A model in the form a runtime loads, beyond 2 GB too, and without copying external data.

- A path is handed over as it is.
- A model in memory is serialised. Its external tensors stay where they are: ONNX Runtime is told their folder
  (``session.model_external_initializers_file_folder_path``).
- More than 2 GB in memory, or external data in several folders, is first written to a temporary folder.

For taps the graph's outputs are replaced in the serialised form only: the model itself is never touched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError

_LIMIT = 1_900_000_000  # a protobuf message ends at 2 GB; the rest is room for the graph itself
_FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"


class Loadable:
    """A model to load, once or many times with other outputs.

    Args:
        model: a model in memory, or the path of a file.
    """

    def __init__(self, model: ir.Model | str | Path) -> None:
        self.path = Path(model) if isinstance(model, (str, Path)) else None
        self.name = str(model) if self.path is not None else (model.graph.name or "model")  # type: ignore[union-attr]
        self._model = None if self.path is not None else model
        self._proto: onnx.ModelProto | None = None
        self._folder: str | None = None
        self._written: tempfile.TemporaryDirectory[str] | None = None
        if self.path is not None and not self.path.is_file():
            raise GraphoptError("there is no such file", str(self.path), "check the path")

    def payload(self, outputs: Sequence[str] | None = None) -> tuple[str | bytes, dict[str, str]]:
        """What to give to ``InferenceSession``: path or bytes, and session config entries.

        Args:
            outputs: inner tensors or outputs of the main graph that shall be the outputs instead of its own.
        """
        if self.path is not None and outputs is None:
            return str(self.path), {}
        proto = self._serialisable()
        own = list(proto.graph.output)
        if outputs is not None:
            kept = {item.name: item for item in own}
            del proto.graph.output[:]
            proto.graph.output.extend(kept.get(name) or onnx.ValueInfoProto(name=name) for name in outputs)
        try:
            payload = proto.SerializeToString()
        finally:
            if outputs is not None:
                del proto.graph.output[:]
                proto.graph.output.extend(own)
        return payload, {} if self._folder is None else {_FOLDER_ENTRY: self._folder}

    def whole(self) -> onnx.ModelProto:
        """The model with all its weights in one message (for the reference evaluator).

        Raises:
            GraphoptError: it is larger than 2 GB.
        """
        if self.path is not None:
            return onnx.load(self.path)
        proto = onnx.ModelProto()
        proto.CopyFrom(self._serialisable())
        if self._folder is not None:
            onnx.load_external_data_for_model(proto, self._folder)
        return proto

    def _serialisable(self) -> onnx.ModelProto:
        """The message without its external data; sets the folder where that lies."""
        if self._proto is not None:
            return self._proto
        model = ir.load(self.path) if self.path is not None else self._model
        assert isinstance(model, ir.Model)
        inline, folders = _weights(model)
        if inline > _LIMIT or len(folders) > 1:
            self._written = tempfile.TemporaryDirectory(prefix="graphopt-")
            target = Path(self._written.name, "model.onnx")
            ir.save(model, target, external_data="model.data")
            self._proto, self._folder = onnx.load(target, load_external_data=False), self._written.name
        else:
            self._proto, self._folder = ir.to_proto(model), next(iter(folders), None)
        return self._proto


def _weights(model: ir.Model) -> tuple[int, set[str]]:
    """Bytes of the initialisers held in memory, and the folders of the external ones."""
    inline, folders = 0, set[str]()
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                folders.add(str(Path(tensor.base_dir).resolve()))
            elif tensor is not None:
                inline += tensor.nbytes
    return inline, folders
