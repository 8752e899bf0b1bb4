from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import infer, nodes
from graphopt.passes.fuse.fuse_lstm import FuseLstm
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.profile import Point, Profile
from graphopt.target import targets

WEIGHTS = """float[4, 2] w = {1, -1, 2, -2, 3, -3, 4, -4}, float[4, 1] r = {0.1, 0.2, 0.3, 0.4},
    float[4] wb = {1, 2, 3, 4}, float[4] rb = {0.5, 0, 0.5, 0}"""
ONES = "int64[4] sizes = {1, 1, 1, 1}, int64 k0 = {0}, int64 k1 = {1}, int64[1] a0 = {0}, int64[1] a1 = {1}"


def _cell(t: int, x: str, h: str, c: str) -> str:
    """A step as both of torch's exporters write nn.LSTMCell: i f g o."""
    return f"""
        p{t} = Gemm <transB = 1> ({h}, r, rb)  q{t} = Gemm <transB = 1> ({x}, w, wb)  s{t} = Add(p{t}, q{t})
        {_gates(t, h, c)}"""


def _gates(t: int, h: str, c: str) -> str:
    return f"""
        i{t}, f{t}, g{t}, o{t} = Split <axis = 1> (s{t}, sizes)
        is{t} = Sigmoid(i{t})  fs{t} = Sigmoid(f{t})  gt{t} = Tanh(g{t})  os{t} = Sigmoid(o{t})
        m{t} = Mul(fs{t}, {c})  n{t} = Mul(is{t}, gt{t})  c{t} = Add(m{t}, n{t})
        ct{t} = Tanh(c{t})  h{t} = Mul(os{t}, ct{t})"""


def _model(body: str, inputs: str, outputs: str, more: str = "", opset: int = 17) -> str:
    return f"""<ir_version: 8, opset_import: ["": {opset}]> m ({inputs}) => ({outputs})
        <{WEIGHTS}, {ONES}{more}> {{ {body} }}"""


SEQUENCE = "float[2, B, 2] x, float[B, 1] h, float[B, 1] c"
STEPS = f"""x0 = Gather(x, k0) {_cell(0, "x0", "h", "c")}
            x1 = Gather(x, k1) {_cell(1, "x1", "h0", "c0")}"""
STACK = "u0 = Unsqueeze(h0, a0) u1 = Unsqueeze(h1, a0) y = Concat <axis = 0> (u0, u1)"

# The same weights in the order i o f c, and the sums of the biases.
FUSED = """float[1, 4, 2] W = {1, -1, 4, -4, 2, -2, 3, -3}, float[1, 4, 1] R = {0.1, 0.4, 0.2, 0.3},
    float[1, 8] B = {1.5, 4, 2, 3.5, 0, 0, 0, 0}, int64[1] a0 = {0}, int64[1] a1 = {1}"""


def _expected(body: str, inputs: str, outputs: str, more: str = "", opset: int = 17) -> str:
    return f"""<ir_version: 8, opset_import: ["": {opset}]> m ({inputs}) => ({outputs}) <{FUSED}{more}> {{ {body} }}"""


def test_steps_become_one_operator(rewrites):
    before = _model(STEPS + STACK, SEQUENCE, "float[2, B, 1] y")
    expected = """h3 = Unsqueeze(h, a0) c3 = Unsqueeze(c, a0)
        Y = LSTM <hidden_size = 1> (x, W, R, B, , h3, c3) y = Squeeze(Y, a1)"""
    rewrites(FuseLstm(), before, _expected(expected, SEQUENCE, "float[2, B, 1] y"))


def test_the_last_states_come_from_the_operator(rewrites):
    before = _model(STEPS, SEQUENCE, "float[B, 1] h1, float[B, 1] c1")
    expected = """h3 = Unsqueeze(h, a0) c3 = Unsqueeze(c, a0)
        _, H, C = LSTM <hidden_size = 1> (x, W, R, B, , h3, c3) h1 = Squeeze(H, a0) c1 = Squeeze(C, a0)"""
    expected = expected.replace("_, H", ", H")
    source = ir.from_onnx_text(_expected(expected.replace(", H,", "Y, H,"), SEQUENCE, "float[B, 1] h1, float[B, 1] c1"))
    next(node for node in source.graph if node.op_type == "LSTM").outputs[0].name = ""
    rewrites(FuseLstm(), before, source)


def test_a_single_step_is_a_layer_too(rewrites):
    before = _model(_cell(0, "x", "h", "c"), "float[3, 2] x, float[3, 1] h, float[3, 1] c", "float[3, 1] c0")
    done = rewrites(FuseLstm(), before, _single())
    assert "of one step" in done.changed[0][1]


def _single() -> ir.Model:
    body = """s = Unsqueeze(x, a0) h3 = Unsqueeze(h, a0) c3 = Unsqueeze(c, a0)
        Y, H, C = LSTM <hidden_size = 1> (s, W, R, B, , h3, c3) c0 = Squeeze(C, a0)"""
    inputs = "float[3, 2] x, float[3, 1] h, float[3, 1] c"
    model = ir.from_onnx_text(_expected(body, inputs, "float[3, 1] c0"))
    node = next(node for node in model.graph if node.op_type == "LSTM")
    node.outputs[0].name = node.outputs[1].name = ""
    return model


@pytest.mark.parametrize("opset", [11, 12])
def test_in_older_opsets_axes_are_attributes(opset, agrees):
    steps = STEPS.replace("(s0, sizes)", "(s0)").replace("(s1, sizes)", "(s1)")
    stack = STACK.replace("Unsqueeze(h0, a0)", "Unsqueeze <axes = [0]> (h0)")
    stack = stack.replace("Unsqueeze(h1, a0)", "Unsqueeze <axes = [0]> (h1)")
    model = ir.from_onnx_text(_model(steps + stack, SEQUENCE, "float[2, B, 1] y", opset=opset))
    assert agrees(FuseLstm(), model, 0).changed


def test_below_opset_11_it_is_kept(keeps):
    steps = STEPS.replace("(s0, sizes)", "(s0)").replace("(s1, sizes)", "(s1)")
    keeps(FuseLstm(), _model(steps, SEQUENCE, "float[B, 1] h1", opset=10), reason="from opset 11 on")


def _changed(model: ir.Model) -> tuple[ir.Model, list[str]]:
    copy = model.clone()
    infer(copy)
    done = drive(FuseLstm(), copy, Context())
    return copy, [text for _, text in done.changed]


def test_steps_backwards_are_a_layer_in_reverse(agrees):
    steps = f"""x0 = Gather(x, k1) {_cell(0, "x0", "h", "c")} x1 = Gather(x, k0) {_cell(1, "x1", "h0", "c0")}"""
    stack = "u0 = Unsqueeze(h0, a0) u1 = Unsqueeze(h1, a0) y = Concat <axis = 0> (u1, u0)"
    model = ir.from_onnx_text(_model(steps + stack, SEQUENCE, "float[2, B, 1] y"))
    assert agrees(FuseLstm(), model, 0).changed
    after, _ = _changed(model)
    assert [node.op_type for node in after.graph].count("Concat") == 0
    assert next(node for node in after.graph if node.op_type == "LSTM").attributes["direction"].as_string() == "reverse"


def test_a_decoder_that_reads_its_own_result_is_fused_step_by_step(agrees):
    steps = _cell(0, "x", "h", "c") + "e = Concat <axis = 1> (h0, h0) x1 = Neg(e)" + _cell(1, "x1", "h0", "c0")
    inputs = "float[B, 2] x, float[B, 1] h, float[B, 1] c"
    model = ir.from_onnx_text(_model(steps, inputs, "float[B, 1] h1"))
    done = agrees(FuseLstm(), model, 0)
    assert [text for _, text in done.changed] == ["LSTM of one step"] * 2
    assert any("depends on its own results" in text for _, text in done.kept)


def test_a_state_in_the_middle_that_is_used_ends_a_layer(agrees):
    model = ir.from_onnx_text(_model(STEPS + "z = Neg(c0)", SEQUENCE, "float[B, 1] h1, float[B, 1] z"))
    done = agrees(FuseLstm(), model, 0)
    assert [text for _, text in done.changed] == ["LSTM of one step"] * 2


def test_what_reads_a_state_in_front_of_the_result_stays_behind_the_operator(agrees):
    body = _cell(0, "x", "h", "c").replace("ct0 = Tanh(c0)", "z = Neg(c0) ct0 = Tanh(c0)")
    inputs = "float[3, 2] x, float[3, 1] h, float[3, 1] c"
    assert agrees(FuseLstm(), ir.from_onnx_text(_model(body, inputs, "float[3, 1] h0, float[3, 1] z")), 0).changed


def test_what_is_computed_between_the_steps_comes_first(agrees):
    steps = f"""x0 = Gather(x, k0) {_cell(0, "x0", "h", "c")} y = Neg(h0)
        e = Gather(x, k1) x1 = Neg(e) {_cell(1, "x1", "h0", "c0")}"""
    model = ir.from_onnx_text(_model(steps, SEQUENCE, "float[B, 1] h1, float[B, 1] y"))
    assert agrees(FuseLstm(), model, 0).changed


def test_other_weights_in_a_later_step_end_a_layer(agrees):
    other = STEPS.replace("Gemm <transB = 1> (h0, r, rb)", "Gemm <transB = 1> (h0, r2, rb)")
    model = ir.from_onnx_text(_model(other, SEQUENCE, "float[B, 1] h1", ", float[4, 1] r2 = {1, 2, 3, 4}"))
    assert [text for _, text in agrees(FuseLstm(), model, 0).changed] == ["LSTM of one step"] * 2


def test_results_read_in_a_branch_are_given_to_it(agrees):
    branch = """y = If (p) <then_branch = t () => (float[B, 1] u) { u = Neg(h0) },
                            else_branch = e () => (float[B, 1] v) { v = Neg(h1) }>"""
    model = ir.from_onnx_text(_model(STEPS + branch, SEQUENCE + ", bool p", "float[B, 1] y"))
    assert agrees(FuseLstm(), model, 0).changed


def test_inside_a_branch(agrees):
    branch = f"""y = If (p) <then_branch = t () => (float[B, 1] h1) {{ {STEPS} }},
                             else_branch = e () => (float[B, 1] v) {{ v = Neg(h) }}>"""
    model = ir.from_onnx_text(_model(branch, SEQUENCE + ", bool p", "float[B, 1] y"))
    assert agrees(FuseLstm(), model, 0).changed
    after, _ = _changed(model)
    assert "LSTM" in {node.op_type for node in nodes(after)}


def test_inside_a_function_with_constants_of_its_own(agrees):
    names = {"w": ("4, 2", 8), "r": ("4, 1", 4), "wb": ("4", 4), "rb": ("4", 4)}
    constants = "".join(
        f"{name} = Constant <value = float[{dims}] {{{', '.join(str(k) for k in range(size))}}}> ()\n"
        for name, (dims, size) in names.items()
    )
    constants += "sizes = Constant <value = int64[4] {1, 1, 1, 1}> () k0 = Constant <value = int64 {0}> ()"
    constants += " k1 = Constant <value = int64 {1}> ()"
    text = f"""<ir_version: 8, opset_import: ["": 17, "own": 1]> m ({SEQUENCE}) => (float[B, 1] y) {{
            y = own.layer(x, h, c) }}
        <domain: "own", opset_import: ["": 17]> layer (x, h, c) => (h1) {{ {constants} {STEPS} }}"""
    model = ir.from_onnx_text(text)
    assert agrees(FuseLstm(), model, 0).changed


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("ct0 = Tanh(c0)", "cc = Mul(c, peep) oo = Add(o0, cc) os = Sigmoid(oo) ct0 = Tanh(c0)", "no sum of products"),
        ("m0 = Mul(fs0, c)", "e = Neg(s0) m0 = Mul(fs0, c)", "is used elsewhere"),
    ],
)
def test_what_is_no_plain_cell_is_kept(old, new, reason, keeps):
    body = _cell(0, "x", "h", "c").replace(old, new)
    if "peep" in new:
        body = body.replace("h0 = Mul(os0, ct0)", "h0 = Mul(os, ct0)")
    outputs = "float[3, 1] h0" + (", float[3, 4] e" if "e = " in new else "")
    inputs = "float[3, 2] x, float[3, 1] h, float[3, 1] c"
    keeps(FuseLstm(), _model(body, inputs, outputs, ", float[1] peep = {0.5}"), reason=reason)


def test_a_batch_that_is_not_proven_equal_is_kept(keeps):
    inputs = "float[A, 2] x, float[B, 1] h, float[B, 1] c"
    keeps(FuseLstm(), _model(_cell(0, "x", "h", "c"), inputs, "float[C, 1] h0"), reason="batch", runs=False)


def test_an_empty_batch_is_kept(keeps):
    inputs = "float[0, 2] x, float[0, 1] h, float[0, 1] c"
    keeps(FuseLstm(), _model(_cell(0, "x", "h", "c"), inputs, "float[0, 1] h0"), reason="it is empty")


@pytest.mark.parametrize("dtype", [ir.DataType.DOUBLE, ir.DataType.FLOAT16])
def test_element_types_without_a_kernel_are_kept(dtype, keeps, in_type):
    inputs = "float[3, 2] x, float[3, 1] h, float[3, 1] c"
    text = _model(_cell(0, "x", "h", "c"), inputs, "float[3, 1] h0")
    keeps(FuseLstm(), in_type(text, dtype), reason=f"element type is {dtype.name.lower()}")


def test_the_target_decides(keeps):
    profile = Profile(forms={"LSTM": (Point(1, 1.5, 1.4, 1.6),)})
    context = Context(target=dataclasses.replace(targets()["onnx"], profile=profile))
    keeps(FuseLstm(), _model(STEPS, SEQUENCE, "float[B, 1] h1"), reason="1.50 times as long", context=context)


def _loop(body: str, count: str = "n", condition: str = "", outputs: str = "h9, y", more: str = "") -> str:
    return f"""<ir_version: 8, opset_import: ["": 17]> m (float[T, B, 2] x, float[B, 1] h, float[B, 1] c{more}) =>
        (float[?, ?] h9, float[?, ?] c9, float[?, ?, ?] y) <{WEIGHTS}, {ONES}, bool true = {{1}}, int64 two = {{2}}> {{
        shape = Shape(x) n = Gather(shape, k0)
        h9, c9, y = Loop ({count}, true, h, c) <body = b (int64 i, bool p, float[B, 1] h8, float[B, 1] c8) =>
            (bool again, float[B, 1] h0, float[B, 1] c0, float[B, 1] scanned) {{
            again = {condition or "Identity(p)"}
            x0 = Gather(x, i) {body} scanned = Identity(h0) }}> }}"""


LOOP = _loop(_cell(0, "x0", "h8", "c8"))


def _same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for name, value in wanted.items():
        assert found[name].size == value.size  # of no trips, ONNX Runtime stacks the results as 0 x 0 x 1
        if value.size:
            assert found[name].shape == value.shape
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_loop_becomes_a_layer_also_where_it_makes_no_trip(steps):
    model = ir.from_onnx_text(LOOP)
    after, changed = _changed(model)
    assert changed == ["LSTM of all steps"]
    assert "Loop" not in {node.op_type for node in nodes(after)}
    rng = np.random.default_rng(0)
    shapes = {"x": (steps, 3, 2), "h": (3, 1), "c": (3, 1)}
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    wanted, found = (Session(item, optimized=False).run(feeds) for item in (model, after))
    _same(found, wanted)


@pytest.mark.parametrize("trips", [-1, 0, 2])
def test_a_loop_over_the_first_steps_reads_only_those(trips):
    model = ir.from_onnx_text(_loop(_cell(0, "x0", "h8", "c8"), count="m", more=", int64 m"))
    after, changed = _changed(model)
    assert changed
    rng = np.random.default_rng(0)
    shapes = {"x": (4, 3, 2), "h": (3, 1), "c": (3, 1)}
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    feeds["m"] = np.array(trips, dtype=np.int64)
    wanted, found = (Session(item, optimized=False).run(feeds) for item in (model, after))
    _same(found, wanted)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_loop(_cell(0, "x0", "h8", "c8"), condition="Less(i, two)"), "condition that is not constant"),
        (_loop(_cell(0, "x0", "h8", "c8") + "e = Neg(c0)").replace("Identity(h0)", "Identity(e)"), "more than"),
        (
            _loop(_cell(0, "x0", "h8", "h8") + "e = Neg(c8)").replace("float[B, 1] c0,", "float[B, 1] e,"),
            "hand its state",
        ),
        (_loop(_cell(0, "x0", "h8", "c8")).replace("Gather(x, i)", "Gather(x, k0)"), "not read step by step"),
    ],
)
def test_other_loops_are_kept(text, reason, keeps):
    keeps(FuseLstm(), text, reason=reason)


OPERATOR = """a = Unsqueeze(x0, a0) b = Unsqueeze(h8, a0) d = Unsqueeze(c8, a0)
    Y, H, C = LSTM <hidden_size = 1> (a, W, R, B, , b, d) h0 = Squeeze(H, a0) c0 = Squeeze(C, a0)"""

# What torch's older exporter writes of nn.LSTMCell in a scripted loop, with a list of the results.
SCRIPTED = f"""<ir_version: 8, opset_import: ["": 17]> m (float[T, B, 2] x, float[B, 1] h, float[B, 1] c) =>
    (float[?, ?, ?] y, float[?, ?] c9) <{FUSED}, int64 k0 = {{0}}, bool true = {{1}}> {{
    none = SequenceEmpty()  shape = Shape(x)  n = Gather(shape, k0)
    c9, h9, list = Loop (n, true, c, h, none) <body = b (int64 i, bool p, float[B, 1] c8, float[B, 1] h8,
        seq(float[?, ?]) old) => (bool again, float[B, 1] c0, float[B, 1] h0, seq(float[?, ?]) new) {{
        again = Identity(true)  x0 = Gather(x, i) {OPERATOR}  new = SequenceInsert(old, h0) }}>
    y = ConcatFromSequence <axis = 0, new_axis = 1> (list) }}"""


@pytest.mark.parametrize("steps", [1, 4])
def test_a_scripted_loop_around_the_operator_is_the_operator_over_all_steps(steps):
    model = ir.from_onnx_text(SCRIPTED)
    after, changed = _changed(model)
    assert changed == ["LSTM of all steps"]
    assert not {"Loop", "SequenceInsert", "ConcatFromSequence"} & {node.op_type for node in nodes(after)}
    rng = np.random.default_rng(0)
    shapes = {"x": (steps, 3, 2), "h": (3, 1), "c": (3, 1)}
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    wanted, found = (Session(item, optimized=False).run(feeds) for item in (model, after))
    _same(found, wanted)


def test_the_operator_over_one_step_outside_of_a_loop_is_no_news(keeps):
    body = OPERATOR.replace("x0", "x").replace("h8", "h").replace("c8", "c")
    done = keeps(FuseLstm(), _expected(body, "float[3, 2] x, float[3, 1] h, float[3, 1] c", "float[3, 1] c0"))
    assert not done.kept
