"""What happens to every part of a tensor alike happens to the whole, before it is split:

    Transpose(y) for each y of Split(x)    =  Split(Transpose(x))
    Reshape(y) for each y of Split(x)      =  Split(Reshape(x))       where each cuts its part of the last axis alike
    f(y) for each y of Split(x)            =  Split(f(x))             f: element by element

A merged projection of query, key and value (GPT-2's, or what merge-siblings makes) is cut into heads once instead of
three times. Split: versions 2, 11, 13, 18.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._neighbours import only_user

_UNARY = (
    *("Abs", "Celu", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg"),
    *("Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh"),
)
_SPLIT_BY_INPUT = 13


@dataclass(frozen=True, eq=False)
class _Plan:
    """The operator that comes first now, given the whole, and how its result is split."""

    before: Callable[[ir.Value], ir.Node]
    axis: int
    sizes: list[int]


@dataclass(frozen=True)
class SinkSplits(Pass):
    """Makes one operator of those that do the same to all outputs of a Split.

    Elements are moved, or computed, as before. Kept, without a word: outputs with several users or none, operators
    that differ, and Reshapes that do more than cut the last axis, or of which sizes are not proven.
    """

    name: ClassVar[str] = "sink-splits"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each operator that changes places with a Split."""
        for body in gir.bodies(model):
            for node in body.nodes():
                split: ir.Node | None = node if gir.is_op(node, "Split") and body.version() >= 2 else None
                while split is not None:
                    users = _users(split)
                    plan = _plan(split, users) if users else None
                    if plan is None:
                        break
                    made: list[ir.Node] = []
                    what = f"{len(users)} {users[0].op_type}s of its parts made one"

                    edit = partial(_exchange, split, users, plan, body.version(), made)
                    applied = yield Site(gir.where(split), what, edit)
                    split = made[0] if applied else None


def _users(split: ir.Node) -> list[ir.Node]:
    """The one user of each output, when they are alike; else nothing."""
    if gir.has_reference(split) or split.inputs[0] is None:
        return []
    users = [only_user(output) for output in split.outputs]
    found = [user for user in users if user is not None and user.inputs[0] is not None]
    if len(found) < 2 or len(found) != len(users) or len(set(found)) != len(found):
        return []
    first = found[0]
    if any(gir.has_reference(user) or user.op_identifier() != first.op_identifier() for user in found):
        return []
    reads_part = all(user.inputs[0] is output for user, output in zip(found, split.outputs, strict=True))
    return found if reads_part else []


def _plan(split: ir.Node, users: list[ir.Node]) -> _Plan | None:
    shapes = [gir.dims(output) for output in split.outputs]
    if any(shape is None for shape in shapes):
        return None
    parts = [shape for shape in shapes if shape is not None]
    rank = len(parts[0])
    axis = gir.attribute(split, "axis", 0)
    if not -rank <= axis < rank:
        return None
    axis %= rank
    sizes = [size for shape in parts if isinstance(size := shape[axis], int)]
    if len(sizes) != len(parts):
        return None
    first = users[0]
    if gir.is_op(first, "Reshape"):
        return _reshape(users, parts, sizes) if axis == rank - 1 else None
    settings = [{name: item.value for name, item in user.attributes.items()} for user in users]
    if any(setting != settings[0] for setting in settings):
        return None

    def again(whole: ir.Value) -> ir.Node:
        return ir.Node(first.domain, first.op_type, [whole], list(first.attributes.values()), num_outputs=1)

    if gir.is_op(first, "Transpose"):
        perm = tuple(gir.attribute(first, "perm", tuple(reversed(range(rank)))))
        return _Plan(again, perm.index(axis), sizes) if len(perm) == rank else None
    if gir.is_op(first, *_UNARY) and len(first.inputs) == 1:
        return _Plan(again, axis, sizes)
    return None


def _reshape(users: list[ir.Node], parts: list[tuple[int | str | None, ...]], sizes: list[int]) -> _Plan | None:
    """Each Reshape makes ``lead, n`` to ``lead, n / t, tail`` with the same tail of t elements."""
    axis = len(parts[0]) - 1
    results = [gir.dims(user.outputs[0]) for user in users]
    first = results[0]
    if first is None or len(first) <= axis + 1:
        return None
    lead, tail = first[:axis], [size for size in first[axis + 1 :] if isinstance(size, int) and size > 0]
    if len(tail) != len(first) - axis - 1 or None in lead or 0 in lead:
        return None
    for part, size, result in zip(parts, sizes, results, strict=True):
        if part[:axis] != lead or size == 0 or size % prod(tail) or result != (*lead, size // prod(tail), *tail):
            return None
    counts = [size // prod(tail) for size in sizes]
    target = [*(size if isinstance(size, int) else 0 for size in lead), sum(counts), *tail]

    def again(whole: ir.Value) -> ir.Node:
        graph = users[0].graph
        assert graph is not None
        shape = gir.new_initializer(graph, np.array(target, dtype=np.int64), "heads")
        return ir.Node("", "Reshape", [whole, shape], num_outputs=1)

    return _Plan(again, axis, counts)


def _exchange(split: ir.Node, users: list[ir.Node], plan: _Plan, version: int, made: list[ir.Node]) -> None:
    whole, graph = split.inputs[0], split.graph
    assert whole is not None and graph is not None
    first = plan.before(whole)
    where = ir.AttrInt64("axis", plan.axis)
    if version < _SPLIT_BY_INPUT:
        attributes = [where, ir.AttrInt64s("split", plan.sizes)]
        second = ir.Node("", "Split", [first.outputs[0]], attributes, num_outputs=len(users))
    else:
        lengths = gir.new_initializer(graph, np.array(plan.sizes, dtype=np.int64), "parts")
        second = ir.Node("", "Split", [first.outputs[0], lengths], [where], num_outputs=len(users))
    part = users[0].outputs[0]
    first.outputs[0].type = part.type
    if part.shape is not None:
        dims = list(part.shape.dims)
        dims[plan.axis] = sum(plan.sizes)
        first.outputs[0].shape = ir.Shape(dims)
    for node in (first, second):
        node.metadata_props.update(split.metadata_props)
    gir.insert_before(split, [first, second])
    for user, output in zip(users, second.outputs, strict=True):
        gir.succeed(user.outputs[0], output)
        gir.erase_if_dead(user)
    made.append(second)
