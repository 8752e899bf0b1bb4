"""Linear operators that read one tensor become one wide operator and a Split.

    MatMul(x, V) + b, MatMul(x, W) + c    ->  Split(MatMul(x, [V W]) + [b c])    along the last axis
    Gemm(x, V, b),    Gemm(x, W, c)       ->  Split(Gemm(x, [V W], [b c]))       along axis 1
    Conv(x, V, b),    Conv(x, W, c)       ->  Split(Conv(x, [V, W], [b, c]))     along axis 1

The query, key and value projections of attention, the gate and up projections of a gated MLP, the reducing
convolutions of an Inception block (Szegedy et al., Going Deeper with Convolutions, 2015, figure 2b).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._affine import Refusal, number
from ._linear import COPY_LIMIT, Linear
from ._neighbours import linear, only_user, producing

_SPLIT_BY_INPUT = 13


@dataclass(frozen=True)
class MergeSiblings(Pass):
    """Merges MatMuls (with the Adds of their biases), Gemms or Convs with constant weights that read one tensor.

    The input is read once, and one large product has less overhead than several small ones; but the Split copies
    the result, so this is done only for targets on which MergedMatMul or MergedConv has been measured to be faster.

    Each output channel is computed from the same numbers as before. Convolutions must agree in kernel, strides,
    pads, dilations and have one group, Gemms in alpha and the transpositions. Kept where nodes would not get
    fewer (two products without a bias make a product and a Split). Weights above 1 MiB that others use too are not
    copied.
    """

    name: ClassVar[str] = "merge-siblings"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each group of siblings."""
        for body in gir.bodies(model):
            if body.version() < 7:  # Gemm and Add broadcast by attribute
                continue
            for nodes in list(_groups(body)):
                group = [member for node in nodes if (member := _member(node, body.version())) is not None]
                if len(group) > 1:
                    yield _site(group, body.version(), context)


def _groups(body: gir.Body) -> Iterator[list[ir.Node]]:
    """Operators of one kind, in one graph, that read the same value."""
    found: dict[Hashable, list[ir.Node]] = {}
    for node in body.nodes():
        if gir.is_op(node, "MatMul", "Gemm", "Conv") and gir.constant(node.inputs[1]) is not None:
            found.setdefault((node.op_type, node.inputs[0], node.graph), []).append(node)
    for nodes in found.values():
        if len(nodes) < 2:
            continue
        alike: dict[Hashable, list[ir.Node]] = {}
        for node in nodes:
            alike.setdefault(_kind(node), []).append(node)
        yield from (group for group in alike.values() if len(group) > 1)


def _kind(node: ir.Node) -> Hashable:
    """What siblings must have in common besides their input; unique for a node that has no siblings."""
    weights = gir.static_dims(node.inputs[1])
    assert weights is not None, "the weights are constant"
    if gir.has_reference(node):
        return node
    if node.op_type == "MatMul":
        return weights[0] if len(weights) == 2 else node
    if node.op_type == "Gemm":
        turned = (gir.attribute(node, "transA", 0), gir.attribute(node, "transB", 0))
        return (number(node, "alpha", 1.0), turned)
    if gir.attribute(node, "group", 1) != 1 or len(weights) < 3:
        return node
    ones, zeros = (1,) * (len(weights) - 2), (0,) * (2 * (len(weights) - 2))
    return (
        weights[1:],
        gir.attribute(node, "auto_pad", "NOTSET"),
        tuple(gir.attribute(node, "pads", zeros)),
        tuple(gir.attribute(node, "strides", ones)),
        tuple(gir.attribute(node, "dilations", ones)),
    )


def _member(node: ir.Node, version: int) -> Linear | None:
    """An operator with the Add of its bias, if that is one; None when it cannot take part."""
    if node.graph is None:
        return None
    try:
        found = linear(node, version)
        if found is None or found.outputs == 0:
            return None
        if node.op_type == "MatMul":
            add = only_user(node.outputs[0])
            if add is not None and gir.is_op(add, "Add"):
                found = _with_bias(add, version) or found
        found.bias()
    except Refusal:
        return None
    return found


def _with_bias(add: ir.Node, version: int) -> Linear | None:
    try:
        return producing(add.outputs[0], version)
    except Refusal:  # what is added is no bias
        return None


def _site(group: list[Linear], version: int, context: Context) -> Site:
    first = group[0]
    place = gir.where(first.node)
    kind = first.node.op_type
    source = first.node.inputs[0]
    shape = gir.static_dims(source)
    count = f"{len(group)} {kind}s that read the same tensor"
    form = "MergedConv" if kind == "Conv" else "MergedMatMul"
    if not context.target.likes(form, None if shape is None else prod(shape)):
        return Site(place, f"{form} is not known to be faster on {context.target.name}: {count} stay")
    adds = sum(member.tail is not member.node for member in group)
    if len(group) + adds <= 2 + (adds > 0):
        return Site(place, f"one {kind} and a Split are no fewer nodes than {count}")
    for member in group:
        owner = member.node.inputs[1]
        if owner is not None and len(owner.uses()) > 1 and member.weights.nbytes > COPY_LIMIT:
            size = member.weights.nbytes
            return Site(place, f"the weights of {gir.where(member.node)} are shared, and a copy would add {size} bytes")
    rank = first.rank
    if not first.convolves and version < 11 and rank is None:
        return Site(place, "the rank of its input is not known")
    try:
        bias = _bias(group)
    except Refusal as refusal:
        return Site(place, str(refusal))
    axis = 1 if first.convolves else -1 if rank is None else rank - 1
    return Site(place, f"{count} made one, and a Split", lambda: _merge(group, bias, axis, version))


def _bias(group: list[Linear]) -> np.ndarray | None:
    """The biases side by side, zeros where there is none; None when there is none at all."""
    parts = [member.bias() for member in group]
    if all(part is None for part in parts):
        return None
    zero = np.zeros(())
    return np.concatenate(
        [member.rounded_bias(zero if part is None else part) for member, part in zip(group, parts, strict=True)]
    )


def _merge(group: list[Linear], bias: np.ndarray | None, axis: int, version: int) -> None:
    first = group[0].node
    graph, source, owner = first.graph, first.inputs[0], first.inputs[1]
    assert graph is not None and owner is not None
    hint = owner.name or "weights"
    weights = gir.new_initializer(graph, _side_by_side(group), hint)
    added = None if bias is None else gir.new_initializer(graph, bias, f"{hint}_bias")
    kept = [item for name, item in first.attributes.items() if name != "beta"]
    operands = [source, weights]
    if added is not None and first.op_type != "MatMul":
        operands.append(added)
    wide = ir.Node("", first.op_type, operands, kept, num_outputs=1)
    nodes = [wide]
    if added is not None and first.op_type == "MatMul":
        nodes.append(ir.Node("", "Add", [wide.outputs[0], added], num_outputs=1))
    sizes = [member.outputs for member in group]
    where = ir.AttrInt64("axis", axis)
    whole = nodes[-1].outputs[0]
    if version < _SPLIT_BY_INPUT:
        split = ir.Node("", "Split", [whole], [where, ir.AttrInt64s("split", sizes)], num_outputs=len(group))
    else:
        lengths = gir.new_initializer(graph, np.array(sizes, dtype=np.int64), f"{hint}_sizes")
        split = ir.Node("", "Split", [whole, lengths], [where], num_outputs=len(group))
    _describe(nodes, group[0].result, axis, sum(sizes))
    nodes.append(split)
    for node in nodes:
        node.metadata_props.update(first.metadata_props)
    gir.insert_before(first, nodes)
    for member, part in zip(group, split.outputs, strict=True):
        gir.succeed(member.result, part)
        gir.erase_if_dead(member.tail)


def _side_by_side(group: list[Linear]) -> ir.TensorProtocol:
    """All weights in one tensor; large ones are put together only when they are read."""
    first = group[0]
    rows = first.node.op_type == "Conv" or bool(gir.attribute(first.node, "transB", 0))
    axis = 0 if rows else 1
    owners = [gir.constant(member.node.inputs[1]) for member in group]
    shape = list(first.weights.shape)
    shape[axis] = sum(member.outputs for member in group)

    def joined() -> ir.TensorProtocol:
        return ir.tensor(np.concatenate([owner.numpy() for owner in owners if owner is not None], axis=axis))

    if sum(member.weights.nbytes for member in group) <= COPY_LIMIT:
        return joined()
    return ir.LazyTensor(joined, dtype=ir.DataType.from_numpy(first.weights.dtype), shape=ir.Shape(shape))


def _describe(nodes: list[ir.Node], part: ir.Value, axis: int, size: int) -> None:
    """The wide result is like one of its parts, only wider."""
    for node in nodes:
        value = node.outputs[0]
        value.type = part.type
        if part.shape is not None:
            dims = list(part.shape.dims)
            dims[axis] = size
            value.shape = ir.Shape(dims)
