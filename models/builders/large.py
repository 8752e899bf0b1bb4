"""Graphs of any number of nodes, to measure how a pass's cost grows, with the counts they must come down to.

The reference results, of the best peers at 10,000 nodes, are 4,287 (chain), 784 (wide) and 5,331 (sub).
Those of chain and wide are these graphs' own minima too; that of sub is another graph's, of the same kind
(see ``sub``). Constant nodes are not counted, nodes in bodies are.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .sketch import BOOL, INT64, Sketch

_DISTINCT = 97
_PERIOD = 7
_DEPTH = 12


def _link(g: Sketch, value: ir.Value, number: int, constants: tuple[ir.Value, ...]) -> ir.Value:
    """One node of the chain; of each seven, three (Add, Relu, Mul) are there to stay."""
    add, half, two = constants
    kind = number % _PERIOD
    if kind == 0:
        return g.op("Add", value, add)
    if kind == 1:
        return g.op("Relu", value)
    if kind == 2:
        return g.op("Identity", value)
    if kind in (3, 4):
        return g.op("Transpose", value, perm=[0, 2, 1])
    if kind == 5:
        g.op("Mul", half, two, out=f"factor_{g.name}_{number}")
        return value
    return g.op("Mul", value, g.nodes[-1].outputs[0])


def _constants(g: Sketch) -> tuple[ir.Value, ...]:
    """One square offset (so that it means the same on both sides of a Transpose), and two factors."""
    return (
        g.weight(np.full((4, 4), 0.125, np.float32), "offset"),
        g.weight(np.full((4, 4), 0.5, np.float32), "half"),
        g.weight(np.full((1,), 1.75, np.float32), "factor"),
    )


def chain(n: int = 10_000, *, opset: int = 17) -> ir.Model:
    """A chain of exactly ``n`` nodes: Add, Relu, Identity, Transpose, Transpose, Mul of constants, Mul by it.

    Simplified, each seven are three (Add, Relu, Mul by a constant): see ``chain_minimum``.
    Input ``x`` and output ``y`` are [N, 4, 4].
    """
    g = Sketch("chain", opset=opset)
    value = g.input("x", ["N", 4, 4])
    constants = _constants(g)
    for number in range(n):
        value = _link(g, value, number, constants)
    g.output(value, ["N", 4, 4], name="y")
    return g.model()


def chain_minimum(n: int = 10_000) -> int:
    """Nodes of ``chain(n)`` after simplification: 3 of 7, the rest by hand; 4,287 at 10,000."""
    left_over = (0, 1, 2, 2, 3, 2, 2)[n % _PERIOD]
    return n // _PERIOD * 3 + left_over


def wide(n: int = 10_000, *, opset: int = 17) -> ir.Model:
    """About ``n`` nodes: Mul+Tanh pairs of which 97 are distinct, summed up by a tree of Adds.

    Simplified by common subexpressions, 97 pairs and the distinct Adds remain: see ``wide_minimum``.
    Input ``x`` and output ``y`` are [N, 8].
    """
    g = Sketch("wide", opset=opset)
    x = g.input("x", ["N", 8])
    factors = [g.weight(np.full((8,), 0.01 * (i + 1), np.float32), "factor") for i in range(_DISTINCT)]
    level = [g.op("Tanh", g.op("Mul", x, factors[i % _DISTINCT])) for i in range((n + 1) // 3)]
    while len(level) > 1:
        paired = [g.op("Add", a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(level) - len(level) % 2 :]
    g.output(level[0], ["N", 8], name="y")
    return g.model()


def wide_minimum(n: int = 10_000) -> int:
    """Nodes of ``wide(n)`` after common subexpressions: the pairs' and the distinct Adds'."""
    leaves = (n + 1) // 3
    level: list[int] = [i % _DISTINCT for i in range(leaves)]
    seen: dict[tuple[int, int], int] = {}
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2], strict=False))
        paired = [seen.setdefault((min(pair), max(pair)), _DISTINCT + len(seen)) for pair in pairs]
        level = paired + level[len(level) - len(level) % 2 :]
    return 2 * min(leaves, _DISTINCT) + len(seen)


def _stretch(g: Sketch, value: ir.Value, n: int) -> ir.Value:
    """``n`` links of the chain inside any body, with constants of that body's own."""
    constants = _constants(g)
    for number in range(n):
        value = _link(g, value, number, constants)
    return value


def _shares(n: int) -> list[int]:
    """How ``sub`` spreads its nodes: a stretch for each of the 12 levels, one for Loop and one for Scan."""
    fixed = _DEPTH * 4 + 5
    each, rest = divmod(max(n - fixed, 0), _DEPTH + 2)
    return [each + (1 if i < rest else 0) for i in range(_DEPTH + 2)]


def sub(n: int = 10_000, *, opset: int = 17) -> ir.Model:
    """Exactly ``n`` nodes (53 or more): Ifs 12 deep, then a Loop, then a Scan, a stretch of chain in each.

    A level is Gather (of its flag), If, a stretch in its then-branch, which starts with an Identity of the
    level around it, and an Identity that passes the outer value through in its else-branch. The reference
    result, 5,331 of 10,000, is of a graph whose stretches hold fewer removable nodes; see ``sub_minimum``.
    Inputs: ``x`` [N, 4, 4], ``flags`` [12] (bool), ``trips`` (int64); outputs ``y`` [N, 4, 4], ``sums``.
    """
    g = Sketch("sub", opset=opset)
    x = g.input("x", ["N", 4, 4])
    flags = g.input("flags", [_DEPTH], BOOL)
    trips = g.input("trips", [], INT64)
    shares = _shares(n)

    def level(at: Sketch, value: ir.Value, number: int) -> ir.Value:
        if number == _DEPTH:
            return value
        flag = at.op("Gather", flags, at.scalar(number, np.int64), axis=0)
        yes, no = at.body("then"), at.body("else")
        yes.output(level(yes, _stretch(yes, yes.op("Identity", value), shares[number]), number + 1))
        no.output(no.op("Identity", value))
        return at.op("If", flag, then_branch=yes.graph(), else_branch=no.graph())

    value = level(g, x, 0)
    body = g.body("loop")
    body.input("iteration", [], INT64)
    go_on = body.input("go_on", [], BOOL)
    carried = body.input("carried", ["N", 4, 4])
    body.output(body.op("Identity", go_on), [], BOOL)
    body.output(_stretch(body, carried, shares[_DEPTH]), ["N", 4, 4])
    (value,) = g.ops("Loop", trips, None, value, outputs=1, body=body.graph())
    start = g.weight(np.zeros((4, 4), np.float32), "start")
    step = g.body("scan")
    state = step.input("state", [4, 4])
    item = step.input("item", [4, 4])
    grown = step.op("Add", state, item)
    reshaped = step.op("Unsqueeze", grown, step.ints(0))
    step.output(grown, [4, 4])
    step.output(_stretch(step, reshaped, shares[_DEPTH + 1]), [1, 4, 4])
    final, sums = g.ops("Scan", start, value, outputs=2, body=step.graph(), num_scan_inputs=1)
    g.output(value, ["N", 4, 4], name="y")
    g.output(final, [4, 4], name="final")
    g.output(sums, ["N", 1, 4, 4], name="sums")
    return g.model()


def sub_minimum(n: int = 10_000) -> int:
    """Nodes of ``sub(n)`` after simplification, of 67 nodes or more.

    A level keeps Gather, If and the else-branch's Identity (a body's output must be made in the body);
    Loop keeps itself and the Identity of its condition, Scan itself, its Add and its Unsqueeze; a stretch
    keeps what a chain of its length does.
    """
    return _DEPTH * 3 + 2 + 3 + sum(chain_minimum(share) for share in _shares(n))
