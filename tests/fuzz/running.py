"""Running a model with all tensors of its main graph as outputs: one session where others would take two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

Feed = Mapping[str, np.ndarray]
Tensors = dict[str, np.ndarray]
_DISABLED = ["Pad_Fusion"]  # gives wrong maxima and pads that its own kernels refuse (ONNX Runtime 1.31)


class Running:
    """A model in ONNX Runtime, one thread.

    Args:
        model: is left as it is.
        optimized: as the runtime optimises it at load; inner tensors are not looked at then.

    Raises:
        Exception: of the runtime's, when it does not load.
    """

    def __init__(self, model: onnx.ModelProto, *, optimized: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        content = (model if optimized else _tapped(model)).SerializeToString()
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED
        )
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Feed) -> Tensors | str:
        """The tensors by name, or the runtime's words why there are none."""
        try:
            return dict(zip(self._names, self._session.run(None, dict(feed)), strict=True))
        except Exception as error:  # noqa: BLE001  the runtime's exceptions have no common class of their own
            return str(error)


def _tapped(model: onnx.ModelProto) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(model)
    public = {output.name for output in found.graph.output}
    for node in found.graph.node:
        found.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name and name not in public)
    return found


def run_all(model: onnx.ModelProto, feeds: Sequence[Feed]) -> dict[int, Tensors]:
    """What comes of the feeds that the model accepts; nothing when it does not load."""
    try:
        found = Running(model)
    except Exception:  # noqa: BLE001
        return {}
    results = {index: found.run(feed) for index, feed in enumerate(feeds)}
    return {index: result for index, result in results.items() if not isinstance(result, str)}


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, inner graphs and local functions included."""
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(inner for attribute in node.attribute for inner in attribute.g.node)


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(node.op_type for node in all_nodes(model))


def computes_in_half(model: onnx.ModelProto) -> bool:
    """Whether some of it is computed in float16."""
    half = onnx.TensorProto.FLOAT16
    casts = (item.i for node in all_nodes(model) if node.op_type == "Cast" for item in node.attribute)
    return half in casts or any(item.type.tensor_type.elem_type == half for item in model.graph.input)
