"""Models with local functions: one with attributes handed on, one called from another, one never called."""

from __future__ import annotations

import onnx_ir as ir

from .sketch import Sketch

_DOMAIN = "graphopt.test"


def _leaky_sum(opset: int) -> ir.Function:
    """``LeakyRelu(a + b, alpha=@alpha)`` with an Identity to remove; alpha's default is 0.1."""
    g = Sketch("LeakySum", opset=opset)
    a, b = g.input("a", None), g.input("b", None)
    total = g.op("Identity", g.op("Add", a, b))
    node = ir.node(
        "LeakyRelu",
        [total],
        {"alpha": ir.RefAttr("alpha", "alpha", ir.AttributeType.FLOAT)},
        outputs=[ir.Value(name="result")],
        name="leaky",
    )
    g.nodes.append(node)
    g.output(node.outputs[0], dtype=None)
    default = ir.AttrFloat32("alpha", 0.1)
    return ir.Function(_DOMAIN, "LeakySum", "", graph=g.graph(), attributes=[default])


def _twice(opset: int) -> ir.Function:
    """Calls LeakySum two times, the second with an alpha of its own; gives both values and takes two."""
    g = Sketch("Twice", opset=opset)
    x, y = g.input("x", None), g.input("y", None)
    once = g.op("LeakySum", x, y, domain=_DOMAIN)
    g.output(once, dtype=None)
    g.output(g.op("LeakySum", once, y, domain=_DOMAIN, alpha=0.3), dtype=None)
    graph = g.graph()
    graph.opset_imports[_DOMAIN] = 1
    return ir.Function(_DOMAIN, "Twice", "", graph=graph, attributes=[])


def _unused(opset: int) -> ir.Function:
    """A function no node calls."""
    g = Sketch("Unused", opset=opset)
    g.output(g.op("Neg", g.input("x", None)), dtype=None)
    return ir.Function(_DOMAIN, "Unused", "", graph=g.graph(), attributes=[])


def function_model(*, opset: int = 17, seed: int = 0) -> ir.Model:
    """``x`` [N, 4] through local functions: nested calls, an attribute default and an attribute given."""
    g = Sketch("function_model", opset=opset, ir_version=8, seed=seed)
    x = g.input("x", ["N", 4])
    weight = g.random(4, scale=1.0)
    first, second = g.ops("Twice", x, weight, outputs=2, domain=_DOMAIN)
    g.output(g.op("LeakySum", first, second, domain=_DOMAIN, alpha=0.5), ["N", 4], name="y")
    return g.model([_leaky_sum(opset), _twice(opset), _unused(opset)], {_DOMAIN: 1})
