"""Sound symbolic shape inference.

The rules of the single operators come from the package onnx-shape-inference (symbolic dimensions as SymPy
expressions, elements of shape tensors propagated). The traversal is ours, because a shape that passes rely
on must be a fact:

- shapes that a file declares for inner tensors and outputs are hints, often stale: dropped before inference;
- a graph input's numbers are facts (the runtime refuses other sizes); its symbols are, when they are identifiers:
  exporters write ``?`` or -1 for "unknown", twice in one shape;
- the default of an overridable input is no fact about its elements;
- what a Loop or Scan carries may change its shape from trip to trip: it has one only when it is proven invariant;
- an If's output has a shape only when both branches have;
- what a call of a local function returns follows from its body with that call's inputs;
- inside, a local function knows of its inputs what all its calls agree on.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from functools import cache

import onnx_ir as ir
from onnx_shape_inference import registry

from .declared import declared_shape, defaults_hidden, drop, let_go, unbind
from .elements import follow, forget_elements
from .facts import STANDARD_DOMAINS, attribute, dims, is_op, same_shape
from .recall import Context, Memory
from .sizes import named, sized
from .sound import correct
from .walk import Body, bodies, callers_first, has_subgraphs, nodes, subgraphs

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NUMBER = re.compile(r"-?[0-9]+\Z")
_LONGEST_EXPRESSION = 200
_SCAN_WITHOUT_BATCH = 9  # before, a Scan had a batch axis and a first input of its own
_OPTIMISTIC_DEPTH = 3  # proving a carried shape invariant runs a loop body twice: 2**depth when loops nest
_VISITS = 20  # nodes of local functions looked at for calls, as a multiple of all nodes: calls can nest exponentially


def infer(model: ir.Model) -> list[ir.Node]:
    """Give every value the shape and element type that are certain, and nothing else.

    Afterwards ``graphopt.ir.dims`` and ``known_ints`` answer from these facts. Declared shapes are lost: keep the
    interface first (``graphopt.pipeline`` does).

    Returns:
        nodes whose inference failed inside the operator's rule; their outputs are unknown.
    """
    _prepare()
    memory = Memory.of(model)
    drop(model, memory)
    failed: list[ir.Node] = []
    main, *functions = bodies(model)
    context = memory.context
    with defaults_hidden(main):
        context.reserve_symbol_names(_symbols(main))  # a new size must not get the name of an input's
        for value in main.graph.inputs:
            _clean_input(context, value)
        known = _Functions(functions, _VISITS * sum(1 for _ in nodes(model)) if functions else 0)
        _Inference(context, failed, known, memory).graph(main.graph, depth=0)
    for body, calls in callers_first(functions, [main]) if functions else ():
        unbind(body)
        _bind_to_calls(body.graph, calls)
        _Inference(context.create_child(body.opsets), failed, known).graph(body.graph, depth=0)
    memory.close()
    return list(dict.fromkeys(failed))


@cache
def _prepare() -> None:
    registry.collect()
    importlib.import_module("sympy.tensor.tensor")  # SymPy's first addition imports it: better with the other imports


def _forget_inside(context: Context, graph: ir.Graph) -> None:
    """What a wrong guess has left behind, at every depth."""
    for node in graph:
        for value in node.outputs:
            let_go(value)
            forget_elements(context, value)
        for inner in subgraphs(node):
            _forget_inside(context, inner)


def _symbols(body: Body) -> set[str]:
    return {dim for value in body.graph.inputs for dim in dims(value) or () if isinstance(dim, str)}


def _bind_to_calls(graph: ir.Graph, calls: list[ir.Node]) -> None:
    """Give a function's inputs the types and shapes that all its calls have in common."""
    for index, value in enumerate(graph.inputs):
        given = [call.inputs[index] if index < len(call.inputs) else None for call in calls]
        first = given[0] if given else None
        if first is None or any(item is None for item in given):
            continue
        if first.type is not None and all(item is not None and item.type == first.type for item in given):
            value.type = first.type
            if first.shape is not None and all(item is first or same_shape(item, first) for item in given):
                value.shape = first.shape


def _clean_input(context: Context, value: ir.Value) -> None:
    if value.shape is None:
        return
    cleaned: list[int | ir.SymbolicDim | None] = []
    for dim in value.shape.dims:
        size = dim if isinstance(dim, int) else dim.value
        if isinstance(size, int):
            cleaned.append(size if size >= 0 else None)
        else:
            cleaned.append(named(size) if size is not None and _IDENTIFIER.match(size) else None)
    value.shape = context.name_anonymous_dims_in_shape(ir.Shape(cleaned))


def _settled(dim: int | ir.SymbolicDim) -> int | ir.SymbolicDim | None:
    """A size that remembers its arithmetic; None for an expression that only grows.

    SymPy simplifies 128 / 32 to a symbol of the name "4": that is the number 4.
    """
    if isinstance(dim, int) or dim.value is None:
        return dim
    if dim.value[-1:].isdigit() and _NUMBER.match(dim.value):
        return int(dim.value)
    return sized(dim) if len(dim.value) <= _LONGEST_EXPRESSION else None


class _Functions:
    """The local functions, and how many of their nodes may still be looked at."""

    def __init__(self, functions: list[Body], visits: int) -> None:
        self._bodies = {body.function.identifier(): body for body in functions if body.function is not None}
        self._sizes = {key: sum(1 for _ in body.nodes()) for key, body in self._bodies.items()}
        self._visits = visits

    def __len__(self) -> int:
        return len(self._bodies)

    def body(self, node: ir.Node) -> Body | None:
        """What the node calls; None for an operator, and when too much has been looked at."""
        key = node.op_identifier()
        if key not in self._bodies or self._sizes[key] > self._visits:
            return None
        self._visits -= self._sizes[key]
        return self._bodies[key]


class _Inference:
    """One body's traversal in topological order."""

    def __init__(
        self, context: Context, failed: list[ir.Node], functions: _Functions, memory: Memory | None = None
    ) -> None:
        self._context = context
        self._memory = memory
        self._failed = failed
        self._functions = functions

    def graph(self, graph: ir.Graph, depth: int) -> None:
        for node in graph:
            self._node(node, depth)

    def _node(self, node: ir.Node, depth: int) -> None:
        attributes = tuple(node.attributes.data.values())
        branches = list(subgraphs(node)) if has_subgraphs(node) else []
        called = self._functions.body(node) if self._functions else None
        memory = self._memory
        if memory is None or branches or called is not None or is_op(node, "Loop", "Scan"):
            if memory is not None:
                memory.drop(node)
            self._work_out(node, attributes, branches, called, depth)
            return
        inputs = memory.inputs(node)
        entry = memory.recall(node, attributes, inputs)
        if entry is None:
            for value in node.outputs if memory.has(node) else ():
                let_go(value)
                forget_elements(self._context, value)
            memory.keep(node, attributes, inputs, self._operator(node, attributes))
        elif entry.failed:
            self._failed.append(node)

    def _work_out(
        self, node: ir.Node, attributes: Sequence[ir.Attr], branches: list[ir.Graph], called: Body | None, depth: int
    ) -> None:
        if is_op(node, "Loop", "Scan"):
            self._loop(node, depth)
        elif called is not None:
            self._call(node, called)
        else:
            for branch in branches:
                self.graph(branch, depth)
            self._operator(node, attributes)
            if branches:
                self._keep_what_all_branches_know(node, branches)

    def _operator(self, node: ir.Node, attributes: Sequence[ir.Attr]) -> bool:
        """Ask the rule of the operator; true when it has failed."""
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        rule = registry.get(domain, node.op_type, version=self._context.get_opset_version(domain))
        if rule is None or any(item.is_ref() for item in attributes):
            return False
        failed = False
        try:
            rule(self._context, node)
        except Exception:  # noqa: BLE001  any rule of the library, on any stranger's node: its outputs stay unknown
            failed = True
            self._failed.append(node)
            for output in node.outputs:
                let_go(output)
                forget_elements(self._context, output)
        for output in node.outputs:
            self._settle(output)
        correct(self._context, node)
        follow(self._context, node)
        return failed

    def _call(self, node: ir.Node, body: Body) -> None:
        unbind(body)
        _bind_to_calls(body.graph, [node])
        _Inference(self._context.create_child(body.opsets), self._failed, self._functions).graph(body.graph, depth=0)
        for output, result in zip(node.outputs, body.graph.outputs, strict=False):
            output.type = result.type if result.type is not None else output.type
            output.shape = result.shape

    def _settle(self, value: ir.Value) -> None:
        """Make numbers of numbers, and let go of expressions that only grow: 30 additions and products never end."""
        if value.shape is not None:
            before = value.shape.dims
            after = [dim if type(dim) is int else _settled(dim) for dim in before]
            if any(new is not old for new, old in zip(after, before, strict=True)):
                value.shape = ir.Shape([self._context.new_symbolic_dim() if dim is None else dim for dim in after])
        elements = self._context.noted(value)
        if elements is None:
            return
        settled = [_settled(element) for element in elements]
        if any(item is None for item in settled):
            forget_elements(self._context, value)
        elif any(new is not old for new, old in zip(settled, elements, strict=True)):
            self._context.set_symbolic_value(value, [item for item in settled if item is not None])

    @staticmethod
    def _keep_what_all_branches_know(node: ir.Node, branches: list[ir.Graph]) -> None:
        for index, output in enumerate(node.outputs):
            if any(index >= len(branch.outputs) or branch.outputs[index].shape is None for branch in branches):
                output.shape = None

    def _loop(self, node: ir.Node, depth: int) -> None:
        """Loop and Scan: carried values first on the guess that they keep their shape, then, refuted, without."""
        body = next(subgraphs(node), None)
        if body is None:
            return
        is_loop = node.op_type == "Loop"
        carried = len(node.inputs) - (2 if is_loop else node.attributes["num_scan_inputs"].as_int())
        first_input, first_output = (2, 1) if is_loop else (0, 0)
        initial = list(node.inputs[2:]) if is_loop else list(node.inputs[:carried])
        invariant = depth < _OPTIMISTIC_DEPTH
        while True:
            self._bind(body, node, initial, first_input, invariant)
            self.graph(body, depth + 1)
            outcomes = body.outputs[first_output : first_output + carried]
            if not invariant or all(
                start is not None and dims(start) is not None and dims(start) == dims(outcome)
                for start, outcome in zip(initial, outcomes, strict=False)
            ):
                break
            invariant = False
            _forget_inside(self._context, body)
        for index, output in enumerate(node.outputs):
            source = body.outputs[first_output + index] if first_output + index < len(body.outputs) else None
            if source is not None and source.dtype is not None:
                output.type = source.type
            output.shape = None
            if invariant and index < carried:
                start = initial[index]
                output.shape = start.shape if start is not None else None

    def _bind(self, body: ir.Graph, node: ir.Node, initial: list[ir.Value | None], first: int, invariant: bool) -> None:
        for value in body.inputs:
            value.shape = None
        if first == 2:
            for value in body.inputs[:2]:  # runtimes take the declared rank: 0, or 1 with one element
                declared = declared_shape(value)
                value.shape = ir.Shape([]) if declared is None or declared.rank() == 0 else None
        for start, value in zip(initial, body.inputs[first:], strict=False):
            if start is not None and start.type is not None and value.type is None:
                value.type = start.type
            if invariant and start is not None:
                value.shape = start.shape
        if first == 0 and self._context.opset >= _SCAN_WITHOUT_BATCH:
            self._bind_slices(body, node, len(initial))

    def _bind_slices(self, body: ir.Graph, node: ir.Node, carried: int) -> None:
        """What a Scan hands to its body of each sequence: the same size in every trip, without the scanned axis."""
        axes = attribute(node, "scan_input_axes") or ()
        for index, (sequence, value) in enumerate(zip(node.inputs[carried:], body.inputs[carried:], strict=False)):
            axis = axes[index] if index < len(axes) else 0
            if sequence is None:
                continue
            value.type = value.type or sequence.type
            if sequence.shape is not None and -len(sequence.shape) <= axis < len(sequence.shape):
                sizes = list(sequence.shape.dims)
                del sizes[axis]
                value.shape = ir.Shape(sizes)
