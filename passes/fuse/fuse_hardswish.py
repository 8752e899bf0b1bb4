"""Write every dialect of HardSwish in the form the target runs fastest.

    x * Clip(x + 3, 0, 6) / 6  ->  HardSwish(x)                             where the target likes it
                               ->  x * HardSigmoid{alpha=1/6, beta=1/2}(x)  elsewhere, in any opset

Source: Howard et al., Searching for MobileNetV3, 2019, section 5.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._affine import Refusal
from ._ramp import Chain, Ramp, Steps, hard_sigmoid, runnable, tolerance


@dataclass(frozen=True)
class FuseHardswish(Pass):
    """Replaces x * min(max(a x + b, 0), h) / h by x * HardSigmoid(x), or HardSwish where the target likes it.

    The ramp may be written with Clip, Relu, Min, Max, Add, Sub, Mul, Div and Neg in any order; the division
    may come first, last, or on either factor. From opset 7 on, for float and float16.

    Keeps it when a result in between is used elsewhere, and for types for which ONNX Runtime has no kernel.
    """

    name: ClassVar[str] = "fuse-hardswish"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """Anchor at the product."""
        for body in gir.bodies(model):
            steps = Steps(body.version())
            whole = context.target.likes("HardSwish") and body.version() >= 14
            for node in body.nodes():
                if not gir.is_op(node, "Mul") or len(node.inputs) != 2:
                    continue
                found = _find(node, steps)
                if found is None or (found.normal and not (whole and found.standard)):
                    continue
                try:
                    found.check()
                except Refusal as refusal:
                    yield Site(gir.where(node), str(refusal))
                    continue
                if whole and found.standard:
                    yield Site(gir.where(node), "written as HardSwish(x)", found.as_hard_swish)
                else:
                    yield Site(gir.where(node), "written as x * HardSigmoid(x)", found.as_product)


@dataclass(frozen=True, eq=False)
class _Found:
    """``x * ramp``, where the ramp rises from 0 to 1.

    Attributes:
        x: the operand.
        ramp: in terms of x.
        last: the node that computes the product, scaled.
        between: the values that go.
        chains: both factors.
        normal: there is nothing but a Mul and a HardSigmoid already.
    """

    x: ir.Value
    ramp: Ramp
    last: ir.Node
    between: tuple[ir.Value, ...]
    dtype: ir.DataType | None
    normal: bool

    @property
    def standard(self) -> bool:
        """True for the numbers of HardSwish."""
        near = tolerance(self.dtype)
        return abs(self.ramp.slope * 6 - 1) <= near and abs(self.ramp.offset * 2 - 1) <= near

    def check(self) -> None:
        """Raises ``Refusal`` where the nodes in between would stay, or the new one would have no kernel."""
        for value in self.between:
            if len(value.uses()) != 1 or value.is_graph_output():
                raise Refusal(f"the result of {gir.where(_producer(value))} is also used elsewhere")
        runnable(self.dtype, "HardSigmoid")

    def as_product(self) -> None:
        """Put ``x * HardSigmoid(x)`` in its place."""
        gate = hard_sigmoid(self.x, self.ramp.slope, self.ramp.offset)
        product = ir.node("Mul", [self.x, gate.outputs[0]])
        gir.replace_node(self.last, [gate, product], [product.outputs[0]])

    def as_hard_swish(self) -> None:
        """Put ``HardSwish(x)`` in its place."""
        node = ir.node("HardSwish", [self.x])
        gir.replace_node(self.last, [node], [node.outputs[0]])


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _find(product: ir.Node, steps: Steps) -> _Found | None:
    for factor, gate in (product.inputs, reversed(tuple(product.inputs))):
        if factor is None or gate is None or any(gir.constant(value) is not None for value in (factor, gate)):
            continue
        chain = steps.chain(gate)
        if not chain.steps or _producer(gate).graph is not product.graph:
            continue
        for x, scale, scaling in _multiples(factor, steps):
            for length in range(1, len(chain.steps) + 1):
                if chain.steps[length - 1].source is x:
                    found = _match(product, chain, length, scale, scaling, steps)
                    if found is not None:
                        return found
    return None


def _multiples(factor: ir.Value, steps: Steps) -> Iterator[tuple[ir.Value, float, tuple[ir.Value, ...]]]:
    """What the factor is a multiple of: the value, how often, and the values in between."""
    yield factor, 1.0, ()
    chain = steps.chain(factor)
    for length in range(1, len(chain.steps) + 1):
        ramp = chain.ramps[length]
        if ramp == Ramp(slope=ramp.slope):
            between = tuple(item.node.outputs[0] for item in chain.steps[:length])
            yield chain.steps[length - 1].source, ramp.slope, between


def _match(
    product: ir.Node, chain: Chain, length: int, scale: float, scaling: tuple[ir.Value, ...], steps: Steps
) -> _Found | None:
    ramp, dtype = chain.ramps[length], chain.dtype()
    near = tolerance(dtype)
    high = ramp.high
    if not (0 < high < float("inf") and ramp.rises_from_zero_to(high, near)):
        return None
    between = (*scaling, *(item.node.outputs[0] for item in chain.steps[:length]))
    last, total = product, scale * high
    if abs(total - 1) > near:
        after = _after(product, steps)
        if after is None:
            return None
        last, factor = after
        between, total = (*between, product.outputs[0]), total * factor
    if abs(total - 1) > near:
        return None
    normal = last is product and not scaling and length == 1 and chain.steps[0].node.op_type == "HardSigmoid"
    x = chain.steps[length - 1].source
    return _Found(x, Ramp(ramp.slope / high, ramp.offset / high, 0.0, 1.0), last, between, dtype, normal)


def _after(product: ir.Node, steps: Steps) -> tuple[ir.Node, float] | None:
    """The multiplication or division by a number that follows the product."""
    for user, _ in product.outputs[0].uses():
        if gir.is_op(user, "Mul", "Div") and user.graph is product.graph:
            found = steps.at(user)
            if found is not None:
                return user, found.ramp.slope
    return None
