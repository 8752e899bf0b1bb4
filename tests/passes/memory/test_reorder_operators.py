"""reorder-operators: the same nodes in an order with a lower peak, never a higher one."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate.data import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.ir.activations import Schedule, Work, activation_peak
from graphopt.passes.memory._order import Effort, best_order, deepest_first, exact, frees_most
from graphopt.passes.memory.reorder_operators import ReorderOperators, in_units
from graphopt.pipeline import Context, PassManager, Recipe

# two wide tensors side by side, each summed to one number: 4 kB of activations more than one after the other
WIDE = "g (float[1,10] x, float[10,1000] v, float[10,1000] w) => (float[1,1] y)"
BEFORE = f"""{WIDE} {{
    a = MatMul(x, v)
    b = MatMul(x, w)
    c = ReduceSum(a)
    d = ReduceSum(b)
    y = Add(c, d) }}"""
AFTER = f"""{WIDE} {{
    a = MatMul(x, v)
    c = ReduceSum(a)
    b = MatMul(x, w)
    d = ReduceSum(b)
    y = Add(c, d) }}"""


def test_what_is_summed_up_is_summed_up_at_once(rewrites):
    done = rewrites(ReorderOperators(), BEFORE, AFTER)
    assert done.changed == [("graph 'g'", "peak of activations 8.0 kB -> 4.0 kB")]


def test_an_order_that_nothing_undercuts_is_kept(keeps):
    keeps(ReorderOperators(), AFTER, reason="peak of activations 4.0 kB; ")
    keeps(
        ReorderOperators(), "g (float[8] x) => (float[8] y) { a = Relu(x) y = Tanh(a) }", reason="no order needs less"
    )


def test_random_numbers_are_drawn_in_their_order(keeps):
    text = BEFORE.replace("b = MatMul(x, w)", "b = RandomNormal<shape = [1, 1000]>()")
    keeps(ReorderOperators(), text, reason="it draws random numbers", runs=False)


def test_branches_of_an_if_are_reordered(rewrites):
    def text(branch: str) -> str:
        body = branch.split("{", 1)[1].replace("y =", "p =").rsplit("}", 1)[0]
        return f"""g (bool q, float[1,10] x, float[10,1000] v, float[10,1000] w) => (float[1,1] y) {{ y = If (q) <
            then_branch = t () => (float[1,1] p) {{ {body} }},
            else_branch = e () => (float[1,1] o) {{ o = ReduceMax<keepdims = 1>(x) }}> }}"""

    done = rewrites(ReorderOperators(), text(BEFORE), text(AFTER))
    assert [where for where, _ in done.changed] == ["graph 't'"]


def test_functions_are_reordered(rewrites):
    def text(body: str) -> str:
        inner = body.split("{", 1)[1].rsplit("}", 1)[0]
        return f"""<ir_version: 8, opset_import: ["": 17, "f": 1]> {WIDE} {{ y = f.two(x, v, w) }}
            <domain: "f", opset_import: ["": 17]> two (x, v, w) => (y) {{ {inner} }}"""

    rewrites(ReorderOperators(), text(BEFORE), text(AFTER))


def test_what_a_subgraph_reads_lives_until_then(keeps):
    """The If reads ``a`` though it is no operand: it cannot run before it."""
    text = """g (bool c, float[1,10] x, float[10,1000] v) => (float[1,1] y) {
        a = MatMul(x, v)
        b = If (c) <then_branch = t () => (float[1,1] p) { p = ReduceSum(a) }, else_branch = e () => (float[1,1] q) { q = ReduceMax(a) }>
        y = Relu(b) }"""
    keeps(ReorderOperators(), text, reason="no order needs less")


def test_sizes_of_dynamic_dimensions_come_from_the_data():
    text = '<ir_version: 8, opset_import: ["": 17]> ' + BEFORE.replace("1000", "N")
    model = ir.from_onnx_text(text)
    arrays = {"x": (1, 10), "v": (10, 50), "w": (10, 50)}
    data = CalibrationData.open([{name: np.ones(shape, np.float32) for name, shape in arrays.items()}])
    _, fed = PassManager(Recipe((ReorderOperators(),)), verify="each").run(model, Context(data=data))
    _, assumed = PassManager(Recipe((ReorderOperators(assumed=500),)), verify="each").run(model)
    assert fed[0].changed[0][1] == "peak of activations 404 B -> 208 B"
    assert assumed[0].changed[0][1] == "peak of activations 4.0 kB -> 2.0 kB"


def test_the_peak_counts_what_is_computed_and_not_what_is_given():
    def peak(body: str, extra: str = "") -> int:
        return activation_peak(
            ir.from_onnx_text(
                f'<ir_version: 8, opset_import: ["": 20]> g (float[10] x) => (float[10] y) <int64[2] s = {{2, 5}}, int64[1] f = {{10}}{extra}> {{ {body} }}'
            )
        )

    assert peak("y = Relu(x)") == 40
    assert peak("a = Relu(x) y = Tanh(a)") == 40  # y is written over a
    assert peak("a = Relu(x) y = Gelu(a)") == 80
    assert peak("a = Gelu(x) b = Gelu(a) y = Gelu(b)") == 80
    assert peak("a = Gelu(x) b = Reshape(a, s) c = Gelu(b) y = Reshape(c, f)") == 80  # y is c
    assert peak("a = Gelu(x) b = Reshape(a, s) c = Reshape(b, f) y = Gelu(c)") == 80
    assert peak("a = Gelu(x) b = Gelu(a) y = Add(a, b)") == 80
    assert peak("a = Gelu(x) b = Gelu(a) y = Sum(a, b, x)") == 120
    assert peak("k = Constant<value = float[10] {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}>() y = Add(x, k)") == 40


def random_schedule(generator: random.Random, count: int) -> Schedule:
    work = []
    for index in range(count):
        needs = tuple(sorted(generator.sample(range(index), min(index, generator.randint(0, 2)))))
        work.append(Work(ir.node("Thing", []), needs, (index,), needs))
    sizes = [generator.choice((1, 2, 5, 20)) for _ in range(count)]
    readers = [sum(index in item.reads for item in work) for index in range(count)]
    return Schedule(work, sizes, readers, {count - 1})


@pytest.mark.parametrize("seed", range(25))
def test_the_exact_search_finds_what_trying_all_orders_finds(seed):
    schedule = random_schedule(random.Random(seed), 7)
    legal = (
        order
        for order in itertools.permutations(range(7))
        if all(
            order.index(need) < order.index(index) for index, item in enumerate(schedule.work) for need in item.needs
        )
    )
    least = min(schedule.peak(order) for order in legal)
    found = exact(schedule, 10**9, Effort())
    assert found is not None and schedule.peak(found) == least
    assert best_order(schedule, 0)[1] == least
    assert schedule.least() <= least


@pytest.mark.parametrize("seed", range(10))
def test_every_order_is_topological(seed):
    schedule = random_schedule(random.Random(seed), 60)
    for order in (frees_most(schedule), frees_most(schedule, random.Random(1)), deepest_first(schedule)):
        place = {index: number for number, index in enumerate(order)}
        assert sorted(order) == list(range(60))
        assert all(place[need] < place[index] for index, item in enumerate(schedule.work) for need in item.needs)
    order, peak = best_order(schedule, 0)
    assert peak == schedule.peak(order) <= schedule.peak()
    assert schedule.reordered(order).peak() == peak


def test_onnx_runtime_follows_the_file_when_asked_to(tmp_path):
    """What the module says of ONNX Runtime: with PRIORITY_BASED it runs the nodes in the order of the file."""
    import onnxruntime

    for text in (BEFORE, AFTER):
        model = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 17]> {text}')
        for node in model.graph:
            node.name = node.outputs[0].name
        options = onnxruntime.SessionOptions()
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / "profile")
        session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
        shapes = {"x": (1, 10), "v": (10, 1000), "w": (10, 1000)}
        session.run(None, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
        with open(session.end_profiling()) as file:
            ran = [event["name"].removesuffix("_kernel_time") for event in json.load(file) if "kernel" in event["name"]]
        assert ran == [node.name for node in model.graph]


def test_options_and_units():
    with pytest.raises(GraphoptError, match="assumed is 0"):
        ReorderOperators(assumed=0)
    assert [in_units(size) for size in (999, 12_345_678, 10**16)] == ["999 B", "12.3 MB", "10000.0 TB"]
    assert str(Recipe.parse("reorder-operators{assumed=8}")) == "reorder-operators{assumed=8}"
