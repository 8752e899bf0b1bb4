from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import infer, nodes
from graphopt.passes.fuse.fuse_gru import FuseGru
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive

WEIGHTS = """float[3, 2] w = {1, -1, 2, -2, 3, -3}, float[3, 1] r = {0.1, 0.2, 0.3},
    float[3] wb = {1, 2, 3}, float[3] rb = {0.5, 0, 0.25}"""
ONES = (
    "int64[3] sizes = {1, 1, 1}, int64 k0 = {0}, int64 k1 = {1}, int64[1] a0 = {0}, int64[1] a1 = {1}, float one = {1}"
)


def _sums(t: int, x: str, h: str) -> str:
    return f"""
        p{t} = Gemm <transB = 1> ({x}, w, wb)  q{t} = Gemm <transB = 1> ({h}, r, rb)
        pr{t}, pz{t}, pn{t} = Split <axis = 1> (p{t}, sizes)
        qr{t}, qz{t}, qn{t} = Split <axis = 1> (q{t}, sizes)
        sr{t} = Add(qr{t}, pr{t})  r{t} = Sigmoid(sr{t})  sz{t} = Add(qz{t}, pz{t})  z{t} = Sigmoid(sz{t})
        m{t} = Mul(qn{t}, r{t})  sn{t} = Add(pn{t}, m{t})  n{t} = Tanh(sn{t})"""


def _cell(t: int, x: str, h: str) -> str:
    """A step as both of torch's exporters write nn.GRUCell: r z n, and z (h - n) + n."""
    return f"{_sums(t, x, h)} d{t} = Sub({h}, n{t})  e{t} = Mul(d{t}, z{t})  h{t} = Add(e{t}, n{t})"


def _model(body: str, inputs: str, outputs: str, more: str = "") -> str:
    return f"""<ir_version: 8, opset_import: ["": 17]> m ({inputs}) => ({outputs})
        <{WEIGHTS}, {ONES}{more}> {{ {body} }}"""


SEQUENCE = "float[2, B, 2] x, float[B, 1] h"
STEPS = f"""x0 = Gather(x, k0) {_cell(0, "x0", "h")} x1 = Gather(x, k1) {_cell(1, "x1", "h0")}
    u0 = Unsqueeze(h0, a0) u1 = Unsqueeze(h1, a0) y = Concat <axis = 0> (u0, u1)"""


def _expected(outer: str, outputs: str) -> str:
    return f"""<ir_version: 8, opset_import: ["": 17]> m ({SEQUENCE}) => ({outputs})
        <float[1, 3, 2] W = {{2, -2, 1, -1, 3, -3}}, float[1, 3, 1] R = {{0.2, 0.1, 0.3}},
         float[1, 6] B = {{2, 1.5, 3, 0, 0, 0.25}}, int64[1] a0 = {{0}}, int64[1] a1 = {{1}}> {{
        h3 = Unsqueeze(h, a0) Y = GRU <hidden_size = 1, linear_before_reset = 1> (x, W, R, B, , h3) {outer} }}"""


def test_steps_become_one_operator(rewrites):
    expected = _expected("y = Squeeze(Y, a1)", "float[2, B, 1] y")
    rewrites(FuseGru(), _model(STEPS, SEQUENCE, "float[2, B, 1] y"), expected)


@pytest.mark.parametrize(
    "mixture",
    [
        "d = Sub(one, z0) e = Mul(d, n0) f = Mul(z0, h) y = Add(e, f)",
        "d = Sub(one, z0) e = Mul(d, h) f = Mul(z0, n0) y = Add(f, e)",
        "d = Sub(n0, h) e = Mul(z0, d) y = Add(h, e)",
        "d = Sub(h, n0) e = Mul(z0, d) y = Add(n0, e)",
    ],
)
def test_both_shares_of_the_mixture_in_all_forms(mixture, agrees):
    text = _model(_sums(0, "x", "h") + mixture, "float[4, 2] x, float[4, 1] h", "float[4, 1] y")
    model = ir.from_onnx_text(text)
    assert agrees(FuseGru(), model, 0).changed


def test_a_reset_in_front_of_the_product(agrees):
    sums = _sums(0, "x", "h").partition("m0 =")[0]
    body = f"""{sums} rh = Mul(r0, h) k = Gemm <transB = 1> (rh, rn) s = Add(pn0, k) t = Tanh(s)
        d = Sub(h, t) e = Mul(d, z0) y = Add(e, t)"""
    text = _model(body, "float[4, 2] x, float[4, 1] h", "float[4, 1] y", ", float[1, 1] rn = {0.7}")
    model = ir.from_onnx_text(text)
    assert agrees(FuseGru(), model, 0).changed


def test_a_reset_of_more_than_the_state_is_kept(keeps):
    body = _cell(0, "x", "h").replace("m0 = Mul(qn0, r0)", "v = Add(qn0, pz0) m0 = Mul(v, r0)")
    text = _model(body, "float[4, 2] x, float[4, 1] h", "float[4, 1] h0")
    keeps(FuseGru(), text, reason="more than the earlier state")


def test_without_a_reset_gate_it_is_kept(keeps):
    body = _cell(0, "x", "h").replace("m0 = Mul(qn0, r0)", "m0 = Identity(qn0)")
    text = _model(body, "float[4, 2] x, float[4, 1] h", "float[4, 1] h0")
    keeps(FuseGru(), text, reason="sum of products")


def test_element_types_without_a_kernel_are_kept(keeps, in_type):
    text = _model(_cell(0, "x", "h"), "float[4, 2] x, float[4, 1] h", "float[4, 1] h0")
    keeps(FuseGru(), in_type(text, ir.DataType.FLOAT16), reason="element type is float16")


LOOP = f"""<ir_version: 8, opset_import: ["": 17]> m (float[T, B, 2] x, float[B, 1] h) => (float[?, ?] h9, float[?, ?, ?] y)
    <{WEIGHTS}, {ONES}, bool true = {{1}}> {{
    shape = Shape(x) n = Gather(shape, k0)
    h9, y = Loop (n, true, h) <body = b (int64 i, bool p, float[B, 1] h8) =>
        (bool again, float[B, 1] h0, float[B, 1] scanned) {{
        again = Identity(p) x0 = Gather(x, i) {_cell(0, "x0", "h8")} scanned = Identity(h0) }}> }}"""

SCAN = f"""<ir_version: 8, opset_import: ["": 17]> m (float[T, B, 2] x, float[B, 1] h) => (float[?, ?] h9, float[?, ?, ?] y)
    <{WEIGHTS}, {ONES}> {{
    h9, y = Scan <num_scan_inputs = 1, scan_input_directions = [1], scan_output_directions = [1],
        body = b (float[B, 1] h8, float[B, 2] x0) => (float[B, 1] h0, float[B, 1] scanned) {{
        {_cell(0, "x0", "h8")} scanned = Identity(h0) }}> (h, x) }}"""


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("text", [LOOP, SCAN], ids=["loop", "scan"])
def test_a_loop_becomes_a_layer_also_where_it_makes_no_trip(text, steps):
    model = ir.from_onnx_text(text)
    after = model.clone()
    infer(after)
    done = drive(FuseGru(), after, Context())
    assert [what for _, what in done.changed] == ["GRU of all steps"]
    assert not {"Loop", "Scan"} & {node.op_type for node in nodes(after)}
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((steps, 3, 2)), "h": rng.standard_normal((3, 1))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    found = Session(after, optimized=False).run(feeds)
    if steps == 0 and text is SCAN:  # ONNX Runtime's Scan refuses an empty sequence
        assert found["y"].size == 0
        np.testing.assert_array_equal(found["h9"], feeds["h"])
        return
    wanted = Session(model, optimized=False).run(feeds)
    np.testing.assert_allclose(found["h9"], wanted["h9"], rtol=1e-5, atol=1e-6)
    assert found["y"].size == wanted["y"].size
    if steps:
        np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5, atol=1e-6)


def test_a_loop_around_the_operator_is_the_operator_over_all_steps():
    cell = """a = Unsqueeze(x0, a0) b = Unsqueeze(h8, a0)
        Y, H = GRU <hidden_size = 1, linear_before_reset = 1> (a, W, R, B, , b) h0 = Squeeze(H, a0)"""
    weights = """float[1, 3, 2] W = {2, -2, 1, -1, 3, -3}, float[1, 3, 1] R = {0.2, 0.1, 0.3},
        float[1, 6] B = {2, 1.5, 3, 0.5, 0, 0.25}, int64[1] a0 = {0}, int64 k0 = {0}"""
    text = LOOP.replace(_cell(0, "x0", "h8"), cell).replace(f"{WEIGHTS}, {ONES}", weights)
    model = ir.from_onnx_text(text)
    after = model.clone()
    infer(after)
    assert [what for _, what in drive(FuseGru(), after, Context()).changed] == ["GRU of all steps"]
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((4, 3, 2)), "h": rng.standard_normal((3, 1))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    wanted, found = (Session(item, optimized=False).run(feeds) for item in (model, after))
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
