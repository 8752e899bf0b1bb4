from __future__ import annotations

import pytest

from graphopt.passes.clean.merge_expands import MergeExpands


def shape(name: str, *sizes: int) -> str:
    return f"{name} = Constant<value = int64[{len(sizes)}] {{{', '.join(map(str, sizes))}}}>()"


def graph(body: str, constants: str = "") -> str:
    return f"g (float[N, 1] x) => (y) {constants} {{ {body} y = Relu(b) }}"


def test_a_target_that_holds_the_other_is_enough(rewrites):
    rewrites(
        MergeExpands(),
        graph(f"{shape('s', 1, 4)} {shape('t', 3, 1, 4)} a = Expand(x, s) b = Expand(a, t)"),
        graph(f"{shape('t', 3, 1, 4)} b = Expand(x, t)"),
    )


def test_two_targets_combine(rewrites):
    rewrites(
        MergeExpands(),
        graph(f"{shape('s', 1, 4)} {shape('t', 3, 1, 1)} a = Expand(x, s) b = Expand(a, t)"),
        graph("b = Expand(x, u)", "<int64[3] u = {3, 1, 4}>"),
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{shape('s', 1, 4)} t = Shape(x) a = Expand(x, s) b = Expand(a, t)", "not known before the run"),
        (f"{shape('s', 1, 4)} {shape('t', 3, 1, 1)} a = Expand(x, s) c = Expand(a, t) b = Add(a, c)", "used elsewhere"),
    ],
)
def test_what_is_unknown_or_used_is_kept(keeps, body, reason):
    keeps(MergeExpands(), graph(body), reason=reason)


def test_in_a_branch_and_a_function(rewrites):
    model = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2, 1] x, bool k) => (y) {{
          y = If (k) <
            then_branch = t () => (float[3, 2, 4] b) {{ {body} }},
            else_branch = e () => (float[3, 2, 4] r) {{ r = local.f(x) }}>
        }}
        <domain: "local", opset_import: ["": 17]>
        f (x) => (b) {{ {body} }}"""
    rewrites(
        MergeExpands(),
        model.format(body=f"{shape('s', 1, 4)} {shape('t', 3, 1, 4)} a = Expand(x, s) b = Expand(a, t)"),
        model.format(body=f"{shape('t', 3, 1, 4)} b = Expand(x, t)"),
    )
