"""An instance of a pattern put into a model: plainly, in the branches of an If, or in a local function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from .instance import Instance

IR_VERSION = 10
_FUNCTIONS = "graphopt.fuzz"


def _info(name: str, dtype: ir.DataType, shape: Sequence[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, int(dtype), shape)


def _inputs(instance: Instance) -> list[onnx.ValueInfoProto]:
    return [
        _info(name, ir.DataType.from_numpy(elements.dtype), elements.shape) for name, elements in instance.feeds.items()
    ]


def _outputs(named: Sequence[tuple[str, ir.DataType]]) -> list[onnx.ValueInfoProto]:
    return [_info(name, dtype, None) for name, dtype in named]


def _tensor(elements: np.ndarray, name: str) -> onnx.TensorProto:
    return ir.serde.serialize_tensor(ir.tensor(elements, name=name))


def _constant_nodes(instance: Instance) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Constant", [], [name], value=_tensor(elements, name))
        for name, elements in instance.constants.items()
    ]


def _model(
    graph: onnx.GraphProto, instance: Instance, opset: int, functions: Sequence[onnx.FunctionProto] = ()
) -> onnx.ModelProto:
    domains = sorted(instance.domains | ({_FUNCTIONS} if functions else set()))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, functions=functions)


def plain(instance: Instance, opset: int, extra: Sequence[tuple[str, ir.DataType]] = ()) -> onnx.ModelProto:
    """The instance as main graph; ``extra`` values are outputs too."""
    tensors = [_tensor(elements, name) for name, elements in instance.constants.items()]
    outputs = _outputs([*instance.outputs, *extra])
    graph = helper.make_graph(instance.nodes, "main", _inputs(instance), outputs, tensors)
    return _model(graph, instance, opset)


def branches(instance: Instance, opset: int) -> onnx.ModelProto:
    """The instance in both branches of an If, where it captures inputs and constants of the main graph."""
    made: list[onnx.GraphProto] = []
    for branch in ("then", "else"):
        nodes: list[onnx.NodeProto] = []
        inner = {name for node in instance.nodes for name in node.output}
        for node in instance.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for names in (copy.input, copy.output):
                names[:] = [f"{branch}_{name}" if name in inner else name for name in names]
            nodes.append(copy)
        outputs = _outputs([(f"{branch}_{name}", dtype) for name, dtype in instance.outputs])
        made.append(helper.make_graph(nodes, branch, [], outputs))
    names = [name for name, _ in instance.outputs]
    choice = helper.make_node("If", ["condition"], names, then_branch=made[0], else_branch=made[1])
    tensors = [_tensor(elements, name) for name, elements in instance.constants.items()]
    inputs = [*_inputs(instance), _info("condition", ir.DataType.BOOL, [])]
    graph = helper.make_graph([choice], "main", inputs, _outputs(instance.outputs), tensors)
    return _model(graph, instance, opset)


def function(instance: Instance, opset: int) -> onnx.ModelProto:
    """The instance as body of a local function; its constants are Constant nodes."""
    feeds, names = list(instance.feeds), [name for name, _ in instance.outputs]
    imports = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(domain, 1) for domain in sorted(instance.domains)),
    ]
    body = helper.make_function(
        _FUNCTIONS, "Body", feeds, names, [*_constant_nodes(instance), *instance.nodes], imports
    )
    call = helper.make_node("Body", feeds, names, domain=_FUNCTIONS, name="call")
    graph = helper.make_graph([call], "main", _inputs(instance), _outputs(instance.outputs))
    return _model(graph, instance, opset, [body])
