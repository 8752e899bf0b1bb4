"""If, Loop and Scan graphs, each with something in it that a careless rewrite gets wrong.

Captures of outer values (used nowhere else), bodies whose outputs are passed-through values, one value
given out twice, the same names in both branches, weights and constants inside bodies, deep nesting.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .sketch import BOOL, INT64, Sketch


def if_model(*, opset: int = 17, seed: int = 0) -> ir.Model:
    """An If on an input: one branch computes from two captured values, the other passes one through.

    ``captured`` is used in the branches only; inner names are equal in both branches where ONNX allows it.
    """
    g = Sketch("if_model", opset=opset, seed=seed)
    flag = g.input("flag", [], BOOL)
    x = g.input("x", ["N", 4])
    captured = g.op("Relu", x, out="captured")
    weight = g.random(4, 4)
    yes = g.body("then")
    yes.output(yes.op("MatMul", yes.op("Identity", captured), weight))
    no = g.body("else")
    no.output(no.op("Identity", captured))
    (result,) = g.ops("If", flag, outputs=["chosen"], then_branch=yes.graph(), else_branch=no.graph())
    g.output(g.op("Add", result, x), ["N", 4], name="y")
    return g.model()


def if_constant(*, opset: int = 17, seed: int = 0) -> ir.Model:
    """An If whose condition is computed from constants; inlining it must keep names apart and order right.

    The taken branch has an initialiser of its own, a nested If on an input, and a name (``tanh``) that the
    outer graph has as well further down.
    """
    g = Sketch("if_constant", opset=opset, seed=seed)
    flag = g.input("flag", [], BOOL)
    x = g.input("x", ["N", 4])
    condition = g.op("Equal", g.constant(np.asarray(3, np.int64)), g.constant(np.asarray(3, np.int64)))
    yes = g.body("then")
    inner_yes, inner_no = yes.body("inner_then"), yes.body("inner_else")
    tanh = yes.op("Tanh", yes.op("Mul", x, yes.random(4, scale=1.0)), out="tanh")
    inner_yes.output(inner_yes.op("Neg", tanh))
    inner_no.output(inner_no.op("Identity", tanh))
    nested = yes.op("If", flag, then_branch=inner_yes.graph(), else_branch=inner_no.graph())
    yes.output(nested)
    no = g.body("else")
    no.output(no.op("Abs", x))
    result = g.op("If", condition, then_branch=yes.graph(), else_branch=no.graph(), out="picked")
    g.output(g.op("Add", result, g.op("Tanh", x, out="tanh_outside")), ["N", 4], name="y")
    return g.model()


def if_same_value_twice(*, opset: int = 17, seed: int = 0) -> ir.Model:
    """Branches that give one outer value out on both outputs (through Identity); it is a graph output too."""
    g = Sketch("if_same_value_twice", opset=opset, seed=seed)
    flag = g.input("flag", [], BOOL)
    x = g.input("x", ["N", 4])
    outer = g.op("Exp", x, out="outer")
    yes = g.body("then")
    yes.output(yes.op("Identity", outer))
    yes.output(yes.op("Identity", outer))
    no = g.body("else")
    no.output(no.op("Neg", outer))
    no.output(no.op("Identity", x))
    first, second = g.ops("If", flag, outputs=2, then_branch=yes.graph(), else_branch=no.graph())
    g.output(g.op("Identity", first), ["N", 4], name="first")
    g.output(g.op("Identity", second), ["N", 4], name="second")
    g.output(outer, ["N", 4])
    return g.model()


def loop_model(*, opset: int = 17, seed: int = 0, trips: int | None = None) -> ir.Model:
    """A Loop with two carried values (swapped each trip) and a scan output, capturing a weight and a value.

    ``trips`` fixes the trip count as a constant (1 makes the loop one that can be inlined); without it
    the count is the input ``trips``.
    """
    g = Sketch("loop_model", opset=opset, seed=seed)
    x = g.input("x", ["N", 4])
    count = g.input("trips", [], INT64) if trips is None else g.scalar(trips, np.int64)
    captured = g.op("Sigmoid", x, out="captured")
    weight = g.random(4, 4)
    body = g.body("loop_body")
    body.input("iteration", [], INT64)
    go_on = body.input("go_on", [], BOOL)
    a = body.input("a", ["N", 4])
    b = body.input("b", ["N", 4])
    body.output(body.op("Identity", go_on), [], BOOL)
    body.output(body.op("Identity", b), ["N", 4])
    body.output(body.op("Tanh", body.op("Add", body.op("MatMul", a, weight), captured)), ["N", 4])
    body.output(body.op("Identity", a), ["N", 4])
    final_a, final_b, history = g.ops("Loop", count, g.scalar(1, np.bool_), x, captured, outputs=3, body=body.graph())
    g.output(final_a, ["N", 4], name="final_a")
    g.output(final_b, ["N", 4], name="final_b")
    g.output(history, [None, "N", 4], name="history")
    return g.model()


def loop_while(*, opset: int = 17, seed: int = 0) -> ir.Model:
    """A Loop without a trip count that stops on a condition computed in its body."""
    g = Sketch("loop_while", opset=opset, seed=seed)
    x = g.input("x", [4])
    body = g.body("while_body")
    body.input("iteration", [], INT64)
    body.input("go_on", [], BOOL)
    total = body.input("total", [4])
    grown = body.op("Add", total, body.op("Abs", body.op("Add", x, body.scalar(1.0))))
    largest = body.op("ReduceMax", grown, keepdims=0)
    body.output(body.op("Less", largest, body.scalar(10.0)), [], BOOL)
    body.output(body.op("Add", grown, body.scalar(0.5)), [4])
    (result,) = g.ops("Loop", None, g.scalar(1, np.bool_), x, outputs=1, body=body.graph())
    g.output(result, [4], name="total")
    return g.model()


def scan_model(*, opset: int = 17, seed: int = 0) -> ir.Model:
    """A Scan whose body gives its state and a copy of it ([c, s] that must not become [s, s])."""
    g = Sketch("scan_model", opset=opset, seed=seed)
    x = g.input("x", ["T", 4])
    start = g.weight(np.zeros(4, np.float32), "start")
    scale = g.op("Relu", g.random(4, scale=1.0), out="scale")
    body = g.body("scan_body")
    state = body.input("state", [4])
    item = body.input("item", [4])
    new = body.op("Add", state, body.op("Mul", item, scale))
    body.output(new, [4])
    body.output(body.op("Identity", new), [4])
    final, sums = g.ops("Scan", start, x, outputs=2, body=body.graph(), num_scan_inputs=1)
    g.output(final, [4], name="final")
    g.output(sums, ["T", 4], name="sums")
    return g.model()


def nested(depth: int = 12, *, opset: int = 17, seed: int = 0) -> ir.Model:
    """Ifs in Ifs, ``depth`` deep; each level captures the level above and, at the bottom, the input itself.

    Inputs: ``x`` [N, 4], ``flags`` [depth] (bool, one for each level); output ``y`` [N, 4].
    """
    g = Sketch("nested", opset=opset, seed=seed)
    flags = g.input("flags", [depth], BOOL)
    x = g.input("x", ["N", 4])

    def level(at: Sketch, value: ir.Value, number: int) -> ir.Value:
        if number == depth:
            return at.op("Add", value, x)
        flag = at.op("Gather", flags, at.scalar(number, np.int64), axis=0)
        warm = at.op("Tanh", value)
        yes, no = at.body("then"), at.body("else")
        yes.output(yes.op("Identity", level(yes, yes.op("Mul", warm, yes.random(4, scale=1.0)), number + 1)))
        no.output(no.op("Identity", value))
        return at.op("If", flag, then_branch=yes.graph(), else_branch=no.graph())

    g.output(level(g, x, 0), ["N", 4], name="y")
    return g.model()
