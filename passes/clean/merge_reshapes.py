"""Reshape, Flatten, Squeeze and Unsqueeze keep the order of the elements, so two in a row are one:

    f(g(x)) = x                             when the result has x's shape
    Unsqueeze(Unsqueeze(x, a), b), Squeeze(Squeeze(x, a), b), Squeeze(Unsqueeze(x, a), b) = one of them
    Reshape(g(x), s)                        = Reshape(x, s), each 0 in s resolved: it meant a size of g(x)
    f(g(x))                                 = Reshape(x, s) when at most one size of the result is unknown

Axes are attributes before version 13 and inputs from there on; allowzero (version 14) is read, never written.
Versions of Reshape from 5 on (before, the shape was an attribute); all versions of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Sites
from graphopt.ir import attribute, dims, is_op, known_ints, rank, same_shape
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._axes import combine
from ._links import (
    Link,
    Merge,
    Plan,
    bypass,
    constant_ints,
    parameter,
    set_input,
    sites,
    skip_first,
    substitute,
)

_OPERATORS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_SHAPE_IS_INPUT = 5
_AXES_ARE_INPUT = 13


@dataclass(frozen=True)
class MergeReshapes(Pass):
    """Makes one operator, or none, of two in a row that only change the shape.

    Kept: a Squeeze of a size that may not be 1, which would be an error; a target shape that is not known before the
    run (it may hold a 0), a 0 that cannot be expressed in x's sizes, and a result of which two sizes are unknown. -1
    and 0 never stand together in a shape that is written anew, since a runtime cannot resolve that for an empty
    tensor.
    """

    name: ClassVar[str] = "merge-reshapes"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per pair."""
        return sites(model, _OPERATORS, _OPERATORS, _plan)


def _plan(link: Link) -> Plan:
    if _checks_a_size(link.first, link) or _checks_a_size(link.second, link):
        plan = _plan_axes(link) if is_op(link.second, "Squeeze") else None  # what is left is a Squeeze, which checks
        return plan or "Squeeze makes sure that the size it drops is 1, which is not known before the run"
    if same_shape(link.source, link.result):
        return Merge("the two undo each other, removed", partial(bypass, link))
    if is_op(link.second, "Reshape"):
        plan = _reshape_directly(link)
    elif is_op(link.second, "Squeeze", "Unsqueeze"):
        plan = _plan_axes(link)
    else:
        plan = _plan_flatten(link)
    return plan if isinstance(plan, Merge) else _plan_by_result(link, plan)


def _checks_a_size(node: ir.Node, link: Link) -> bool:
    """A Squeeze of a size that is not proven to be 1 fails in some runs; a Reshape in its place would not."""
    if not is_op(node, "Squeeze"):
        return False
    axes = parameter(node, "axes", 1, is_input=link.version >= _AXES_ARE_INPUT)
    sizes = dims(node.inputs[0])
    if axes is None:
        return False  # without axes it drops what is 1 and leaves the rest
    return sizes is None or any(sizes[axis] != 1 for axis in axes)


def _plan_by_result(link: Link, reason: str | None) -> Plan:
    """f(g(x)) = Reshape(x, s), s from the proven shape of the result."""
    if link.version < _SHAPE_IS_INPUT:
        return "a Reshape before version 5 has its shape in an attribute"
    if not link.is_private:
        return reason or "the tensor in between is used elsewhere"
    target = _target(link)
    if target is None:
        return reason or "more than one size of the result is not known before the run"
    return Merge(f"one Reshape of {link.first.op_type} and {link.second.op_type}", partial(_reshape, link, target))


def _reshape_directly(link: Link) -> Plan:
    """Reshape(g(x), s) = Reshape(x, s')."""
    if link.version < _SHAPE_IS_INPUT:
        return None
    shape = known_ints(link.second.inputs[1])
    if shape is None:
        return "its target shape is not known before the run"
    if attribute(link.second, "allowzero", 0) or 0 not in shape:
        return Merge(f"reshapes what {link.first.op_type} reads", partial(skip_first, link))
    resolved = _without_zeros(shape, link)
    if resolved is None:
        return "a 0 in its target shape refers to the tensor in between"
    if resolved == list(shape):
        return Merge(f"reshapes what {link.first.op_type} reads", partial(skip_first, link))
    return Merge(f"reshapes what {link.first.op_type} reads", partial(_retarget, link, resolved))


def _without_zeros(shape: tuple[int, ...], link: Link) -> list[int] | None:
    """The target with each 0 replaced by the size it copies, left where x has that size there, or made -1."""
    middle, source = dims(link.middle), dims(link.source) or ()
    if middle is None:
        return None
    resolved, unknown = list(shape), []
    for position, size in enumerate(shape):
        if size != 0:
            continue
        copied = middle[position] if position < len(middle) else None
        if isinstance(copied, int) and copied > 0:
            resolved[position] = copied
        elif copied is None or position >= len(source) or source[position] != copied:
            unknown.append(position)
    if not unknown:
        return resolved
    if len(unknown) == 1 and -1 not in shape and resolved.count(0) == 1:
        resolved[unknown[0]] = -1
        return resolved
    return None


def _target(link: Link) -> list[int] | None:
    """A shape that makes the result of the source: known sizes; for the others copies (0), or one -1."""
    result, source = dims(link.result), dims(link.source) or ()
    if result is None or 0 in result:
        return None
    unknown = [position for position, size in enumerate(result) if not isinstance(size, int)]
    target = [size if isinstance(size, int) else -1 for size in result]
    if len(unknown) <= 1:
        return target
    for position in unknown:
        if position >= len(source) or result[position] is None or source[position] != result[position]:
            return None
        target[position] = 0
    return target


def _plan_axes(link: Link) -> Merge | None:
    """Squeeze or Unsqueeze of either."""
    first, second = link.first.op_type, link.second.op_type
    if not is_op(link.first, "Squeeze", "Unsqueeze"):
        return None
    is_input = link.version >= _AXES_ARE_INPUT
    before = parameter(link.first, "axes", 1, is_input=is_input)
    after = parameter(link.second, "axes", 1, is_input=is_input)
    if after is None and second == "Squeeze":
        return Merge(f"squeezes what {first} reads", partial(skip_first, link))
    if before is None or after is None:
        return None
    ranks = (rank(link.source), rank(link.middle), rank(link.result))
    combined = combine(first, before, second, after, ranks)
    if combined is None:
        return None
    operator, axes = combined
    if not axes:
        return Merge("the two undo each other, removed", partial(bypass, link))
    return Merge(f"one {operator} of {first} and {second}", partial(_replace_axes, link, operator, axes))


def _plan_flatten(link: Link) -> Merge | None:
    """Flatten of anything at axis 0; Flatten of a Flatten."""
    axis = attribute(link.second, "axis", 1)
    size = rank(link.middle)
    axis = axis + size if axis < 0 and size is not None else axis
    if axis == 0:
        return Merge(f"flattens what {link.first.op_type} reads", partial(_flatten, link, 0))
    if axis == 1 and is_op(link.first, "Flatten"):
        return Merge("flat already, removed", partial(_flatten, link, attribute(link.first, "axis", 1)))
    return None


def _flatten(link: Link, axis: int) -> None:
    link.second.attributes["axis"] = ir.AttrInt64("axis", axis)
    skip_first(link)


def _replace_axes(link: Link, operator: str, axes: list[int]) -> None:
    if link.version >= _AXES_ARE_INPUT:
        node = ir.node(operator, [link.source, constant_ints(link.second, axes, "axes")])
    else:
        node = ir.node(operator, [link.source], {"axes": axes})
    substitute(link, node)


def _reshape(link: Link, target: list[int]) -> None:
    substitute(link, ir.node("Reshape", [link.source, constant_ints(link.second, target, "shape")]))


def _retarget(link: Link, target: list[int]) -> None:
    set_input(link.second, 1, constant_ints(link.second, target, "shape"))
    skip_first(link)
