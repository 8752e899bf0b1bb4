"""A number that multiplies what a linear operator has computed some moves ago goes into its weights:

    move(linear(x; W, b)) * c               =  move(linear(x; c W, c b))
    MatMul(move(linear(x; W, b)), y) * c    =  MatMul(move(linear(x; c W, c b)), y)       and so for the other operand
    MatMul(x * a, y * b)                    =  MatMul(x * ab, y)                          what is left of query and key

where a move is any row of Reshape, Transpose, Flatten, Squeeze and Unsqueeze, and of at most one Split: then only the
channels that it hands on are scaled. Attention scales its scores by 1 / sqrt(d) (Vaswani et al., Attention Is All You
Need, 2017, section 3.2.1), exporters write it as a Mul or Div of the query, of the scores, or of both query and key by
the root of it. Mul and Div: ONNX operators, from version 7 on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, Rewrite, RuleSet, floating, scalar, that
from graphopt.rewrite.uses import use_count

from ._affine import FLOATS, Refusal
from ._linear import Linear
from ._neighbours import only_user, producing
from ._parts import Part, ahead_of, split_off

_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
_LIMITS = (1e-4, 1e4)


def _is_harmless(match: Match) -> bool:
    """Every factor is an ordinary number; in float16 they only make smaller. bfloat16 has too few bits to move them."""
    if match.dtype("x") == ir.DataType.BFLOAT16:
        return False
    first, second = match.number("a"), match.number("b")
    sizes = [abs(first), abs(second), abs(first * second)]
    low, high = _LIMITS
    return all(low < size < high for size in sizes) and (match.dtype("x") != ir.DataType.FLOAT16 or max(sizes) <= 1)


RULES = RuleSet(
    [
        Rewrite(
            "MatMul(Mul(x, a), Mul(y, b))",
            "MatMul(Mul(x, c), y)",
            where=[
                scalar("a"),
                scalar("b"),
                floating("x"),
                that("its factors are too large or too small to be sure of", _is_harmless, "a", "b", "x"),
            ],
            let={"c": lambda match: np.asarray(match.array("a") * match.number("b"))},
            matches=(7, 1 << 30),
        )
    ]
)


@dataclass(frozen=True, eq=False)
class _Route:
    """From the scaled value back to a linear operator.

    Attributes:
        linear: the operator.
        between: the scaled value, then what it is made of, up to the operator's result: all change their meaning.
        part: the output channels that are scaled; None for all.
    """

    linear: Linear
    between: tuple[ir.Value, ...]
    part: slice | None


@dataclass(frozen=True)
class SinkScale(Pass):
    """Moves a scaling by one constant back through moves, and one product of two variables, into constant weights.

    What fuse-affine does next to the operator, this does from afar. It runs behind the fusion of attention, which
    reads the scales, and takes up what that has left.

    Kept: a factor beyond 1e-4 to 1e4, which may leave the range of the element type or lose bits in it (before a
    product in float16, also one above 1); values on the way that are also used elsewhere; weights above 1 MiB that
    others use too.
    """

    name: ClassVar[str] = "sink-scale"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each scaling that has a linear operator behind it, then one for each product of two scalings."""
        for body in gir.bodies(model):
            if body.version() < 7:
                continue
            for node in body.nodes():
                scaled = _scaling(node)
                if scaled is None:
                    continue
                source, factor = scaled
                try:
                    route = _route(source, node, body.version(), products=1)
                    if route is None or len(route.between) == 1:
                        continue  # next to it: fuse-affine's
                    edit = _plan(node, source, factor, route)
                except Refusal as refusal:
                    yield Site(gir.where(node), str(refusal))
                    continue
                yield Site(gir.where(node), f"folded into {gir.where(route.linear.node)} before it", edit)
        yield from RULES.sites(model)


def _scaling(node: ir.Node) -> tuple[ir.Value, float] | None:
    """What a Mul or Div by one number scales, and by what."""
    if not gir.is_op(node, "Mul", "Div") or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    number, source = gir.scalar(right), left
    if number is None and node.op_type == "Mul":
        number, source = gir.scalar(left), right
    operand = right if source is left else left
    if source is None or source.dtype not in FLOATS - {ir.DataType.BFLOAT16} or not isinstance(number, float):
        return None
    rank, added = gir.rank(source), gir.rank(operand)
    if added != 0 and (rank is None or added is None or added > rank):
        return None  # it adds axes
    if node.op_type == "Div":
        return (source, 1.0 / number) if number else None
    return source, number


def _route(value: ir.Value, user: ir.Node, version: int, *, products: int) -> _Route | None:
    """Back over values that nothing else uses, moves, one Split, and at most so many products of two variables."""
    between: list[ir.Value] = []
    part: Part | None = None
    while use_count(value) == 1 and only_user(value) is user:
        between.append(value)
        found = producing(value, version)
        if found is not None:
            if part is None:
                return _Route(found, tuple(between), None)
            rank = gir.rank(value)
            is_channels = not found.convolves and rank is not None and part.axis == rank - 1
            return _Route(found, tuple(between), slice(part.start, part.end)) if is_channels else None
        before = value.producer()
        assert before is not None, "it has a user in the graph of its producer"
        if products and part is None and gir.is_op(before, "MatMul"):
            for operand in before.inputs:
                deeper = None if operand is None else _route(operand, before, version, products=products - 1)
                if deeper is not None:
                    return _Route(deeper.linear, (*between, *deeper.between), deeper.part)
            return None
        if part is not None:
            part = ahead_of(before, part)
            if part is None:
                return None
        elif gir.is_op(before, "Split"):
            part = split_off(before, value)
            if part is None:
                return None
        elif not gir.is_op(before, *_MOVES):
            return None
        source = before.inputs[0] if before.inputs else None
        if source is None:
            return None
        value, user = source, before
    return None


def _plan(node: ir.Node, source: ir.Value, factor: float, route: _Route) -> Callable[[], None]:
    low, high = _LIMITS
    if not low < abs(factor) < high:
        raise Refusal("its factor is too large or too small to be sure of")
    crosses = any(gir.is_op(value.producer(), "MatMul") for value in route.between[:-1])
    if crosses and abs(factor) > 1 and source.dtype == ir.DataType.FLOAT16:
        raise Refusal("its factor might overflow ahead of the product")
    found = route.linear
    wide = np.asarray(factor, dtype=np.float64)
    if route.part is not None:
        wide = np.ones(found.outputs)
        wide[route.part] = factor
    old = found.bias()
    weights = found.scaled(found.by_output(wide))
    bias = None if old is None else found.rounded_bias(old * wide)

    def edit() -> None:
        found.assign(weights, bias)
        for value in route.between:
            value.name = None  # it no longer holds what the name stood for
        gir.succeed(node.outputs[0], source)
        gir.erase_if_dead(node)

    return edit
