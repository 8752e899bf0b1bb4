"""Operators with several operands or results that hand the scale of a channel on: sums, gates, parts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._channels import PINNED, ROUNDING, Channels, Reader, Term


def add(reader: Reader, node: ir.Node) -> bool:
    """Operands are scaled alike, constants among them too."""
    if reader.version < 7:
        return False
    rank = gir.rank(node.outputs[0])
    known = [reader.channels(value) for value in node.inputs]
    first = next((item for item in known if item is not None), None)
    if first is None or rank is None:
        return False
    size = len(first.ids)
    low, high = np.zeros(size), np.zeros(size)
    terms: list[Term] = []
    for index, (value, item) in enumerate(zip(node.inputs, known, strict=True)):
        elements = gir.array(value)
        if item is not None:
            if item.axis != first.axis or len(item.ids) != size or gir.rank(value) != rank:
                return False
            ends = item.low, item.high
            if node.op_type == "Sub" and index:
                ends = -item.high, -item.low
        elif elements is not None and node.op_type in ("Add", "Sub", "Sum"):
            if value is not None and value.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
                return False
            padded = (1,) * (rank - elements.ndim) + elements.shape
            if elements.ndim > rank or padded[first.axis] not in (1, size) or elements.size > size:
                return False
            if not np.isfinite(elements).all() or elements.size not in (1, padded[first.axis]):
                return False
            terms.append(Term(node, index, first.axis, rank, first.ids))
            numbers = np.broadcast_to(elements.astype(np.float64).reshape(-1), (size,))
            ends = (-numbers, -numbers) if node.op_type == "Sub" and index else (numbers, numbers)
        else:
            return False
        low, high = low + ends[0], high + ends[1]
    for item in known:
        if item is not None and item is not first:
            reader.variables.equal.append((first.ids, item.ids))
    reader.variables.terms.extend(terms)
    if node.op_type not in ("Add", "Sub"):
        low, high = np.full(size, -np.inf), np.full(size, np.inf)
    reader.note(
        node.outputs[0], Channels(first.axis, first.ids, low - ROUNDING * np.abs(low), high + ROUNDING * np.abs(high))
    )
    return True


def gate(reader: Reader, node: ir.Node) -> bool:
    """A product is linear in each operand: one carries the variables, the others are not scaled."""
    if reader.version < 7 or len(node.inputs) != 2:
        return False
    shape = gir.dims(node.outputs[0])
    for index in (0, 1) if node.op_type == "Mul" else (0,):
        value = node.inputs[index]
        found = reader.channels(value)
        own = gir.dims(value)
        if found is None or shape is None or own is None or len(own) != len(shape):
            continue
        if own[found.axis] != shape[found.axis] or shape[found.axis] != len(found.ids):
            continue
        other = reader.channels(node.inputs[1 - index])
        if other is not None and gir.dims(node.inputs[1 - index]) == shape and own != shape:
            continue  # it is the gate, and the other operand what it opens for
        reader.pin_value(node.inputs[1 - index], f"they are factors in {gir.where(node)}")
        nothing = np.full(len(found.ids), np.inf)
        reader.note(node.outputs[0], Channels(found.axis, found.ids, -nothing, nothing))
        return True
    return False


def concat(reader: Reader, node: ir.Node) -> bool:
    """Variables side by side, or the same where other axes are joined."""
    rank = gir.rank(node.outputs[0])
    known = [reader.channels(value) for value in node.inputs]
    first = next((item for item in known if item is not None), None)
    if first is None or rank is None:
        return False
    axis = gir.attribute(node, "axis", 1) % rank
    parts: list[Channels] = []
    for value, item in zip(node.inputs, known, strict=True):
        shape = gir.dims(value)
        size = shape[first.axis] if shape is not None and len(shape) == rank else None
        if not isinstance(size, int):
            return False
        if item is None or item.axis != first.axis or len(item.ids) != size:
            if axis != first.axis:
                return False
            reader.pin_value(value, f"{gir.where(node)} joins them with others")
            nothing = np.full(size, np.inf)
            item = Channels(first.axis, np.full(size, PINNED), -nothing, nothing)
        parts.append(item)
    if axis == first.axis:
        joined = [np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "low", "high")]
        reader.note(node.outputs[0], Channels(axis, *joined))
        return True
    for part in parts:
        if len(part.ids) != len(first.ids):
            return False
        reader.variables.equal.append((first.ids, part.ids))
    low = np.min([part.low for part in parts], axis=0)
    high = np.max([part.high for part in parts], axis=0)
    reader.note(node.outputs[0], Channels(first.axis, first.ids, low, high))
    return True


def split(reader: Reader, node: ir.Node) -> bool:
    """Each part has its own variables, or all have the same where another axis is split."""
    found, rank = reader.channels(node.inputs[0]), gir.rank(node.inputs[0])
    if found is None or rank is None:
        return False
    if gir.attribute(node, "axis", 0) % rank != found.axis:
        for output in node.outputs:
            reader.note(output, found)
        return True
    shapes = [gir.dims(output) for output in node.outputs]
    sizes = [shape[found.axis] if shape is not None else None for shape in shapes]
    if not all(isinstance(size, int) for size in sizes) or sum(s for s in sizes if isinstance(s, int)) != len(
        found.ids
    ):
        return False
    start = 0
    for output, size in zip(node.outputs, sizes, strict=True):
        assert isinstance(size, int)
        part = slice(start, start + size)
        reader.note(output, Channels(found.axis, found.ids[part], found.low[part], found.high[part]))
        start += size
    return True
