"""Loops around one recurrent cell, as one operator over the sequence.

    Loop(len(x), true, h, c){step of x[i]} and Scan(h, c, x){step}  =  the layer over x

Loop (versions 11 and later) and Scan (9 and later). A Loop of no trip gives the states it began with.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._layers import Layer
from ._recurrent import is_state
from ._steps import Source


@dataclass(frozen=True, eq=False)
class Sequence:
    """Attributes: a sequence that is read step by step, the axis of steps, and whether the last is read first."""

    value: ir.Value
    axis: int
    backward: bool = False


@dataclass(frozen=True, eq=False)
class Looped:
    """How a loop is written.

    Attributes:
        layer: the cell.
        node: the Loop or Scan.
        sequences: what each input is a step of.
        count: how many steps are made, where that is not all of them: a number, or a tensor of one.
        length: how many that are, when known.
        states: the slots of h and c among the node's inputs and outputs; the second is None for a GRU.
        guarded: there may be no trip, for which the operator would not give the states that are to be given.
        stacks: values that hold every h, and the axis of steps.
    """

    layer: Layer
    node: ir.Node
    sequences: list[Sequence]
    count: int | ir.Value | None
    length: int | None
    states: tuple[tuple[ir.Value, ir.Value], tuple[ir.Value, ir.Value] | None]
    guarded: bool
    stacks: list[tuple[ir.Value, int]]


def _body(node: ir.Node) -> ir.Graph:
    return node.attributes["body"].as_graph()


def earlier(h: ir.Value, owner: ir.Node | None) -> ir.Value | None:
    """The input of the body of a loop that is the h of the trip before."""
    if owner is None or not gir.is_op(owner, "Loop", "Scan"):
        return None
    return next((given for given, made in _slots(owner) if made is h), None)


def is_carried(found: Layer, owner: ir.Node) -> bool:
    """True for the one cell of a loop that carries its state."""
    if len(found.cells) != 1 or not gir.is_op(owner, "Loop", "Scan"):
        return False
    return found.cells[0].before in _body(owner).inputs


def _slots(owner: ir.Node) -> list[tuple[ir.Value, ir.Value]]:
    """What the body gets and gives of each carried value."""
    body = _body(owner)
    if owner.op_type == "Loop":
        return [(given, _origin(made)) for given, made in zip(body.inputs[2:], body.outputs[1:], strict=False)]
    count = len(owner.inputs) - int(gir.attribute(owner, "num_scan_inputs", 0))
    return [(given, _origin(made)) for given, made in zip(body.inputs[:count], body.outputs, strict=False)]


def _origin(value: ir.Value) -> ir.Value:
    while (node := value.producer()) is not None and gir.is_op(node, "Identity") and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def plan(found: Layer, node: ir.Node) -> Looped:
    """How to write it.

    Raises:
        Refusal: it does more than this, or other than this.
    """
    if gir.has_reference(node):
        raise Refusal("an attribute of the loop is a parameter of the function")
    body, slots, cell = _body(node), _slots(node), found.cells[0]
    loop = node.op_type == "Loop"
    if loop:
        _require_condition(node, body)
    given = list(node.inputs[2 if loop else 0 :])[: len(slots)]
    hidden = None if found.hidden is None else found.hidden.value
    h_slot = next((k for k, (old, new) in enumerate(slots) if old is hidden and new is cell.h), None)
    c_slot = next((k for k, (old, new) in enumerate(slots) if old is cell.before and new is cell.state), None)
    if h_slot is None or c_slot is None:
        raise Refusal("the loop does not hand its state to the next trip")
    if found.is_lstm and h_slot == c_slot:
        raise Refusal("the loop does not hand its state to the next trip")
    stacks = _stacks(node, body, slots, cell.h, {h_slot, c_slot})
    sequences = [_sequence(part[0], node, body, slots, given) for part in found.parts]
    count, length = _trips(node, sequences)
    if any(item.backward != sequences[0].backward for item in sequences):
        raise Refusal("it reads one sequence forwards and another backwards")
    if length == 0:
        raise Refusal("the loop makes no trip")
    states: list[tuple[ir.Value, ir.Value]] = []
    for slot in (h_slot, c_slot):
        initial = given[slot]
        if initial is None:
            raise Refusal("the loop has a state without an initial value")
        if length is None and gir.dims(initial) != (found.batch, cell.units):
            raise Refusal("the loop may make no trip, and its state is not known to keep its shape")
        states.append((initial, node.outputs[slot]))
    guarded = length is None and (not found.is_lstm or any(is_state(initial) for initial, _ in states))
    pair = (states[0], states[1] if found.is_lstm else None)
    return Looped(found, node, sequences, count, length, pair, guarded, stacks)


def _require_condition(node: ir.Node, body: ir.Graph) -> None:
    """A Loop ends by its count alone."""
    if node.inputs[0] is None:
        raise Refusal("the loop has no trip count")
    first, again = node.inputs[1], _origin(body.outputs[0])
    if first is not None and gir.scalar(first) is not True:
        raise Refusal("the loop has a condition that is not constant")
    if again is not body.inputs[1] and gir.scalar(again) is not True:
        raise Refusal("the loop has a condition that is not constant")


def _stacks(
    node: ir.Node, body: ir.Graph, slots: list[tuple[ir.Value, ir.Value]], h: ir.Value, states: set[int]
) -> list[tuple[ir.Value, int]]:
    """Where every h goes; nothing else that the loop gives may be used."""
    found: list[tuple[ir.Value, int]] = []
    loop = node.op_type == "Loop"
    made = [_origin(value) for value in body.outputs[1 if loop else 0 :]]
    axes = gir.attribute(node, "scan_output_axes") or ()
    ways = gir.attribute(node, "scan_output_directions") or ()
    back = _ways(node, "scan_input_directions")
    for slot, (output, inner) in enumerate(zip(node.outputs, made, strict=False)):
        if slot in states or not (output.uses() or output.is_graph_output()):
            continue
        index = slot - len(slots)
        if index >= 0 and inner is h:
            way = bool(ways[index]) if index < len(ways) else False
            if len(set(back)) > 1 or (back and way != back[0]):
                raise Refusal("the loop gives its results in another order than it reads")
            found.append((output, axes[index] % 3 if index < len(axes) else 0))
            continue
        joined = _joined(output, slots[slot], h) if index < 0 and loop else None
        if joined is None or node.inputs[slot + 2] is None or not _is_empty(node.inputs[slot + 2]):
            raise Refusal("the loop gives more than the results and the state of the layer")
        found += joined
    if any(axis == 2 for _, axis in found):
        raise Refusal("the loop stacks its results behind the units")
    return found


def _is_empty(value: ir.Value | None) -> bool:
    return value is not None and gir.is_op(value.producer(), "SequenceEmpty")


def _joined(output: ir.Value, slot: tuple[ir.Value, ir.Value], h: ir.Value) -> list[tuple[ir.Value, int]] | None:
    """The tensors that a list of every h is made into; None when it is no such list, or something else is done."""
    insert = slot[1].producer()
    if insert is None or not gir.is_op(insert, "SequenceInsert") or len(insert.inputs) > 2 or output.is_graph_output():
        return None
    if insert.inputs[0] is not slot[0] or insert.inputs[1] is None or _origin(insert.inputs[1]) is not h:
        return None
    found: list[tuple[ir.Value, int]] = []
    for user, _ in output.uses():
        if not gir.is_op(user, "ConcatFromSequence") or gir.attribute(user, "new_axis", 0) != 1:
            return None
        found.append((user.outputs[0], gir.attribute(user, "axis", 0) % 3))
    return found


def _ways(node: ir.Node, name: str) -> list[bool]:
    count = int(gir.attribute(node, "num_scan_inputs", 0))
    given = gir.attribute(node, name) or ()
    return [bool(given[index]) if index < len(given) else False for index in range(count)]


def _sequence(
    source: Source,
    node: ir.Node,
    body: ir.Graph,
    slots: list[tuple[ir.Value, ir.Value]],
    given: list[ir.Value | None],
) -> Sequence:
    """What the source is a step of."""
    inputs = list(body.inputs)
    value = source.value
    if node.op_type == "Scan":
        index = inputs.index(value) - len(slots) if source.axis < 0 and value in inputs else -1
        whole = node.inputs[len(slots) + index] if index >= 0 else None
        axes = gir.attribute(node, "scan_input_axes") or ()
        axis = axes[index] % 3 if 0 <= index < len(axes) else 0
        if whole is not None and axis < 2 and gir.rank(whole) == 3:
            return Sequence(whole, axis, _ways(node, "scan_input_directions")[index])
    producer = value.producer()
    inner = value in inputs or (producer is not None and producer.graph is body) or value in body.initializers.values()
    if node.op_type == "Loop" and source.axis >= 0 and not inner and isinstance(source.index, ir.Value):
        counts = source.index is inputs[0] or _counts(source.index, slots, given)
        if counts:
            return Sequence(value, source.axis)
    raise Refusal(f"{gir.where(value)} is not read step by step")


def _counts(value: ir.Value, slots: list[tuple[ir.Value, ir.Value]], given: list[ir.Value | None]) -> bool:
    """True for a carried value that is 0, 1, 2, ... in the trips."""
    for (old, new), initial in zip(slots, given, strict=True):
        add = new.producer()
        if old is value and add is not None and gir.is_op(add, "Add") and gir.scalar(initial) == 0:
            return any(a is old and gir.scalar(b) == 1 for a, b in (add.inputs, tuple(add.inputs)[::-1]))
    return False


def _trips(node: ir.Node, sequences: list[Sequence]) -> tuple[int | ir.Value | None, int | None]:
    """How many steps of the sequences are read, None for all, and the number if it is known."""
    sizes = [(gir.dims(item.value) or (None,) * 3)[item.axis] for item in sequences]
    size = sizes[0] if len(set(sizes)) == 1 or len(sizes) == 1 else None
    if node.op_type == "Scan":
        known = [item for item in sizes if isinstance(item, int)]
        return None, known[0] if known else None
    trips = node.inputs[0]
    known = gir.known_ints(trips)
    if known is not None and len(known) == 1:
        count = max(known[0], 0)
        if any(isinstance(item, int) and item < count for item in sizes):
            raise Refusal("the loop makes more trips than there are steps")
        return (None if size == count else count), count
    if len(sequences) == 1 and _is_length(trips, sequences[0]):
        return None, size if isinstance(size, int) else None
    return trips, None


def _is_length(value: ir.Value | None, sequence: Sequence) -> bool:
    """True for the number of steps, taken from the shape of the sequence."""
    while value is not None and (node := value.producer()) is not None:
        if gir.is_op(node, "Shape"):
            rank = 3
            start = gir.attribute(node, "start", 0) % rank
            end = gir.attribute(node, "end", rank)
            return node.inputs[0] is sequence.value and start == sequence.axis and end % (rank + 1) == start + 1
        if gir.is_op(node, "Gather"):
            shape, index = None if node.inputs[0] is None else node.inputs[0].producer(), gir.scalar(node.inputs[1])
            if shape is None or not gir.is_op(shape, "Shape") or shape.attributes or not isinstance(index, int):
                return False
            return shape.inputs[0] is sequence.value and index % 3 == sequence.axis
        if not gir.is_op(node, "Cast", "Identity", "Squeeze", "Reshape", "Unsqueeze"):
            return False
        value = node.inputs[0]
    return False
