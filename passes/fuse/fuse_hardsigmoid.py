"""Write every dialect of the clipped line as HardSigmoid.

Clip(a * x + b, 0, 1)                                ->  HardSigmoid{alpha=a, beta=b}(x)
Clip(x + 3, 0, 6) / 6, Min(Relu(x + 3), 6) / 6, ...  ->  HardSigmoid{alpha=1/6, beta=1/2}(x)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._affine import Refusal
from ._ramp import Chain, Steps, hard_sigmoid, runnable, tolerance

_NEAR = 0.05  # more than any type's rounding


@dataclass(frozen=True)
class FuseHardsigmoid(Pass):
    """Replaces chains that compute min(max(a x + b, 0), 1) by HardSigmoid.

    Chains of Clip, Relu, Min, Max, Add, Sub, Mul, Div and Neg in any order; two nodes or more, with slope or
    offset (a mere Clip stays). From opset 7 on, for float and float16.

    Keeps a chain of a type for which ONNX Runtime has no HardSigmoid, and what lies before a result that is
    used elsewhere.
    """

    name: ClassVar[str] = "fuse-hardsigmoid"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """Anchor at the last node of each chain."""
        for body in gir.bodies(model):
            steps = Steps(body.version())
            for node in body.nodes():
                site = _site(node, steps)
                if site is not None:
                    yield site


def _site(node: ir.Node, steps: Steps) -> Site | None:
    last = steps.at(node)
    if last is None:
        return None
    low, high = steps.limits(last)
    if low < -_NEAR or high > 1 + _NEAR:
        return None  # keeps long chains of elementwise operators cheap
    chain = steps.chain(node.outputs[0])
    length = _longest(chain)
    if length is None:
        return None
    ramp, x = chain.ramps[length], chain.steps[length - 1].source
    try:
        runnable(chain.dtype(), "HardSigmoid")
    except Refusal as refusal:
        return Site(gir.where(node), str(refusal))

    def edit() -> None:
        new = hard_sigmoid(x, ramp.slope, ramp.offset)
        gir.replace_node(node, [new], [new.outputs[0]])

    return Site(gir.where(node), f"{length} nodes written as HardSigmoid", edit)


def _longest(chain: Chain) -> int | None:
    """The most steps that make up a HardSigmoid and go when it comes."""
    near = tolerance(chain.dtype())
    for length in range(chain.private(), 1, -1):
        ramp = chain.ramps[length]
        if ramp.rises_from_zero_to(1.0, near) and (ramp.slope, ramp.offset) != (1.0, 0.0):
            return length
    return None
