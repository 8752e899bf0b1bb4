from __future__ import annotations

import dataclasses

import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_space_depth import RULES, FuseSpaceDepth
from graphopt.pipeline import Context
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

DCR = "2, 2, 3, 4, 5", "0, 3, 4, 1, 5, 2", "-1, 3, 8, 10", "N, 12, 4, 5"
CRD = "3, 2, 2, 4, 5", "0, 1, 4, 2, 5, 3", "-1, 3, 8, 10", "N, 12, 4, 5"
S2D = "3, 4, 2, 5, 2", "0, 3, 5, 1, 2, 4", "-1, 12, 4, 5", "N, 3, 8, 10"


def row(cut: str, perm: str, joined: str, source: str, opset: int = 17, allowzero: str = "") -> str:
    return f"""<ir_version: 8, opset_import: ["": {opset}]>
      g (float[{source}] x) => (float[N, c, h, w] y) <int64[6] r = {{-1, {cut}}}, int64[4] s = {{{joined}}}> {{
      i = Reshape {allowzero} (x, r) t = Transpose <perm = [{perm}]> (i) y = Reshape {allowzero} (t, s) }}"""


def one(operator: str, source: str, opset: int = 17) -> str:
    return f"""<ir_version: 8, opset_import: ["": {opset}]>
      g (float[{source}] x) => (float[N, c, h, w] y) {{ y = {operator} (x) }}"""


@pytest.mark.parametrize("allowzero", ["", "<allowzero = 1>"])
@pytest.mark.parametrize(
    ("before", "operator"),
    [
        (DCR, "DepthToSpace <blocksize = 2>"),
        (CRD, 'DepthToSpace <blocksize = 2, mode = "CRD">'),
        (S2D, "SpaceToDepth <blocksize = 2>"),
    ],
)
def test_blocks_and_channels_change_places(rewrites, before, operator, allowzero):
    rewrites(FuseSpaceDepth(), row(*before, allowzero=allowzero), one(operator, before[3]))


def test_sizes_may_be_free(rewrites):
    """pixel_shuffle with dynamic height and width: the shapes are computed from x."""
    rewrites(
        FuseSpaceDepth(),
        """g (float[N, 12, H, W] x) => (float[N, 3, h, w] y)
             <int64[3] blocks = {3, 2, 2}, int64[1] three = {3}, int64[1] two = {2}> {
             n = Shape <start = 0, end = 1> (x) h = Shape <start = 2, end = 3> (x) w = Shape <start = 3> (x)
             cut = Concat <axis = 0> (n, blocks, h, w) i = Reshape(x, cut)
             t = Transpose <perm = [0, 1, 4, 2, 5, 3]> (i) hh = Mul(h, two) ww = Mul(w, two)
             joined = Concat <axis = 0> (n, three, hh, ww) y = Reshape(t, joined) }""",
        'g (float[N, 12, H, W] x) => (float[N, 3, h, w] y) { y = DepthToSpace <blocksize = 2, mode = "CRD"> (x) }',
    )


def test_the_mode_crd_needs_opset_11(rewrites, keeps):
    rewrites(FuseSpaceDepth(), row(*DCR, 10), one("DepthToSpace <blocksize = 2>", DCR[3], 10))
    keeps(FuseSpaceDepth(), row(*CRD, 10), reason="opset")


@pytest.mark.parametrize(
    ("cut", "perm", "joined", "source", "reason"),
    [
        ("2, 3, 2, 4, 5", "0, 3, 4, 1, 5, 2", "-1, 2, 8, 15", "N, 12, 4, 5", "not known to be squares"),
        ("1, 1, 12, 4, 5", "0, 3, 4, 1, 5, 2", "-1, 12, 4, 5", "N, 12, 4, 5", "not known to be squares"),
        ("2, 2, 3, 4, 5", "0, 3, 4, 1, 5, 2", "-1, 3, 4, 20", "N, 12, 4, 5", "the shape of y is not known"),
        ("2, 2, 3, 4, 5", "0, 3, 4, 1, 5, 2", "-1, 3, 8, 10", "N, 12, 5, 4", "the shape of x is not known"),
        ("3, 2, 2, 4, 5", "0, 1, 4, 3, 5, 2", "-1, 3, 8, 10", "N, 12, 4, 5", ""),
        ("3, 4, 2, 5, 2", "0, 1, 3, 5, 2, 4", "-1, 12, 4, 5", "N, 3, 8, 10", ""),  # pixel_unshuffle
    ],
)
def test_what_is_kept(keeps, cut, perm, joined, source, reason):
    keeps(FuseSpaceDepth(), row(cut, perm, joined, source), reason=reason)


def test_other_element_types(rewrites, keeps, in_type):
    rewrites(
        FuseSpaceDepth(),
        in_type(row(*CRD), ir.DataType.DOUBLE),
        in_type(one('DepthToSpace <blocksize = 2, mode = "CRD">', CRD[3]), ir.DataType.DOUBLE),
    )
    keeps(FuseSpaceDepth(), in_type(row(*CRD), ir.DataType.FLOAT16), reason="has element type float16")


def test_a_target_without_the_operator_keeps_them(keeps):
    target = dataclasses.replace(targets()["onnx"], lacks=frozenset({"SpaceToDepth"}))
    keeps(FuseSpaceDepth(), row(*S2D), context=Context(target=target), reason="the target onnx has no SpaceToDepth")


@pytest.mark.parametrize(("rule", "before"), list(zip(RULES.rules, (DCR, CRD, S2D), strict=True)))
def test_each_rule_holds_on_random_elements(rule, before):
    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    fuzz(
        rule,
        trials=4,
        ulps=0,
        shapes={"x": before[3].replace("N", "n").replace(",", " "), "s": "6", "t": "4"},
        types={"s": ir.DataType.INT64, "t": ir.DataType.INT64},
        values={"s": lambda *_: [-1, *numbers(before[0])], "t": lambda *_: numbers(before[2])},
        constants=("s", "t"),
    )


@pytest.mark.parametrize(("rule", "before"), list(zip(RULES.rules, (DCR, CRD, S2D), strict=True)))
def test_inside_a_branch(rewrites, rule, before):
    def text(body: str, names: str) -> str:
        return f"""g (bool p, float[{before[3]}] x) => (float[N, c, h, w] y) {names} {{
             y = If (p) <then_branch = t () => (float[a, b, c, d] u) {{ {body} }},
                         else_branch = e () => (float[a, b, c, d] v) {{ v = Neg(x) }}> }}"""

    operator, _, rest = rule.replacement.partition("{")
    attributes = rest.partition("}")[0].replace("=b", " = 2").replace("mode=", "mode = ")
    rewrites(
        FuseSpaceDepth(),
        text(
            f"i = Reshape(x, r) t = Transpose <perm = [{before[1]}]> (i) u = Reshape(t, s)",
            f"<int64[6] r = {{-1, {before[0]}}}, int64[4] s = {{{before[2]}}}>",
        ),
        text(f"u = {operator} <{attributes}> (x)", ""),
    )
