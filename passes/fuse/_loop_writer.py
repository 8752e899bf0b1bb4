"""Writes the operator that a loop around one recurrent cell is, with what a loop of no trip gives.

the last state  =  Where(0 < T, operator(x, state), state)
"""

from __future__ import annotations

import onnx_ir as ir

from graphopt import ir as gir

from ._attention_writer import Length
from ._cell_loops import Looped, Sequence
from ._forms import Place
from ._recurrent import LayerWriter, Results, is_state

_BOOL = ir.DataType.BOOL


def write(found: Looped, place: Place) -> None:
    """Put the operator in the place of the loop."""
    node, layer = found.node, found.layer
    assert node.graph is not None, "it is in a graph"
    writer = LayerWriter(layer, place, node.graph)
    sequences = [_steps(writer, item, found.count) for item in found.sequences]
    (h, last_h), c = found.states[0], found.states[1]
    before = [value if is_state(value) else None for value in (h, None if c is None else c[0])]
    finals = [None if output is None else _used(output) for output in (last_h, None if c is None else c[1])]
    wanted = (bool(found.stacks), bool(finals[0]), bool(finals[1]))
    if not any(wanted):
        return
    backward = found.sequences[0].backward
    if found.guarded and c is None:
        results = _with_one_more(writer, sequences, h, before[0], backward=backward)
    else:
        results = writer.layer(sequences, (before[0], before[1]), wanted, backward=backward)
    some: ir.Value | None = None
    if found.guarded and c is not None:
        length = writer.op.length(Length(None, sequences[0], 0))
        some = writer.op.op("Greater", [length, writer.op.ints([0])], dtype=_BOOL, dims=(1,))
    pairs: list[tuple[ir.Value, ir.Value]] = []
    for result, state, asked in zip((results.h, results.c), found.states, wanted[1:], strict=True):
        if result is not None and state is not None and asked:
            kept = [some, result, state[0]]
            new = result if some is None else writer.op.op("Where", kept, dtype=result.dtype, like=result)
            pairs.append((state[1], new))
    for output, axis in found.stacks:
        if results.every is not None:
            pairs.append((output, writer.turned(results.every) if axis else results.every))
    writer.op.insert(node)
    for old, new in pairs:
        maker = old.producer()
        gir.succeed(old, new)
        gir.erase_if_dead(maker)
    gir.erase_if_dead(node)


def _with_one_more(
    writer: LayerWriter, sequences: list[ir.Value], first: ir.Value, before: ir.Value | None, *, backward: bool
) -> Results:
    """A GRU over one more step of zeros, without its result: ONNX Runtime's ends the process when there are none."""
    op = writer.op
    pads = op.ints([1, 0, 0, 0, 0, 0] if backward else [0, 0, 0, 1, 0, 0])
    longer: list[ir.Value] = []
    for value in sequences:
        dims = gir.dims(value) or (None,) * 3
        longer.append(op.op("Pad", [value, pads], dtype=value.dtype, dims=(None, *dims[1:])))
    made = writer.layer(longer, (before, None), (True, False, False), backward=backward).every
    assert made is not None, "it was asked for"
    dims = (gir.dims(sequences[0]) or (None,))[:1] + (gir.dims(made) or ())[1:]
    bounds = [op.ints([0]), op.ints([-1]), op.ints([0])]
    if backward:
        bounds = [op.ints([1]), op.ints([2**31]), op.ints([0])]
    every = op.op("Slice", [made, *bounds], dtype=made.dtype, dims=dims)
    parts = [writer.unsqueeze(first), every]
    states = op.op("Concat", parts[::-1] if backward else parts, {"axis": 0}, dtype=made.dtype, dims=(None, *dims[1:]))
    return Results(every, writer.take(states, 0 if backward else -1), None)


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _steps(writer: LayerWriter, sequence: Sequence, count: int | ir.Value | None) -> ir.Value:
    """The steps that are read, steps first."""
    if isinstance(count, ir.Value):
        op = writer.op
        end = op.op("Reshape", [count, op.ints([1])], dtype=ir.DataType.INT64, dims=(1,))
        zero = op.ints([0])
        end = op.op("Max", [end, zero], dtype=ir.DataType.INT64, dims=(1,))
        dims = list(gir.dims(sequence.value) or (None,) * 3)
        dims[sequence.axis] = None
        bounds = [zero, end, op.ints([sequence.axis])]
        part = op.op("Slice", [sequence.value, *bounds], dtype=sequence.value.dtype, dims=tuple(dims))
        return writer.turned(part) if sequence.axis else part
    if count is None:
        return writer.turned(sequence.value) if sequence.axis else sequence.value
    return writer.steps(sequence.value, sequence.axis, 0, count)
