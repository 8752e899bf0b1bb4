"""plan_memory: every tensor is whole for as long as it is needed, in an arena hardly larger than what lives at once."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphopt as go
from graphopt.errors import GraphoptError
from graphopt.ir.memory_plan import MemoryPlan
from graphopt.ir.planner import plan_memory
from graphopt.models.builders import BUILDERS

from .arena_run import ArenaRun


def model(body: str, declared: str = "g (float[16] x) => (float[16] y)", opset: int = 17) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": {opset}]> {declared} {{ {body} }}')


def plan(body: str, **options: bool | int) -> MemoryPlan:
    return plan_memory(model(body), **options)


def test_neighbours_of_a_chain_take_turns() -> None:
    found = plan("a = Softmax(x) b = Softmax(a) c = Softmax(b) y = Softmax(c)")
    assert (found.naive, found.arena, found.bound, found.in_order) == (256, 128, 128, 128)
    assert found.offsets["a"] == found.offsets["c"] != found.offsets["b"] == found.offsets["y"]


def test_an_element_wise_result_is_written_over_an_operand_that_nothing_reads_later() -> None:
    found = plan("a = Softmax(x) b = Softmax(a) c = Add(a, b) d = Relu(c) y = Mul(d, c)")
    assert [(item.names[0], item.over) for item in found.places] == [
        ("a", ""), ("b", ""), ("c", "a"), ("d", ""), ("y", "d"),
    ]  # fmt: skip
    assert (found.arena, found.bound, found.in_order) == (128, 128, 192)
    assert plan("a = Softmax(x) y = Relu(a)").arena == 64
    assert plan("a = Softmax(x) y = Relu(a)", in_place=False).arena == 128


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("y = Relu(x)", "the input belongs to the caller"),
        ("a = Softmax(x) y = Softmax(a)", "it reads what it has written"),
        ("a = Softmax(x) b = ReduceSum(a) y = Add(b, x)", "b is smaller"),
        ("a = Softmax(x) y = Sum(x, x, a)", "the first sum is written before a is read"),
        ("a = Softmax(x) b = Cast<to = 6>(a) y = Cast<to = 1>(b)", "another type"),
    ],
)
def test_a_result_has_its_own_place(body: str, why: str) -> None:
    found = plan(body)
    assert all(item.over == "" for item in found.places), why


def test_an_output_is_not_written_over() -> None:
    found = plan_memory(model("a = Softmax(x) y = Relu(a)", "g (float[16] x) => (float[16] y, float[16] a)"))
    assert found.offsets["a"] != found.offsets["y"]
    assert found.arena == 128


def test_a_view_is_its_operand() -> None:
    text = "s = Constant<value = int64[2] {4, 4}>() a = Softmax(x) b = Reshape(a, s) c = Relu(b) y = Softmax(c)"
    found = plan_memory(model(text, "g (float[16] x) => (float[4,4] y)"))
    assert found.offsets["a"] == found.offsets["b"] == found.offsets["c"]
    assert found.arena == 128


def test_branches_lie_over_one_another_and_beside_what_they_read() -> None:
    text = """a = Softmax(x) y = If (q) <
        then_branch = t () => (float[16] p) { b = Softmax(a) c = Softmax(b) p = Softmax(c) },
        else_branch = e () => (float[16] o) { o = Softmax(a) }>"""
    found = plan_memory(model(text, "g (bool q, float[16] x) => (float[16] y)"))
    assert [(item.node, item.plan.graph, item.plan.arena) for item in found.inner] == [
        ("If 'y'", "t", 128),
        ("If 'y'", "e", 64),
    ]
    assert found.inner[0].offset == found.inner[1].offset
    assert found.arena == found.bound == 256  # a, y and the branch
    ArenaRun(model(text, "g (bool q, float[16] x) => (float[16] y)"), found)


def test_what_a_loop_carries_lives_beside_what_it_becomes() -> None:
    text = """a = Softmax(x) y = Loop (n, q, a) <body = l (int64 i, bool c, float[16] s) => (bool d, float[16] u)
        { d = Identity(c) v = Relu(s) u = Relu(v) }>"""
    found = plan_memory(model(text, "g (int64 n, bool q, float[16] x) => (float[16] y)"))
    body = found.inner[0].plan
    assert body.offsets["s"] not in (body.offsets["v"], body.offsets["u"])
    assert body.offsets["c"] == body.offsets["d"]
    assert body.arena == 4 * 64  # s, u, i and c
    ArenaRun(model(text, "g (int64 n, bool q, float[16] x) => (float[16] y)"), found)


def test_a_function_needs_memory_where_it_is_called() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "f": 1]> g (float[16] x) => (float[16] y) { a = f.two(x) y = f.two(a) }
        <domain: "f", opset_import: ["": 17]> two (x) => (y) { b = Softmax(x) c = Softmax(b) y = Softmax(c) }"""
    found = plan_memory(ir.from_onnx_text(text))
    assert [item.plan.arena for item in found.inner] == [128, 128]
    assert found.arena == 256
    ArenaRun(ir.from_onnx_text(text), found)


def test_sizes_are_given_by_symbol_or_place_and_else_assumed() -> None:
    made = model("a = MatMul(x, z) y = Softmax(a)", "g (float[N,M] x, float[M,K] z) => (float y)")
    found = plan_memory(made, {"N": 4, "z:1": 8})
    assert found.assumed == (("M", 64),)
    assert [item.bytes for item in found.places] == [128, 128]
    assert plan_memory(made, assumed=2).assumed == (("N", 2), ("M", 2), ("K", 2))
    with pytest.raises(GraphoptError, match="no input has an open dimension 'Q'") as caught:
        plan_memory(made, {"Q": 1})
    assert "the open ones: N, M, K" in caught.value.hint
    with pytest.raises(GraphoptError, match="not negative"):
        plan_memory(made, {"N": -1})
    with pytest.raises(GraphoptError, match="no alignment"):
        plan_memory(made, alignment=48)


def test_sizes_that_depend_on_the_data_are_marked_as_guessed() -> None:
    found = plan_memory(model("a = NonZero(x) b = Gather(x, a) y = Relu(b)", "g (float[16] x) => (float y)"))
    assert {item.names[0]: item.guessed for item in found.places}["b"]
    assert found.guessed >= 2


def test_the_fullest_moment_is_shown() -> None:
    found = plan(
        "a = Softmax(x) b = Softmax(a) c = Softmax(x) d = Concat<axis = 0>(a, b, c) e = ReduceSum(d) y = Add(x, e)"
    )
    assert found.fullest == 3
    assert [item.names[0] for item in found.alive(3)] == ["d", "a", "b", "c"]
    assert found.alive(3)[0].node == "Concat 'd'"


def test_a_plan_is_json_and_public(tmp_path: Path) -> None:
    made = model("a = Softmax(x) y = Relu(a)")
    go.save(made, tmp_path / "m.onnx")
    found = plan_memory(tmp_path / "m.onnx")
    again = json.loads(json.dumps(found.as_json()))
    assert again["arena"] == 64 and again["places"][1]["over"] == "a"
    assert go.plan_memory(made) == found


def test_a_graph_without_work_needs_nothing() -> None:
    found = plan_memory(model("", "g (float[16] x) => (float[16] x)"))
    assert (found.arena, found.bound, found.naive, found.fullest) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_builder_runs_in_its_arena(name: str) -> None:
    made = BUILDERS[name]()
    for in_place in (False, True):
        found = plan_memory(made, assumed=3, in_place=in_place)
        assert found.bound <= found.arena <= found.naive
        assert found.bound <= found.in_order
        assert found.arena <= 1.1 * found.bound


OPERATORS = (
    "Relu",
    "Tanh",
    "Add",
    "Mul",
    "Softmax",
    "Concat",
    "Identity",
    "Flatten",
    "ReduceMax",
    "Sum",
    "If",
    "Where",
    "Sub",
)


def random_text(chance: random.Random, count: int) -> str:
    """Rows of 16 numbers; branches read what lies around them."""
    rows = {"x": 3, "z": 1}

    def one(name: str, operator: str) -> str:
        a = chance.choice(list(rows))
        if operator in ("Add", "Mul", "Sub", "Sum", "Where"):
            others = [item for item in rows if rows[item] in (rows[a], 1)]
            rest = [chance.choice(others) for _ in range(2 if operator == "Sum" else 1)]
            rows[name] = max(rows[item] for item in (a, *rest))
            return f"{name} = {operator}({', '.join([*(['q'] if operator == 'Where' else []), a, *rest])})"
        if operator == "Concat":
            b = chance.choice(list(rows))
            rows[name] = rows[a] + rows[b] if rows[a] + rows[b] < 40 else rows[a]
            return f"{name} = Concat<axis = 0>({a}, {b})" if rows[a] + rows[b] < 40 else f"{name} = Relu({a})"
        if operator == "If":
            rows[name] = rows[a]
            b = chance.choice(list(rows))
            return (
                f"{name} = If (q) <then_branch = t{name} () => (float p{name}) {{ i{name} = Softmax({a}) p{name} = Relu(i{name}) }}, "
                f"else_branch = e{name} () => (float o{name}) {{ j{name} = Relu({b if b != name else a}) o{name} = Tanh({a}) }}>"
            )
        rows[name] = 1 if operator == "ReduceMax" else rows[a]
        return f"{name} = {operator}{'<axes = [0]>' if operator == 'ReduceMax' else ''}({a})"

    lines = [one(f"n{index}", chance.choice(OPERATORS)) for index in range(count)]
    outputs = chance.sample([f"n{index}" for index in range(count)], min(count, chance.randint(1, 3)))
    declared = ", ".join(f"float {name}" for name in outputs)
    return f"g (bool q, float[3,16] x, float[1,16] z) => ({declared}) {{ {' '.join(lines)} }}"


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_random_graphs_run_in_their_arena(seed: int, count: int) -> None:
    text = random_text(random.Random(seed), count)
    made = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    plain = plan_memory(made, in_place=False)
    found = plan_memory(made)
    assert not found.guessed
    assert found.bound <= found.arena <= plain.arena
    assert all(item.over == "" for item in plain.places)
    for item in (plain, found):
        assert len({name for place in item.places for name in place.names}) == len(item.offsets)
        ArenaRun(made, item)


def test_the_run_on_tags_sees_a_wrong_plan() -> None:
    made = model("a = Softmax(x) b = Softmax(a) y = Add(a, b)")
    found = plan_memory(made, in_place=False)
    wrong = replace(found, places=tuple(replace(item, offset=0) for item in found.places))
    with pytest.raises(AssertionError, match="is gone"):
        ArenaRun(made, wrong)
