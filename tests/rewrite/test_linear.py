"""The work of all rules together grows with the graph and no faster, whatever its shape."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.rewrite import Rewrite, Worklist, constant, near, that

CONSTANTS = {"r": 2**0.5, "one": 1.0, "half": 0.5, "c": 3.0}


def model(nodes: list[onnx.NodeProto], output: str) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.float32(value), name) for name, value in CONSTANTS.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def gelu_chain(count: int) -> ir.Model:
    nodes, value = [], "x"
    for index in range(count // 5):
        for op_type, left, right, out in [
            ("Div", value, "r", "a"),
            ("Erf", f"a{index}", None, "b"),
            ("Add", "one", f"b{index}", "d"),
            ("Mul", f"d{index}", value, "e"),
            ("Mul", "half", f"e{index}", "f"),
        ]:
            nodes.append(helper.make_node(op_type, [left] if right is None else [left, right], [f"{out}{index}"]))
        value = f"f{index}"
    return model(nodes, value)


def add_chain(count: int) -> ir.Model:
    names = ["x", *(f"a{index}" for index in range(count))]
    return model(
        [helper.make_node("Add", [names[index], "c"], [names[index + 1]]) for index in range(count)], names[-1]
    )


def add_tree(count: int) -> ir.Model:
    nodes = [helper.make_node("Tanh", ["x"], [f"t{index}"]) for index in range(count // 2)]
    level = [node.output[0] for node in nodes]
    while len(level) > 1:
        above = []
        for left, right in zip(level[::2], level[1::2], strict=False):
            above.append(f"s{len(nodes)}")
            nodes.append(helper.make_node("Add", [left, right], [above[-1]]))
        level = above + ([level[-1]] if len(level) % 2 else [])
    return model(nodes, level[0])


def one_value_with_many_users(count: int) -> ir.Model:
    half = count // 2
    nodes = [helper.make_node("Mul", ["x", "c"], ["v"])]
    nodes += [helper.make_node("Add", ["v", "one"], [f"a{index}"]) for index in range(half)]
    value = "a0"
    for index in range(1, half):
        nodes.append(helper.make_node("Max", [value, f"a{index}"], [f"m{index}"]))
        value = f"m{index}"
    return model(nodes, value)


def never(match: object) -> bool:
    return False


GELU = Rewrite(
    "Mul(Mul(x, Add(Erf(Div(x, r)), one)), half)",
    "Gelu(x)",
    where=[near("r", 2**0.5), near("one", 1.0), near("half", 0.5)],
)
FOLD = Rewrite(
    "Add(Add(x, a), b)",
    "Add(x, total)",
    where=[constant("a", "b")],
    let={"total": lambda match: match.array("a") + match.array("b")},
)
DEEP = Rewrite("Add(Add(Add(Add(Add(a, b), c), d), e), f)", "Sum(a, b, c, d, e, f)", where=[that("never", never, "f")])
DEEP_LATE = Rewrite("Add(Add(Add(Add(Add(a, b), c), d), e), f)", "Sum(a, b, c, d, e, f)", where=[never])
INNER = Rewrite("Add(Mul(x, k), d)", "Sub(x, k)")
SIBLINGS = Rewrite("y = Add(v, a)\nz = Add(v, b)", "y = Sub(v, a)\nz = Sub(v, b)", where=[never])
FACTOR = Rewrite("Max(Add(v, a), Add(v, b))", "Add(v, Max(a, b))")


def work(make: Callable[[int], ir.Model], rules: list[Rewrite], count: int) -> tuple[int, int, int]:
    """Searches, steps in these and edits, for a model of ``count`` nodes."""
    worklist = Worklist(rules, make(count))
    sites = worklist.sites()
    edits, answer = 0, None
    while True:
        try:
            site = next(sites) if answer is None else sites.send(answer)
        except StopIteration:
            return worklist.searches, worklist.steps, edits
        answer = site.edit is not None
        if site.edit is not None:
            site.edit()
            edits += 1


@pytest.mark.parametrize(
    ("make", "rules", "edits"),
    [
        (gelu_chain, [GELU], lambda count: count // 5),
        (add_chain, [FOLD], lambda count: count - 1),
        (add_chain, [DEEP], lambda count: 0),
        (add_chain, [DEEP_LATE], lambda count: 0),
        (add_tree, [DEEP_LATE], lambda count: 0),
        (one_value_with_many_users, [INNER], lambda count: 0),
        (one_value_with_many_users, [FACTOR], lambda count: count // 2 - 1),
        (one_value_with_many_users, [GELU, DEEP, INNER, FACTOR], lambda count: count // 2),
    ],
    ids=["gelus", "fold", "deep", "late", "tree", "inner", "factor", "all"],
)
def test_twice_the_nodes_are_twice_the_work(make, rules, edits):
    counts = (500, 1000, 2000, 4000)
    found = [work(make, rules, count) for count in counts]
    assert [item[2] for item in found] == [edits(count) for count in counts]
    for (searches, steps, _), (more_searches, more_steps, _) in pairwise(found):
        assert more_searches <= 2.2 * searches + 50
        assert more_steps <= 2.2 * steps + 1000


def test_a_pair_of_siblings_costs_the_same_however_many_there_are():
    (few, few_steps, _), (many, many_steps, _) = (
        work(one_value_with_many_users, [SIBLINGS], count) for count in (400, 1600)
    )
    assert many_steps / many <= 1.2 * few_steps / few
    assert many <= 4.4 * few


def test_a_search_with_very_many_choices_is_given_up():
    nested = "x"
    for index in range(14):
        nested = f"Add({nested}, c{index})"
    names = ["x", *(f"a{index}" for index in range(100))]
    doubled = [helper.make_node("Add", [left, left], [right]) for left, right in pairwise(names)]
    worklist = Worklist([Rewrite(nested, "x", where=[never], shared=True)], model(doubled, names[-1]))
    for _ in worklist.sites():
        pass
    assert worklist.given_up > 0
    assert worklist.steps <= worklist.searches * 3000, "of 2^14 orders of operands"


def test_rules_that_cannot_match_cost_nothing():
    assert work(add_chain, [GELU, INNER, FACTOR], 2000) == (0, 0, 0)


def test_a_value_with_many_users_is_not_climbed_as_an_inner_value():
    assert work(one_value_with_many_users, [INNER], 2000) == (0, 0, 0)
