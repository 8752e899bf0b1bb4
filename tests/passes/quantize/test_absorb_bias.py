"""absorb-bias: what channels always have above zero moves into the next layers, and only then."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.passes.quantize.absorb_bias import AbsorbBias
from graphopt.pipeline import Context, Outcomes, PassManager, Recipe

HEAD = '<ir_version: 8, opset_import: ["": 17]> '
NET = """g (float[n,3,8,8] x) => (y)
<float nothing = {0}, float end = {60}>
{ a = Conv <kernel_shape=[1,1]> (x, w1, b1)  r = Relu(a)  y = Conv <kernel_shape=[3,3]> (r, w2, b2) }"""
SHAPES = {"w1": (4, 3, 1, 1), "b1": (4,), "w2": (5, 4, 3, 3), "b2": (5,)}


def model_of(body: str = NET, shapes: dict[str, tuple[int, ...]] = SHAPES) -> ir.Model:
    """The first two channels lie far above zero."""
    model = ir.from_onnx_text(HEAD + body)
    rng = np.random.default_rng(0)
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, shape in shapes.items():
        elements = rng.normal(size=shape)
        if name == "b1":
            elements = np.array([30.0, 20.0, 0.1, -5.0])
        value = used[name]
        value.const_value = ir.tensor(elements.astype(np.float32), name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.initializers.add(value)
    return model


def images(seed: int = 0, count: int = 4) -> CalibrationData:
    rng = np.random.default_rng(seed)
    return CalibrationData.open([{"x": rng.normal(size=(2, 3, 8, 8)).astype(np.float32)} for _ in range(count)])


def absorbed(model: ir.Model, pass_: AbsorbBias | None = None) -> tuple[ir.Model, Outcomes]:
    context = Context(data=images().for_model(model))
    return PassManager(Recipe((pass_ or AbsorbBias(),)), verify="each", strict=True).run(model, context)


def bias(model: ir.Model, number: int) -> np.ndarray:
    return (
        [node for node in model.graph if len(node.inputs) == 3 and "Conv" in node.op_type][number]
        .inputs[2]
        .const_value.numpy()
    )


def test_what_channels_always_have_moves_into_the_next_bias():
    model = model_of()
    result, outcomes = absorbed(model)
    taken = bias(model, 0) - bias(result, 0)
    assert (taken[:2] > 5).all()
    assert (taken[2:] == 0).all()
    given = model.graph.initializers["w2"].const_value.numpy().sum(axis=(2, 3)) @ taken
    np.testing.assert_allclose(bias(result, 1), bias(model, 1) + given, rtol=1e-5)
    feeds = images(7)[0]
    truth = Session(model, optimized=False).run(feeds)["y"]
    np.testing.assert_allclose(Session(result, optimized=False).run(feeds)["y"], truth, rtol=1e-4, atol=1e-3)
    assert len(outcomes[0].changed) == 1


def test_no_channel_is_taken_below_the_least_number_seen():
    model = model_of()
    result, _ = absorbed(model, AbsorbBias(deviations=0.0))
    copy = model.clone()
    least = min(float(Session(copy, optimized=False).run(sample)["y"].min()) for sample in images().for_model(model))
    assert np.isfinite(least)
    taken = bias(model, 0) - bias(result, 0)
    numbers = np.concatenate([sample["x"] for sample in images().for_model(model)])
    before = np.einsum("oi,nihw->nohw", model.graph.initializers["w1"].const_value.numpy()[:, :, 0, 0], numbers)
    before += bias(model, 0).reshape(1, -1, 1, 1)
    assert (taken[:2] <= before.min(axis=(0, 2, 3))[:2] + 1e-4).all()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<kernel_shape=[3,3]> (r", "<kernel_shape=[3,3], pads=[1,1,1,1]> (r", "pads its input with zeros"),
        ("(r, w2, b2)", "(r, w2)", "has no bias"),
        ("y = Conv <kernel_shape=[3,3]>", "y = ConvTranspose <kernel_shape=[3,3]>", "at the borders"),
    ],
)
def test_readers_that_cannot_take_it_are_refused(old: str, new: str, reason: str):
    body = NET.replace(old, new)
    shapes = {name: shape for name, shape in SHAPES.items() if f"{name}" in body}
    if "Transpose" in body:
        shapes |= {"w2": (4, 5, 3, 3)}
    _, outcomes = absorbed(model_of(body, shapes))
    assert not outcomes[0].changed
    assert any(reason in text for _, text in outcomes[0].kept), outcomes[0].kept


def test_a_clip_takes_part_where_its_other_end_is_not_reached():
    _, outcomes = absorbed(model_of(NET.replace("Relu(a)", "Clip(a, nothing, end)")))
    assert outcomes[0].changed
    _, outcomes = absorbed(model_of(NET.replace("Relu(a)", "Clip(a, nothing, end)").replace("{60}", "{6}")))
    assert not outcomes[0].changed


def test_a_relu_that_something_else_reads_is_left_alone():
    body = NET.replace("=> (y)", "=> (y, z)").replace(" }", "  z = Sigmoid(r) }")
    _, outcomes = absorbed(model_of(body))
    assert not outcomes[0].changed


def test_without_data_nothing_is_known():
    _, outcomes = PassManager(Recipe((AbsorbBias(),)), verify="off").run(model_of(), Context())
    assert "give some" in outcomes[0].kept[0][1]


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(GraphoptError, match="deviations"):
        AbsorbBias(deviations=-1.0)
