from __future__ import annotations

import onnx
import onnx.parser
import pytest

from graphopt.ir import load, save
from graphopt.passes.clean.inline_loop import InlineLoop
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive

BODY = "body = b (int64 i, bool go, float[2] v) => (bool stay, float[2] w) { stay = Identity(go) w = Add(v, x) }"


def loop(count: str, condition: str, body: str = BODY, constants: str = "") -> str:
    return f"g (float[2] x) => (float[2] y) <{constants}> {{ a = Relu(x) y = Loop ({count}, {condition}, a) <{body}> }}"


@pytest.mark.parametrize(
    ("count", "condition", "constants"),
    [
        ("m", "", "int64 m = {1}"),
        ("m", "c", "int64 m = {1}, bool c = {1}"),
        ("m", "c", "int64[1] m = {1}, bool c = {1}"),
    ],
)
def test_one_trip_is_the_body(rewrites, count, condition, constants):
    rewrites(
        InlineLoop(),
        loop(count, condition, constants=constants),
        "g (float[2] x) => (float[2] y) { a = Relu(x) y = Add(a, x) }",
    )


@pytest.mark.parametrize(
    ("count", "condition", "constants"),
    [
        ("m", "", "int64 m = {0}"),
        ("m", "c", "int64 m = {7}, bool c = {0}"),
        ("", "c", "bool c = {0}"),
    ],
)
def test_no_trip_gives_the_initial_value(rewrites, count, condition, constants):
    rewrites(
        InlineLoop(), loop(count, condition, constants=constants), "g (float[2] x) => (float[2] y) { y = Relu(x) }"
    )


def test_a_body_that_always_ends_makes_one_trip(rewrites):
    body = """body = b (int64 i, bool go, float[2] v) => (bool s, float[2] w) {
        s = Constant<value = bool {0}>() w = Add(v, x) }"""
    rewrites(
        InlineLoop(),
        loop("", "c", body, "bool c = {1}"),
        "g (float[2] x) => (float[2] y) { a = Relu(x) y = Add(a, x) }",
    )


def test_the_first_trip_has_number_0_and_a_true_condition(rewrites):
    rewrites(
        InlineLoop(),
        """g (float[2] x) => (float[2] y, int64 n, bool k) <int64 m = {1}, int64 k0 = {5}, bool f = {0}> {
             y, n, k = Loop (m, , x, k0, f) <
               body = b (int64 i, bool go, float[2] v, int64 o, bool p) => (bool stay, float[2] w, int64 j, bool q) {
                 stay = Identity(go)
                 t = Cast<to = 1>(i)
                 w = Add(v, t)
                 j = Add(i, o)
                 q = Or(go, p)
               }>
           }""",
        """g (float[2] x) => (float[2] y, int64 n, bool k)
             <int64 k0 = {5}, bool f = {0}, int64 i = {0}, bool go = {1}> {
             t = Cast<to = 1>(i) y = Add(x, t) n = Add(i, k0) k = Or(go, f)
           }""",
    )


@pytest.mark.parametrize(
    ("version", "unsqueeze", "constants"),
    [(11, "Unsqueeze<axes = [0]>(w)", ""), (17, "Unsqueeze(w, z)", "<int64[1] z = {0}>")],
)
def test_a_scan_output_is_a_stack_of_one(rewrites, version, unsqueeze, constants):
    header = f'<ir_version: 8, opset_import: ["": {version}]>'
    rewrites(
        InlineLoop(),
        f"""{header} g (float[2] x) => (float[2] y, float[1, 2] s) <int64 m = {{1}}, bool c = {{1}}> {{
             y, s = Loop (m, c, x) <
               body = b (int64 i, bool go, float[2] v) => (bool stay, float[2] w, float[2] u) {{
                 stay = Identity(go) w = Add(v, x) u = Identity(w)
               }}>
           }}""",
        f"""{header} g (float[2] x) => (float[2] y, float[1, 2] s) {constants} {{
             y = Add(x, x) w = Identity(y) s = {unsqueeze} }}""",
    )


def test_empty_scan_outputs_that_are_used_are_kept(keeps):
    keeps(
        InlineLoop(),
        """g (float[2] x) => (float[2] y, float[N, 2] s) <int64 m = {0}, bool c = {1}> {
             y, s = Loop (m, c, x) <
               body = b (int64 i, bool go, float[2] v) => (bool stay, float[2] w, float[2] u) {
                 stay = Identity(go) w = Add(v, x) u = Neg(w)
               }>
           }""",
        reason="its empty scan outputs are used",
    )


@pytest.mark.parametrize(
    ("count", "condition", "constants", "reason"),
    [
        ("m", "c", "int64 m = {2}, bool c = {1}", "not known"),  # the body might end it earlier
        ("m", "", "int64 m = {2}", "it makes more than one trip"),
    ],
)
def test_more_trips_are_kept(keeps, count, condition, constants, reason):
    keeps(InlineLoop(), loop(count, condition, constants=constants), reason=reason)


def test_counts_and_conditions_that_a_caller_may_change_are_kept(keeps):
    keeps(
        InlineLoop(),
        f"g (float[2] x, int64 m = {{1}}) => (float[2] y) {{ a = Relu(x) y = Loop (m, , a) <{BODY}> }}",
        reason="not known",
    )
    keeps(
        InlineLoop(),
        f"g (float[2] x, bool c) => (float[2] y) <int64 m = {{1}}> {{ a = Relu(x) y = Loop (m, c, a) <{BODY}> }}",
        reason="not known",
    )


def test_passed_on_values_become_public_outputs_of_their_own(rewrites):
    """The body swaps two inputs: each public output is a value of its own, neither is the model's input."""
    rewrites(
        InlineLoop(),
        """g (float[2] x, float[2] z) => (float[2] y1, float[2] y2) <int64 m = {1}, bool c = {1}> {
             y1, y2 = Loop (m, c, x, z) <
               body = b (int64 i, bool go, float[2] v, float[2] w) => (bool stay, float[2] p, float[2] q) {
                 stay = Identity(go) p = Identity(w) q = Identity(v)
               }>
           }""",
        "g (float[2] x, float[2] z) => (float[2] y1, float[2] y2) { y1 = Identity(z) y2 = Identity(x) }",
    )


def test_loops_in_branches_in_loops_and_in_functions(rewrites):
    rewrites(
        InlineLoop(),
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[2] x, bool k) => (float[2] y) {
             m = Constant<value = int64 {1}>()
             y = If (k) <
               then_branch = t () => (float[2] a) {
                 a = Loop (m, , x) <body = b (int64 i, bool go, float[2] v) => (bool stay, float[2] w) {
                   stay = Identity(go)
                   w = Loop (m, , v) <body = bb (int64 ii, bool go2, float[2] vv) => (bool stay2, float[2] ww) {
                     stay2 = Identity(go2)
                     ww = Add(vv, x)
                   }>
                 }>
               },
               else_branch = e () => (float[2] s) { s = local.f(x) }>
           }
           <domain: "local", opset_import: ["": 17]>
           f (a) => (b) {
             m = Constant<value = int64 {1}>()
             b = Loop (m, , a) <body = b (int64 i, bool go, float[2] v) => (bool stay, float[2] w) {
               stay = Identity(go)
               t = Cast<to = 1>(i)
               w = Add(v, t)
             }>
           }""",
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[2] x, bool k) => (float[2] y) {
             y = If (k) <
               then_branch = t () => (float[2] a) { a = Add(x, x) },
               else_branch = e () => (float[2] s) { s = local.f(x) }>
           }
           <domain: "local", opset_import: ["": 17]>
           f (a) => (b) { i = Constant<value = int64 {0}>() t = Cast<to = 1>(i) b = Add(a, t) }""",
    )


def test_initialisers_of_the_body_move_up(rewrites):
    rewrites(
        InlineLoop(),
        """g (float[2] x) => (float[2] y) <int64 m = {1}> {
             y = Loop (m, , x) <
               body = b (int64 i, bool go, float[2] v) => (bool stay, float[2] w) <float[2] k = {1, 2}> {
                 stay = Identity(go) w = Add(v, k)
               }>
           }""",
        "g (float[2] x) => (float[2] y) <float[2] k = {1, 2}> { y = Add(x, k) }",
    )


def test_new_constants_of_an_ir_version_3_model_are_among_its_inputs(tmp_path):
    text = """<ir_version: 3, opset_import: ["": 8]>
        g (float[2] x, int64[1] m) => (float[2] y, float[1, 2] s) <int64[1] m = {1}> {
          y, s = Loop (m, , x) <
            body = b (int64 i, bool go, float[2] v) => (bool stay, float[2] w, float[2] u) {
              stay = Identity(go) t = Cast<to = 1>(i) w = Add(v, t) u = Neg(w)
            }>
        }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "old.onnx")
    model = load(tmp_path / "old.onnx")
    assert drive(InlineLoop(), model, Context()).changed
    save(model, tmp_path / "new.onnx")
    proto = onnx.load(tmp_path / "new.onnx")
    assert [node.op_type for node in proto.graph.node] == ["Cast", "Add", "Neg", "Unsqueeze"]
    assert {item.name for item in proto.graph.initializer} < {item.name for item in proto.graph.input}
