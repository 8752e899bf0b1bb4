"""fuse-skip-norm: the addition in front, a bias in it, the sum used elsewhere; only for targets that gain."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_skip_norm import FuseSkipNorm, rules
from graphopt.pipeline import Context
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

FORMS = frozenset({"com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization"})
TARGET = dataclasses.replace(targets()["x86-64"], forms=FORMS)
LIKES = Context(target=TARGET)
NAMES = "float[4] g = {1, 2, -3, 0.5}, float[4] h = {0.5, 0, 1, -1}, float[4] c = {1, 2, 3, 4}"
INPUTS = "float[N, S, 4] a, float[N, S, 4] b"
ONE, TWO = "float[?, ?, ?] y", "float[?, ?, ?] y, float[?, ?, ?] z"
MICROSOFT = "com.microsoft"


def model(body: str, *, x: str = INPUTS, y: str = ONE, names: str = NAMES, opset: int = 23, after: bool = False):
    domains = f'"": {opset}' + (f', "{MICROSOFT}": 1' if after else "")
    return f"<ir_version: 10, opset_import: [{domains}]> g ({x}) => ({y}) <{names}> {{ {body} }}"


LAYER = "y = LayerNormalization <epsilon = 0.001> (s, g, h)"
RMS = "y = RMSNormalization <epsilon = 0.001> (s, g)"
SKIP = f"{MICROSOFT}.SkipLayerNormalization <epsilon = 0.001>"
SIMPLE = f"{MICROSOFT}.SkipSimplifiedLayerNormalization <epsilon = 0.001>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"s = Add(a, b) {LAYER}", f"y = {SKIP} (a, b, g, h)"),
        (f"s = Add(a, b) {LAYER.replace(', h', '')}", f"y = {SKIP} (a, b, g)"),
        (f"m = Add(b, c) s = Add(a, m) {LAYER}", f"y = {SKIP} (a, b, g, h, c)"),
        (f"m = Add(c, b) s = Add(m, a) {LAYER}", f"y = {SKIP} (a, b, g, h, c)"),
        (f"s = Add(a, b) {RMS}", f"y = {SIMPLE} (a, b, g)"),
        (f"m = Add(b, c) s = Add(a, m) {RMS}", f"y = {SIMPLE} (a, b, g, c)"),
    ],
)
def test_the_addition_goes_into_the_normalisation(rewrites, body, expected):
    rewrites(FuseSkipNorm(), model(body), model(expected, after=True), context=LIKES)


@pytest.mark.parametrize(("norm", "form", "operands"), [(LAYER, SKIP, "a, b, g, h"), (RMS, SIMPLE, "a, b, g")])
def test_the_sum_used_elsewhere_is_a_result(rewrites, norm, form, operands):
    body = model(f"s = Add(a, b) {norm} z = Neg(s)", y=TWO)
    after = model(f'y, "", "", s = {form} ({operands}) z = Neg(s)', y=TWO, after=True)
    rewrites(FuseSkipNorm(), body, after, context=LIKES)


def test_the_sum_may_be_an_output(rewrites):
    y = "float[?, ?, ?] y, float[?, ?, ?] s"
    after = model(f'y, "", "", s = {SKIP} (a, b, g, h)', y=y, after=True)
    rewrites(FuseSkipNorm(), model(f"s = Add(a, b) {LAYER}", y=y), after, context=LIKES)


def test_a_sum_with_a_bias_that_is_used_elsewhere(rewrites):
    body = f"m = Add(b, c) s = Add(a, m) {LAYER} z = Neg(m)"
    after = f"m = Add(b, c) y = {SKIP} (a, m, g, h) z = Neg(m)"
    rewrites(FuseSkipNorm(), model(body, y=TWO), model(after, y=TWO, after=True), context=LIKES)


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        (f"s = Add(a, b) {LAYER}", {"x": "float[N, S, 4] a, float[M, S, 4] b"}, "to have the same shape"),
        (f"s = Add(a, b) {LAYER}", {"x": "float[N, S, 4] a, float[1, 4] b"}, "to have the same shape"),
        (f"s = Add(a, b) {LAYER}", {"x": "float[N, 4] a, float[N, 4] b", "y": "float[?, ?] y"}, "not the last of three"),
        (f"s = Add(a, b) {LAYER.replace('<', '<axis = 1, ')}", {"x": "float[N, 1, 4] a, float[N, 1, 4] b"}, "from axis 1"),
        (f"s = Add(a, b) {LAYER}", {"names": NAMES.replace("[4] g = {1, 2, -3, 0.5}", "[1] g = {1}")}, "has not one number"),
    ],
)  # fmt: skip
def test_what_is_kept_has_a_reason(keeps, body, options, reason):
    keeps(FuseSkipNorm(), model(body, **options), context=LIKES, reason=reason)


def test_other_types_are_kept(keeps, in_type):
    text = in_type(model(f"s = Add(a, b) {LAYER}"), ir.DataType.DOUBLE)
    keeps(FuseSkipNorm(), text, context=LIKES, reason="element type double")


def test_float16(rewrites, in_type):
    before, after = model(f"s = Add(a, b) {LAYER}"), model(f"y = {SKIP} (a, b, g, h)", after=True)
    rewrites(FuseSkipNorm(), in_type(before, ir.DataType.FLOAT16), in_type(after, ir.DataType.FLOAT16), context=LIKES)


def test_an_unmeasured_target_keeps_it_with_that_reason(keeps):
    context = Context(target=targets()["x86-64"])
    keeps(FuseSkipNorm(), model(f"s = Add(a, b) {LAYER}"), context=context, reason="SkipLayerNormalization")


def test_a_target_of_standard_operators_hears_nothing_of_it(keeps):
    assert not keeps(FuseSkipNorm(), model(f"s = Add(a, b) {LAYER}")).kept


def test_inside_a_branch(rewrites):
    def text(body: str, after: bool = False) -> str:
        return model(
            f"""y = If (k) <then_branch = t () => (float[?, ?, ?] u) {{ {body} }},
                            else_branch = f () => (float[?, ?, ?] v) {{ v = Neg(a) }}>""",
            x=f"bool k, {INPUTS}",
            after=after,
        )

    rewrites(
        FuseSkipNorm(),
        text("s = Add(a, b) u = LayerNormalization(s, g, h)"),
        text(f"u = {MICROSOFT}.SkipLayerNormalization <epsilon = 0.00001> (a, b, g, h)", after=True),
        context=LIKES,
    )


@pytest.mark.parametrize("rule", rules(TARGET).rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    fuzz(rule, opset=23, trials=6, shapes={"a": "n s m", "b": "n s m", "g": "m", "h": "m", "c": "m"})
