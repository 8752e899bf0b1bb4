"""correct-bias: means go back to where they were, chance does not count, no node is added."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData
from graphopt.execute.taps import Taps
from graphopt.passes.quantize._means import shift_of
from graphopt.passes.quantize.correct_bias import CorrectBias
from graphopt.passes.quantize.insert_qdq import InsertQdq
from graphopt.pipeline import Context, Outcomes, PassManager, Recipe
from graphopt.target import targets

# One scale for the whole weight and one large number in it: the small ones round away, and means with them.
CONV = """<ir_version: 8, opset_import: ["": 17]> g (float[n,3,6,6] x) => (float[n,4,6,6] y)
{ a = Conv <kernel_shape=[1,1]> (x, w, b)  y = Conv <kernel_shape=[1,1]> (a, v, c) }"""
PRODUCT = """<ir_version: 8, opset_import: ["": 17]> g (float[n,5,8] x) => (float[n,5,8] y)
{ a = MatMul(x, w)  h = Add(a, b)  y = Tanh(h) }"""


def model(text: str, shapes: dict[str, tuple[int, ...]]) -> ir.Model:
    found = ir.from_onnx_text(text)
    rng = np.random.default_rng(1)
    used = {value.name: value for node in found.graph for value in node.inputs if value is not None}
    for name, shape in shapes.items():
        elements = rng.uniform(0.01, 0.1, size=shape).astype(np.float32)
        if len(shape) > 1:
            elements.reshape(-1)[0] = 20.0
        value = used[name]
        value.const_value = ir.tensor(elements, name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        found.graph.initializers.add(value)
    return found


def conv() -> ir.Model:
    return model(CONV, {"w": (4, 3, 1, 1), "b": (4,), "v": (4, 4, 1, 1), "c": (4,)})


def product() -> ir.Model:
    return model(PRODUCT, {"w": (8, 8), "b": (8,)})


def samples(shape: tuple[int, ...]) -> CalibrationData:
    rng = np.random.default_rng(2)
    return CalibrationData.open([{"x": rng.uniform(0.2, 1, size=shape).astype(np.float32)} for _ in range(12)])


def run(source: ir.Model, data: CalibrationData, *steps: InsertQdq | CorrectBias) -> tuple[ir.Model, Outcomes]:
    context = Context(target=targets()["x86-64"], data=data.for_model(source))
    return PassManager(Recipe(steps), verify="off", strict=True).run(source, context)


def mean(found: ir.Model, name: str, data: CalibrationData) -> np.ndarray:
    values = [dict(Taps(found).values(sample, [name]))[name] for sample in data.for_model(found)]
    axis = 1 if values[0].ndim == 4 else -1
    return np.mean([np.moveaxis(item, axis, 0).reshape(item.shape[axis], -1).mean(axis=1) for item in values], axis=0)


@pytest.mark.parametrize(
    ("make", "shape", "names"),
    [(conv, (1, 3, 6, 6), ("a",)), (product, (1, 5, 8), ("h",))],
    ids=["conv", "product"],
)
def test_means_go_back_and_no_node_is_added(make, shape, names):
    source, data = make(), samples(shape)
    insert = InsertQdq(per_channel=False, min_sqnr_db=0.1)
    plain, _ = run(source, data, insert)
    corrected, outcomes = run(source, data, insert, CorrectBias())
    assert outcomes[1].changed
    assert Counter(node.op_type for node in corrected.graph) == Counter(node.op_type for node in plain.graph)
    for name in names:
        truth = mean(source, name, data)
        before, after = (np.abs(mean(found, name, data) - truth).max() for found in (plain, corrected))
        assert after < 0.35 * before


def test_it_says_what_it_needs():
    source, data = conv(), samples((1, 3, 6, 6))
    result, _ = run(source, data, InsertQdq())
    _, outcomes = PassManager(CorrectBias(), verify="off").run(result, Context(target=targets()["x86-64"]))
    assert "give data" in outcomes[0].kept[0][1]
    assert run(source, data, CorrectBias())[1][0].kept == []  # nothing is quantised


def test_a_second_run_has_nothing_to_compare_with():
    source, data = conv(), samples((1, 3, 6, 6))
    result, _ = run(source, data, InsertQdq(), CorrectBias())
    _, outcomes = run(result, data, CorrectBias())
    assert not outcomes[0].changed
    assert {text for _, text in outcomes[0].kept} == {
        "what it gave in float32 is not known: insert-qdq notes it, in one recipe"
    }


def test_one_sample_tells_no_mean():
    source = conv()
    data = CalibrationData.open([{"x": np.ones((1, 3, 6, 6), np.float32)}])
    _, outcomes = run(source, data, InsertQdq(), CorrectBias())
    assert not outcomes[1].changed
    assert "tell nothing" in outcomes[1].kept[0][1]


def test_a_shift_in_all_samples_counts_and_one_by_chance_does_not():
    rng = np.random.default_rng(0)
    before = np.zeros((16, 2))
    after = np.stack([np.full(16, 0.5), rng.normal(size=16)], axis=1)
    after[:, 1] -= after[:, 1].mean() - 0.05
    shift = shift_of(before, after)
    assert shift[0] == 0.5
    assert abs(shift[1]) < 0.01
