from __future__ import annotations

import pytest

from graphopt.passes.clean.merge_pads import MergePads


def pads(name: str, *amounts: int) -> str:
    return f"{name} = Constant<value = int64[{len(amounts)}] {{{', '.join(map(str, amounts))}}}>()"


def graph(body: str, constants: str = "", version: int = 17) -> str:
    header = f'<ir_version: 8, opset_import: ["": {version}]>'
    return f"{header} g (float[2, 3] x, float z) => (y) {constants} {{ {body} y = Relu(b) }}"


TWO = f"{pads('p', 0, 1, 2, 0)} {pads('q', 1, 1, 0, 3)}"
SUM = "<int64[4] s = {1, 2, 2, 3}>"


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("Pad(x, p)", "Pad(a, q)", "Pad(x, s)"),
        ("Pad(x, p, z)", "Pad(a, q, z)", "Pad(x, s, z)"),
    ],
)
def test_pads_add_up(rewrites, first, second, merged):
    rewrites(MergePads(), graph(f"{TWO} a = {first} b = {second}"), graph(f"b = {merged}", SUM))


def test_equal_values_count_by_content_and_no_value_is_0(rewrites):
    value = "v = Constant<value = float {2.5}>()"
    rewrites(
        MergePads(),
        graph(f"{TWO} {value} w = Constant<value = float {{2.5}}>() a = Pad(x, p, v) b = Pad(a, q, w)"),
        graph(f"{value} b = Pad(x, s, v)", SUM),
    )
    rewrites(
        MergePads(),
        graph(f"{TWO} w = Constant<value = float {{0}}>() a = Pad(x, p) b = Pad(a, q, w)"),
        graph("w = Constant<value = float {0}>() b = Pad(x, s, w)", SUM),
    )


def test_attributes_before_version_11(rewrites):
    rewrites(
        MergePads(),
        graph("a = Pad<pads = [0, 1, 2, 0], value = 1.5>(x) b = Pad<pads = [1, 1, 0, 3], value = 1.5>(a)", version=10),
        graph("b = Pad<pads = [1, 2, 2, 3], value = 1.5>(x)", version=10),
    )


def test_axes_from_version_18_on(rewrites):
    rewrites(
        MergePads(),
        graph(
            f"{pads('p', 1, 2)} {pads('q', 3, 4)} {pads('m', -1)} {pads('n', 0)}"
            ' a = Pad(x, p, "", m) b = Pad(a, q, "", n)',
            version=18,
        ),
        graph('b = Pad(x, s, "", n)', "<int64[4] s = {3, 1, 4, 2}, int64[2] n = {0, 1}>", version=18),
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f'{TWO} a = Pad<mode = "reflect">(x, q) b = Pad(a, p)'.replace("{1, 1, 0, 3}", "{0, 1, 0, 1}"), "constant"),
        (f"{TWO} a = Pad(x, p, z) b = Pad(a, q)", "the same value"),
        (f"{TWO} v = Constant<value = float {{-0.0}}>() a = Pad(x, p, v) b = Pad(a, q)", "the same value"),
        (f"{pads('p', 0, 1, 2, 0)} {pads('q', 0, -1, 0, 0)} a = Pad(x, p) b = Pad(a, q)", "cuts something away"),
        (f"{TWO} a = Pad(x, p) c = Pad(a, q) d = Pad(a, p) e = ReduceSum(d) b = Add(c, e)", "used elsewhere"),
    ],
)
def test_what_is_not_the_same_is_kept(keeps, body, reason):
    keeps(MergePads(), graph(body), reason=reason)


def test_computed_pads_are_kept(keeps):
    keeps(
        MergePads(),
        f"g (float[2, 3] x, int64[4] q) => (y) {{ {pads('p', 0, 1, 2, 0)} a = Pad(x, p) y = Pad(a, q) }}",
        reason="its pads are not known before the run",
        runs=False,
    )


def test_in_a_branch_and_a_function(rewrites):
    model = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2, 3] x, bool k) => (y) {{
          y = If (k) <
            then_branch = t () => (float[5, 8] b) {inits} {{ {branch} }},
            else_branch = e () => (float[5, 8] r) {{ r = local.f(x) }}>
        }}
        <domain: "local", opset_import: ["": 17]>
        f (x) => (b) {{ {function} }}"""
    before = f"{TWO} a = Pad(x, p) b = Pad(a, q)"
    rewrites(
        MergePads(),
        model.format(inits="", branch=before, function=before),
        model.format(inits=SUM, branch="b = Pad(x, s)", function=f"{pads('s', 1, 2, 2, 3)} b = Pad(x, s)"),
    )
