"""Whatever no output depends on goes.

In this order, each step seeing what the last one freed: nodes (users before producers), initialisers,
optional outputs (the tensor is no longer computed), omitted inputs at the end of a list, local functions no
reachable node calls, imports of operator sets nothing uses, and with ``inputs`` the model's unused inputs. An
optional output is dropped only where that does not change what the others are: Dropout's mask, MaxPool's
indices, LSTM's, GRU's and RNN's outputs, Unique's, LayerNormalization's and SoftmaxCrossEntropyLoss's extra
ones; never BatchNormalization's, whose number selects training before version 14, nor Attention's, which come
in pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir
from onnx import defs

from graphopt.events import Site, Sites
from graphopt.ir import (
    STANDARD_DOMAINS,
    Body,
    bodies,
    dead_initializers,
    dead_nodes,
    is_op,
    remove_dead,
    where,
)
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

# operator -> the positions of outputs that can be left out without any effect on the others
_OPTIONAL_OUTPUTS = {
    "Dropout": (1,),
    "GRU": (0, 1),
    "LSTM": (0, 1, 2),
    "LayerNormalization": (1, 2),
    "MaxPool": (1,),
    "RNN": (0, 1),
    "SoftmaxCrossEntropyLoss": (1,),
    "Unique": (1, 2, 3),
}


@dataclass(frozen=True)
class RemoveUnused(Pass):
    """Removes what contributes to no output.

    A node of a domain nobody has described may have an effect of its own and stays. The model's outputs are
    always kept.

    Attributes:
        inputs: remove the model's unused inputs too; callers then may no longer feed them.
    """

    name: ClassVar[str] = "remove-unused"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    keeps_shapes: ClassVar[bool] = True
    changes_interface: ClassVar[bool] = True  # only with ``inputs``

    inputs: bool = False

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per thing removed."""
        for node in dead_nodes(model):
            yield Site(where(node), "nothing uses its outputs, removed", partial(remove_dead, node))
        for value in dead_initializers(model):
            yield Site(where(value), "nothing uses the initialiser, removed", partial(_delete, value))
        for body in bodies(model):
            for node in body.nodes():
                yield from _trim(node, body)
        called = _reachable_functions(model)
        for identifier, function in list(model.functions.items()):
            if identifier not in called:
                yield Site(_name(function), "nothing calls it, removed", partial(model.functions.pop, identifier))
        for body in reversed(tuple(bodies(model))):  # functions first: the main graph imports what they do
            yield from _unused_imports(body, model)
        if self.inputs:
            for value in list(model.graph.inputs):
                if not (value.uses() or value.is_graph_output()):
                    place = f"input '{value.name}'"
                    yield Site(place, "nothing uses it, removed", partial(_remove_input, model, value))


def _delete(value: ir.Value) -> None:
    assert value.graph is not None
    del value.graph.initializers[value.name or ""]


def _remove_input(model: ir.Model, value: ir.Value) -> None:
    model.graph.inputs.remove(value)
    if value.is_initializer():
        _delete(value)


def _trim(node: ir.Node, body: Body) -> Iterator[Site]:
    """Optional outputs nobody uses, and omitted inputs at the end."""
    positions = _OPTIONAL_OUTPUTS.get(node.op_type, ()) if is_op(node, node.op_type) else ()
    unused = [
        node.outputs[position]
        for position in positions
        if position < len(node.outputs) and _is_droppable(node.outputs[position]) and _is_optional(node, position, body)
    ]
    if unused and len(unused) < len([output for output in node.outputs if output.name != ""]):
        names = ", ".join(f"'{output.name}'" for output in unused)
        text = f"nothing uses its optional output {names}, left out"
        yield Site(where(node), text, partial(_drop, node, unused))
    if node.domain in STANDARD_DOMAINS and node.inputs and node.inputs[-1] is None:
        length = max(_given(node), _fewest_inputs(node, body))
        if length < len(node.inputs):
            yield Site(where(node), "omitted inputs at the end, removed", partial(node.resize_inputs, length))


def _is_droppable(output: ir.Value) -> bool:
    return output.name != "" and not (output.uses() or output.is_graph_output())


def _is_optional(node: ir.Node, position: int, body: Body) -> bool:
    """What the operator's schema says in the version in force: some outputs became optional later."""
    schema = _schema(node, body)
    return schema is not None and schema.outputs[position].option == defs.OpSchema.FormalParameterOption.Optional


def _drop(node: ir.Node, unused: list[ir.Value]) -> None:
    for output in unused:
        output.name = ""
    length = len(node.outputs)
    while length and _is_left_out(node.outputs[length - 1]):
        length -= 1
    node.resize_outputs(length)


def _is_left_out(output: ir.Value) -> bool:
    return output.name == "" and not output.uses()


def _given(node: ir.Node) -> int:
    """The length of the inputs without omitted ones at the end."""
    return max((index for index, value in enumerate(node.inputs, start=1) if value is not None), default=0)


def _fewest_inputs(node: ir.Node, body: Body) -> int:
    """How long the operator's schema wants the list to be (Loop has both its first inputs optional)."""
    schema = _schema(node, body)
    return len(node.inputs) if schema is None else schema.min_input


def _schema(node: ir.Node, body: Body) -> defs.OpSchema | None:
    try:
        return defs.get_schema(node.op_type, body.version(), "")
    except defs.SchemaError:
        return None


def _reachable_functions(model: ir.Model) -> set[ir.OperatorIdentifier]:
    """The functions the main graph calls, directly or through others."""
    main, *others = bodies(model)
    functions = {body.function.identifier(): body for body in others if body.function is not None}
    called: set[ir.OperatorIdentifier] = set()
    pending = [main]
    while pending:
        for node in pending.pop().nodes():
            identifier = node.op_identifier()
            if identifier in functions and identifier not in called:
                called.add(identifier)
                pending.append(functions[identifier])
    return called


def _unused_imports(body: Body, model: ir.Model) -> Iterator[Site]:
    """A function needs its own domains; the main graph also those of all functions, into which a runtime looks."""
    used = {node.domain for node in body.nodes()} | STANDARD_DOMAINS
    if body.function is None:
        for function in model.functions.values():
            used |= {function.domain, *function.opset_imports}
    place = "the model" if body.function is None else _name(body.function)
    imports = body.graph.opset_imports
    for domain in [domain for domain in imports if domain not in used]:
        text = f"nothing uses the operator set '{domain}', import removed"
        yield Site(place, text, partial(imports.pop, domain))


def _name(function: ir.Function) -> str:
    return f"function '{function.domain}::{function.name}'"
