"""fuse-layer-norm: every dialect, with and without scale and bias, and what is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_layer_norm import RULES, FuseLayerNorm
from graphopt.pipeline import Context
from graphopt.profile import Point, Profile
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

NUMBERS = "float two = {2}, float e = {0.001}, float o = {1}, float half = {0.5}, float neg = {-0.5}"
WEIGHTS = "float[4] w = {1, 2, -3, 0.5}, float[4] h = {0.5, 0, 1, -1}"
PLAIN = "float[4] s = {1, 1, 1, 1}"
MEAN = "c = ReduceMean<axes = [-1]>(x) d = Sub(x, c)"
VARIANCE = "p = Pow(d, two) q = ReduceMean<axes = [-1]>(p) v = Add(q, e)"
NORM = f"{MEAN} {VARIANCE} r = Sqrt(v) n = Div(d, r)"
ATTRIBUTES = "<axis = -1, epsilon = 0.001>"


def model(body: str, names: str = "", *, x: str = "float[N, 3, 4] x", y: str = "float[?, ?, ?] y", opset: int = 17):
    names = f"<{names}>" if names else ""
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({x}) => ({y}) {names} {{ {body} }}'


def fused(scale: str = "{1, 1, 1, 1}", bias: str = "", **options):
    names = f"float[4] s = {scale}" + (f", float[4] b = {bias}" if bias else "")
    return model(f"y = LayerNormalization {ATTRIBUTES} (x, s{', b' if bias else ''})", names, **options)


DIALECTS = {
    "TorchScript and Paddle": f"{MEAN} {VARIANCE} r = Sqrt(v) y = Div(d, r)",
    "a product for the square": f"{MEAN} p = Mul(d, d) q = ReduceMean<axes = [2]>(p) v = Add(e, q) r = Sqrt(v) y = Div(d, r)",
    "var_mean of dynamo": f"{MEAN} {VARIANCE} r = Sqrt(v) i = Reciprocal(r) y = Mul(d, i)",
    "rsqrt of TorchScript": f"{MEAN} {VARIANCE} r = Sqrt(v) i = Div(o, r) y = Mul(i, d)",
    "a power of -0.5": f"{MEAN} {VARIANCE} i = Pow(v, neg) y = Mul(d, i)",
    "a power of 0.5": f"{MEAN} {VARIANCE} r = Pow(v, half) y = Div(d, r)",
    "the mean twice, by var_mean of TorchScript": f"{MEAN} k = ReduceMean<axes = [2]>(x) f = Sub(x, k) p = Mul(f, f) "
    "q = ReduceMean<axes = [-1]>(p) v = Add(q, e) r = Sqrt(v) i = Div(o, r) y = Mul(d, i)",
    "the difference twice": f"{MEAN} f = Sub(x, c) p = Pow(f, two) q = ReduceMean<axes = [-1]>(p) v = Add(q, e) "
    "r = Sqrt(v) y = Div(d, r)",
}


@pytest.mark.parametrize("body", DIALECTS.values(), ids=DIALECTS)
def test_each_dialect_becomes_one_operator(rewrites, body):
    rewrites(FuseLayerNorm(), model(body, NUMBERS), fused())


@pytest.mark.parametrize(
    ("body", "scale", "bias"),
    [
        ("y = Mul(n, w)", "{1, 2, -3, 0.5}", ""),
        ("y = Mul(w, n)", "{1, 2, -3, 0.5}", ""),
        ("y = Add(n, h)", "{1, 1, 1, 1}", "{0.5, 0, 1, -1}"),
        ("y = Sub(n, h)", "{1, 1, 1, 1}", "{-0.5, 0, -1, 1}"),
        ("m = Mul(w, n) y = Add(m, h)", "{1, 2, -3, 0.5}", "{0.5, 0, 1, -1}"),
        ("m = Add(n, h) y = Mul(m, w)", "{1, 2, -3, 0.5}", "{0.5, 0, -3, -0.5}"),
        ("m = Mul(n, w) k = Add(m, h) y = Div(k, two)", "{0.5, 1, -1.5, 0.25}", "{0.25, 0, 0.5, -0.5}"),
        ("y = Mul(n, two)", "{2, 2, 2, 2}", ""),
        ("y = Mul(n, line)", "{1, 2, 3, 4}", ""),
    ],
)
def test_scale_and_bias_go_into_it(rewrites, body, scale, bias):
    names = f"{NUMBERS}, {WEIGHTS}, float[1, 1, 4] line = {{1, 2, 3, 4}}"
    rewrites(FuseLayerNorm(), model(f"{NORM} {body}", names), fused(scale, bias))


INVERSE = f"{MEAN} {VARIANCE} r = Sqrt(v) i = Reciprocal(r)"


@pytest.mark.parametrize(
    "body",
    [
        f"{INVERSE} g = Mul(i, w) m = Mul(d, g) y = Add(m, h)",  # Flax
        f"{INVERSE} g = Mul(i, w) m = Mul(x, g) k = Mul(c, g) l = Sub(h, k) y = Add(m, l)",  # Keras
    ],
)
def test_scaled_before_it_is_applied(rewrites, body):
    before = model(body, f"{NUMBERS}, {WEIGHTS}")
    rewrites(FuseLayerNorm(), before, fused("{1, 2, -3, 0.5}", "{0.5, 0, 1, -1}"))


FLAX = """m = ReduceMean<axes = [-1], keepdims = 0>(x) c = Unsqueeze(m, last) d = Sub(x, c) p = Mul(x, x)
          q = ReduceMean<axes = [2], keepdims = 0>(p) f = Mul(m, m) k = Sub(q, f) l = Max(zero, k)
          t = Unsqueeze(l, last) v = Add(t, e) r = Sqrt(v) i = Reciprocal(r)"""


@pytest.mark.parametrize(
    ("body", "scale", "bias"),
    [
        (f"{FLAX} g = Mul(i, w) n = Mul(d, g) y = Add(n, h)", "{1, 2, -3, 0.5}", "{0.5, 0, 1, -1}"),
        (f"{FLAX} y = Mul(d, i)".replace("Unsqueeze(l, last)", "Reshape(l, to)"), "{1, 1, 1, 1}", ""),
        (FLAX.replace(", keepdims = 0", "").replace("c = Unsqueeze(m, last)", "")
         .replace("(x, c)", "(x, m)").replace("t = Unsqueeze(l, last)", "").replace("(t, e)", "(l, e)")
         + " y = Mul(d, i)", "{1, 1, 1, 1}", ""),
    ],
)  # fmt: skip
def test_the_fast_variance_of_flax(rewrites, body, scale, bias):
    names = f"{NUMBERS}, {WEIGHTS}, float zero = {{0}}, int64[1] last = {{2}}, int64[3] to = {{-1, 3, 1}}"
    rewrites(FuseLayerNorm(), model(body, names), fused(scale, bias))


def test_a_mean_that_gets_its_axis_back_elsewhere_is_kept(keeps):
    body = f"{FLAX} y = Mul(d, i)".replace("Unsqueeze(l, last)", "Unsqueeze(l, first)")
    names = f"{NUMBERS}, float zero = {{0}}, int64[1] last = {{2}}, int64[1] first = {{0}}"
    keeps(FuseLayerNorm(), model(body, names, x="float[4, 4, 4] x"), reason="get its axes back")


def test_keras_without_a_scale(rewrites):
    before = model(f"{INVERSE} m = Mul(x, i) k = Mul(c, i) l = Sub(h, k) y = Add(m, l)", f"{NUMBERS}, {WEIGHTS}")
    rewrites(FuseLayerNorm(), before, fused("{1, 1, 1, 1}", "{0.5, 0, 1, -1}"))


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_axes_as_operand(rewrites, opset):
    body = NORM.replace("<axes = [-1]>(x)", "(x, l)").replace("<axes = [-1]>(p)", "(p, k)") + " y = Mul(n, w)"
    names = f"{NUMBERS}, {WEIGHTS}, int64[1] l = {{-1}}, int64[1] k = {{2}}"
    rewrites(FuseLayerNorm(), model(body, names, opset=opset), fused("{1, 2, -3, 0.5}", opset=opset))


def test_several_trailing_axes(rewrites):
    body = NORM.replace("[-1]", "[-1, 2, 1]") + " y = Mul(n, w)"
    names = f"{NUMBERS}, float[3, 2, 2] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}"
    shape = {"x": "float[N, 3, 2, 2] x", "y": "float[?, ?, ?, ?] y"}
    after = "y = LayerNormalization <axis = -3, epsilon = 0.001> (x, w)"
    rewrites(FuseLayerNorm(), model(body, names, **shape), model(after, names.removeprefix(f"{NUMBERS}, "), **shape))


def test_a_mean_over_everything(rewrites):
    body = NORM.replace("<axes = [-1]>", "") + " y = Identity(n)"
    shape = {"x": "float[2, 2] x", "y": "float[2, 2] y"}
    after = "n = LayerNormalization <axis = -2, epsilon = 0.001> (x, s) y = Identity(n)"
    rewrites(FuseLayerNorm(), model(body, NUMBERS, **shape), model(after, "float[2, 2] s = {1, 1, 1, 1}", **shape))


def test_what_follows_an_operator_that_was_there_goes_into_it(rewrites):
    before = model("n = LayerNormalization(x, w, h) y = Mul(n, two)", f"{NUMBERS}, {WEIGHTS}")
    after = model("y = LayerNormalization(x, s, b)", "float[4] s = {2, 4, -6, 1}, float[4] b = {1, 0, 2, -2}")
    rewrites(FuseLayerNorm(), before, after)


def test_a_residual_behind_it_is_no_candidate(keeps):
    assert not keeps(FuseLayerNorm(), model("n = LayerNormalization(x, w, h) y = Add(n, x)", WEIGHTS)).kept


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("n = LayerNormalization(x, w, h) y = Mul(n, column)", "not that of the scale"),
        ("n = LayerNormalization(x, w, h) y = Mul(n, huge)", "would not be finite"),
        (
            "v = Neg(x) z = ReduceMax<axes = [0, 1], keepdims = 0>(v) n = LayerNormalization(x, z) y = Mul(n, w)",
            "not constant",
        ),
        ("n = LayerNormalization(x, w, h) y = Mul(n, deep)", "would add a dimension"),
    ],
)
def test_constants_behind_it_that_stay(keeps, body, reason):
    names = f"{WEIGHTS}, float[3, 1] column = {{1, 2, 3}}, float huge = {{3e38}}, float[1, 1, 1, 1] deep = {{2}}"
    y = "float[?, ?, ?, ?] y" if "deep" in body else "float[?, ?, ?] y"
    keeps(FuseLayerNorm(), model(body, names, y=y), reason=reason)


def test_a_result_with_two_users_keeps_its_scale(keeps):
    body = "n = LayerNormalization(x, w, h) y = Mul(n, two) z = Neg(n)"
    keeps(FuseLayerNorm(), model(body, f"{NUMBERS}, {WEIGHTS}", y="float[?, ?, ?] y, float[?, ?, ?] z"))


def test_a_mean_that_is_an_output_keeps_its_scale(keeps):
    body = "n, m = LayerNormalization(x, w, h) y = Mul(n, two)"
    keeps(FuseLayerNorm(), model(body, f"{NUMBERS}, {WEIGHTS}", y="float[?, ?, ?] y, float[?, ?, ?] m"))


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        (f"{NORM} y = Identity(n)", {"opset": 13}, "needs opset 17, this graph has 13"),
        (f"{NORM} y = Identity(n)", {"x": "float[N, 3, K] x"}, "the size of what it normalises is not known"),
        (NORM.replace("[-1]", "[1]") + " y = Identity(n)", {}, "not the last ones"),
        (NORM.replace("[-1]", "[0, 2]") + " y = Identity(n)", {}, "not the last ones"),
        (NORM.replace("[-1]>(p)", "[1, 2]>(p)") + " y = Identity(n)", {}, "its two means are over different axes"),
        (f"{NORM} y = Add(n, d)", {}, "is used elsewhere too"),
        (f"{NORM} y = Identity(n)", {"y": "float[?, ?, ?] y, float[?, ?, ?] v"}, "is an output of the graph"),
        (NORM.replace("Add(q, e)", "Add(q, z)") + " y = Identity(n)", {}, "its epsilon is 0"),
        (NORM.replace("Add(q, e)", "Add(q, k)") + " y = Identity(n)", {}, "not a constant of one element"),
    ],
)
def test_what_is_kept_has_a_reason(keeps, body, options, reason):
    names = f"{NUMBERS}, float z = {{0}}, float[4] k = {{1, 2, 3, 4}}"
    keeps(FuseLayerNorm(), model(body, names, **options), reason=reason)


def test_means_that_drop_their_axes_are_kept(keeps):
    body = """c = ReduceMean<axes = [0], keepdims = 0>(x) d = Sub(x, c) p = Pow(d, two)
              q = ReduceMean<axes = [0], keepdims = 0>(p) v = Add(q, e) r = Sqrt(v) y = Div(d, r)"""
    keeps(FuseLayerNorm(), model(body, NUMBERS, x="float[4] x", y="float[4] y"), reason="does not keep its axes")


def test_pictures_are_instance_normalisation(keeps):
    body = NORM.replace("[-1]", "[2, 3]") + " y = Identity(n)"
    shape = {"x": "float[N, 3, 4, 4] x", "y": "float[?, ?, ?, ?] y"}
    keeps(FuseLayerNorm(), model(body, NUMBERS, **shape), reason="InstanceNormalization")


def test_a_declared_shape_is_no_proof(keeps):
    """The last dimension is known to the file only."""
    text = model(f"x = Reshape(u, t) {NORM} y = Identity(n)", NUMBERS, x="float[N] u, int64[3] t", y="float[?, 3, 4] y")
    keeps(FuseLayerNorm(), text, reason="the size of what it normalises is not known", runs=False)


def test_the_target_may_object(keeps):
    slow = Profile(forms={"LayerNormalization": (Point(1, 1.5, 1.4, 1.6),)})
    context = Context(target=dataclasses.replace(targets()["onnx"], profile=slow))
    body = f"{NORM} y = Identity(n)"
    keeps(FuseLayerNorm(), model(body, NUMBERS), context=context, reason="takes 1.50 times as long")


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_half_types_are_computed_in_float_by_the_operator(rewrites, in_type, dtype):
    before, after = in_type(model(f"{NORM} y = Mul(n, w)", f"{NUMBERS}, {WEIGHTS}"), dtype), fused("{1, 2, -3, 0.5}")
    expected = in_type(after, dtype)
    epsilon = float(np.asarray(0.001, dtype.numpy()))
    (norm,) = expected.graph
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", float(np.float32(epsilon)))
    rewrites(FuseLayerNorm(), before, expected, runs=dtype == ir.DataType.FLOAT16)


def test_double_would_lose_bits(keeps, in_type):
    text = in_type(model(f"{NORM} y = Mul(n, w)", f"{NUMBERS}, {WEIGHTS}"), ir.DataType.DOUBLE)
    keeps(FuseLayerNorm(), text, reason="less exactly than double")


def test_casts_around_it_go(rewrites):
    halves = {"x": "float16[N, 3, 4] a", "y": "float16[?, ?, ?] y"}
    weights = "float16[4] w = {15360, 16384, 49664, 14336}"  # the bits of 1, 2, -3, 0.5
    before = model(f"x = Cast<to = 1>(a) {NORM} m = Cast<to = 10>(n) y = Mul(m, w)", f"{NUMBERS}, {weights}", **halves)
    after = model(f"y = LayerNormalization {ATTRIBUTES} (a, w)", weights, **halves)
    rewrites(FuseLayerNorm(), before, after)


def test_casts_around_what_is_scaled_in_float_stay(rewrites):
    halves = {"x": "float16[N, 3, 4] a", "y": "float16[?, ?, ?] y"}
    body = f"x = Cast<to = 1>(a) {NORM} m = Mul(n, w) y = Cast<to = 10>(m)"
    after = f"x = Cast<to = 1>(a) m = LayerNormalization {ATTRIBUTES} (x, w) y = Cast<to = 10>(m)"
    done = rewrites(
        FuseLayerNorm(),
        model(body, f"{NUMBERS}, {WEIGHTS}", **halves),
        model(after, WEIGHTS.partition(", float[")[0], **halves),
    )
    assert len(done.changed) == 2


def test_inside_a_branch(rewrites):
    def text(body: str, names: str) -> str:
        return f"""g (bool k, float[N, 3, 4] x) => (float[?, ?, ?] y) <{names}> {{
             y = If (k) <then_branch = t () => (float[?, ?, ?] u) {{ {body} }},
                         else_branch = f () => (float[?, ?, ?] z) {{ z = Neg(x) }}> }}"""

    after = f"s = Constant<value = float[4] {{1, 2, -3, 0.5}}>() u = LayerNormalization {ATTRIBUTES} (x, s)"
    done = rewrites(
        FuseLayerNorm(),
        text(f"{NORM} u = Mul(n, w)", f"{NUMBERS}, {WEIGHTS}"),
        _with_inner_scale(text(after, "float o = {1}")),
    )
    assert len(done.changed) == 2


def _with_inner_scale(text: str) -> ir.Model:
    """The Constant of the branch as its initialiser, which ONNX text cannot write."""
    expected = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    branch = next(iter(expected.graph)).attributes["then_branch"].as_graph()
    constant = next(iter(branch))
    value = constant.outputs[0]
    tensor = constant.attributes["value"].as_tensor()
    scale = ir.Value(name="scale", type=ir.TensorType(tensor.dtype), shape=ir.Shape([4]), const_value=tensor)
    branch.initializers.add(scale)
    for user, index in tuple(value.uses()):
        user.replace_input_with(index, scale)
    branch.remove(constant)
    expected.graph.initializers.clear()
    return expected


def test_inside_a_function(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
            g (float[2, 3, 4] x) => (float[?, ?, ?] y) {{ y = own.block(x) }}
            <domain: "own", opset_import: ["": 17]> block (x) => (y) {{ {body} }}"""

    numbers = "two = Constant<value = float {2}>() e = Constant<value = float {0.001}>()"
    scale = "s = Constant<value = float[4] {1, 1, 1, 1}>()"
    rewrites(
        FuseLayerNorm(),
        text(f"{numbers} {NORM} y = Identity(n)"),
        text(f"{scale} n = LayerNormalization {ATTRIBUTES} (x, s) y = Identity(n)"),
    )


CONSTANTS = {"m": {"axes": [-1]}, "v": {"axes": [-1]}}


@pytest.mark.parametrize("rule", [rule for rule in RULES.rules if "Cast" not in rule.pattern], ids=lambda r: r.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    fast = "Max" in rule.pattern  # its variance is a difference that loses bits
    fuzz(
        rule,
        ulps=2048 if fast else 32,
        trials=12 if fast else 6,
        shapes={"x": "n s m", "eps": "", "a": "1", "b": "1", "k": "1", "g": "m", "h": "m", "t": "3", "z": "3"},
        types=dict.fromkeys("abktz", ir.DataType.INT64),
        values={name: lambda rng, shape: np.full(shape, -1) for name in "abk"}
        | {name: lambda rng, shape: np.array([0, 0, -1]) for name in "tz"}
        | {"eps": lambda rng, shape: np.array(1e-3)},
        constants=[name for name in "abkghtz" if name in rule.source.variables],
    )
