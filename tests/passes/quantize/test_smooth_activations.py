"""smooth-activations: channels behind a norm are evened out, and the float model stays the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.passes.quantize.smooth_activations import SmoothActivations
from graphopt.pipeline import Context, Outcomes, PassManager, Recipe
from graphopt.target import targets

NET = """<ir_version: 10, opset_import: ["": 17]> g (float[n,6,32] x) => (float[n,6,16] y, float[n,6,8] z)
{ h = LayerNormalization(x, g1, b1)  a = MatMul(h, w1)  y = Add(a, c1)  z = MatMul(h, w2) }"""
SHAPES = {"g1": (32,), "b1": (32,), "w1": (32, 16), "c1": (16,), "w2": (32, 8)}


def model_of(text: str = NET, shapes: dict[str, tuple[int, ...]] = SHAPES) -> ir.Model:
    """A few channels of the norm are 40 times as large as the others."""
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, shape in shapes.items():
        elements = rng.normal(size=shape)
        if name == "g1":
            elements = np.ones(shape)
            elements[..., :3] = 40
        value = used[name]
        value.const_value = ir.tensor(elements.astype(np.float32), name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.initializers.add(value)
    return model


def sequences(seed: int = 0) -> CalibrationData:
    rng = np.random.default_rng(seed)
    return CalibrationData.open([{"x": rng.normal(size=(64, 6, 32)).astype(np.float32)} for _ in range(4)])


def smoothed(model: ir.Model, pass_: SmoothActivations | None = None) -> tuple[ir.Model, Outcomes]:
    """Proven equal by the manager; a second time nothing is left to do."""
    context, recipe = Context(data=sequences().for_model(model)), Recipe((pass_ or SmoothActivations(),))
    result, outcomes = PassManager(recipe, verify="each", strict=True).run(model, context)
    assert outcomes.verdict is None or outcomes.verdict.ok
    _, again = PassManager(recipe, verify="off").run(result, context)
    assert not again[0].changed
    return result, outcomes


def error(model: ir.Model, recipe: str) -> float:
    context = Context(target=targets()["x86-64"], data=sequences().for_model(model))
    result, _ = PassManager(recipe, verify="off").run(model, context)
    feeds = sequences(5)[0]
    truth, found = (Session(item, optimized=False).run(feeds)["y"].astype(np.float64) for item in (model, result))
    return float(((truth - found) ** 2).sum() / (truth**2).sum())


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_channels_become_more_even_and_the_products_more_accurate(alpha: float):
    model = model_of()
    result, outcomes = smoothed(model, SmoothActivations(alpha=alpha))
    assert len(outcomes[0].changed) == 1
    factor = next(node for node in result.graph if node.op_type == "LayerNormalization").inputs[1].const_value.numpy()
    assert factor.max() / factor.min() < 40
    text = f"smooth-activations{{alpha={alpha}}}, insert-qdq"
    assert error(model, text) < error(model, "insert-qdq")


def test_a_root_mean_square_norm_without_a_shift():
    text = NET.replace('"": 17', '"": 23').replace("LayerNormalization(x, g1, b1)", "RMSNormalization(x, g1)")
    model = model_of(text, {name: shape for name, shape in SHAPES.items() if name != "b1"})
    context = Context(data=sequences().for_model(model))
    _, outcomes = PassManager(Recipe((SmoothActivations(),)), verify="end").run(model, context)
    assert len(outcomes[0].changed) == 1 or "nothing could be measured" in outcomes[0].kept[0][1]


def test_a_norm_that_adds_before_keeps_its_sum():
    text = """<ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
    g (float[n,6,32] x, float[n,6,32] r) => (float[n,6,16] y, float[n,6,32] s)
    { h, p, q, s = com.microsoft.SkipLayerNormalization <epsilon=0.00001> (x, r, g1, b1)  y = MatMul(h, w1) }"""
    model = model_of(text, {name: SHAPES[name] for name in ("g1", "b1", "w1")})
    rng = np.random.default_rng(0)
    data = [{name: rng.normal(size=(64, 6, 32)).astype(np.float32) for name in "xr"} for _ in range(3)]
    context = Context(data=CalibrationData.open(data).for_model(model))
    _, outcomes = PassManager(Recipe((SmoothActivations(),)), verify="each", strict=True).run(model, context)
    assert len(outcomes[0].changed) == 1
    assert outcomes.verdict is None or outcomes.verdict.ok


def test_gemm_reads_it_in_either_order():
    text = """<ir_version: 10, opset_import: ["": 17]> g (float[n,32] x) => (float[n,16] y, float[n,8] z)
    { h = LayerNormalization(x, g1, b1)  y = Gemm <transB=1> (h, w1, c1)  z = Gemm(h, w2) }"""
    model = model_of(text, {**SHAPES, "w1": (16, 32)})
    rng = np.random.default_rng(0)
    data = CalibrationData.open([{"x": rng.normal(size=(512, 32)).astype(np.float32)} for _ in range(3)])
    _, outcomes = PassManager(Recipe((SmoothActivations(),)), verify="each", strict=True).run(
        model, Context(data=data.for_model(model))
    )
    assert len(outcomes[0].changed) == 1


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("z = MatMul(h, w2)", "z = Add(h, b1)", "reads its result too"),
        ("float[n,6,8] z)", "float[n,6,8] z, float[n,6,32] h)", "the graph's outputs reads its result too"),
        ("LayerNormalization(x, g1, b1)", "LayerNormalization <axis=1> (x, g1, b1)", "more than the last axis"),
    ],
)
def test_what_cannot_be_scaled_is_refused(old: str, new: str, reason: str):
    text = NET.replace(old, new)
    if "z = Add" in text:
        text = text.replace("float[n,6,8] z", "float[n,6,32] z")
    shapes = {name: shape for name, shape in SHAPES.items() if f"{name})" in text or f"{name}," in text}
    if "axis=1" in text:
        shapes |= {"g1": (6, 32), "b1": (6, 32)}
    _, outcomes = smoothed(model_of(text, shapes))
    assert not outcomes[0].changed
    assert any(reason in text for _, text in outcomes[0].kept), outcomes[0].kept


def test_even_channels_stay_as_they_are():
    model = model_of()
    even = np.ones(32, np.float32)
    model.graph.initializers["g1"].const_value = ir.tensor(even, name="g1")
    model.graph.initializers["b1"].const_value = ir.tensor(0 * even, name="b1")
    _, outcomes = smoothed(model)
    assert not outcomes[0].changed


def test_without_data_nothing_is_known():
    _, outcomes = PassManager(Recipe((SmoothActivations(),)), verify="off").run(model_of(), Context())
    assert "give some" in outcomes[0].kept[0][1]


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(GraphoptError, match="alpha"):
        SmoothActivations(alpha=1.0)
