"""Walking a model stage by stage: the same values as a whole run, and edits behind the stage take effect."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.execute.session import Session
from graphopt.execute.stages import Stages
from graphopt.execute.taps import Taps

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[n,3] x, bool p) => (float[n,3] y)
<float[3] w = {1, 2, 3}>
{ a = Mul(x, w)
  b = If (p) <then_branch = t () => (float[n,3] u) { u = Add(a, x) }, else_branch = e () => (float[n,3] v) { v = Sub(a, x) }>
  c = Exp(b)
  y = Add(c, a) }"""


def samples() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(n, 3)).astype(np.float32), "p": np.array(n > 1)} for n in (1, 2, 3)]


def node(model: ir.Model, name: str) -> ir.Node:
    return next(item for item in model.graph if item.outputs[0].name == name)


def test_values_are_those_of_a_whole_run():
    model = ir.from_onnx_text(TEXT)
    stages = Stages(model, samples())
    for name in ("a", "c", "y"):
        found = stages.run(node(model, name))
        for sample, array in zip(samples(), found, strict=True):
            np.testing.assert_allclose(array, dict(Taps(model).values(sample, [name]))[name], rtol=1e-6)


def test_a_changed_value_and_a_changed_constant_reach_what_comes_later():
    model = ir.from_onnx_text(TEXT)
    stages = Stages(model, samples())
    for array in stages.run(node(model, "a")):
        array *= 2
    found = stages.run(node(model, "y"))
    model.graph.initializers["w"].const_value = ir.tensor(np.array([2, 4, 6], np.float32), name="w")
    session = Session(model, optimized=False)
    for sample, array in zip(samples(), found, strict=True):
        np.testing.assert_allclose(array, session.run(sample)["y"], rtol=1e-5)
