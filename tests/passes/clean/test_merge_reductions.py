from __future__ import annotations

import pytest

from graphopt.passes.clean.merge_reductions import _REDUCTIONS, MergeReductions


def graph(body: str, x: str = "float[2, N, 4]", version: int = 17) -> str:
    return f'<ir_version: 8, opset_import: ["": {version}]> g ({x} x) => (y) {{ {body} y = Identity(b) }}'


ONE = "p = Constant<value = int64[1] {1}>()"


@pytest.mark.parametrize("operator", [name for name in _REDUCTIONS if name != "ReduceSum"])
def test_the_axes_stay_instead_of_coming_back(rewrites, operator):
    rewrites(
        MergeReductions(),
        graph(f"{ONE} a = {operator}<axes = [1], keepdims = 0>(x) b = Unsqueeze(a, p)"),
        graph(f"b = {operator}<axes = [1], keepdims = 1>(x)"),
    )


@pytest.mark.parametrize(
    ("version", "reduced", "put_back", "expected"),
    [
        (
            12,
            "ReduceSum<axes = [-1], keepdims = 0>(x)",
            "Unsqueeze<axes = [2]>(a)",
            "ReduceSum<axes = [-1], keepdims = 1>(x)",
        ),
        (13, "ReduceSum<keepdims = 0>(x, p)", "Unsqueeze(a, p)", "ReduceSum<keepdims = 1>(x, p)"),
        (18, "ReduceMean<keepdims = 0>(x, p)", "Unsqueeze(a, p)", "ReduceMean<keepdims = 1>(x, p)"),
        (13, "ArgMax<axis = 1, keepdims = 0>(x)", "Unsqueeze(a, p)", "ArgMax<axis = 1, keepdims = 1>(x)"),
        (13, "ArgMin<keepdims = 0>(x)", "Unsqueeze(a, z)", "ArgMin<keepdims = 1>(x)"),
        (17, "ReduceMax<keepdims = 0>(x)", "Unsqueeze(a, all)", "ReduceMax<keepdims = 1>(x)"),
        (17, "ReduceMax<axes = [1], keepdims = 0>(x)", "Reshape(a, r)", "ReduceMax<axes = [1], keepdims = 1>(x)"),
    ],
)
def test_each_operator_and_version(rewrites, version, reduced, put_back, expected):
    constants = {
        "p": ONE,
        "z": "z = Constant<value = int64[1] {0}>()",
        "all": "all = Constant<value = int64[3] {0, -2, 2}>()",
        "r": "r = Constant<value = int64[3] {0, 1, 4}>()",
    }

    def text(body: str) -> str:
        used = " ".join(node for name, node in constants.items() if f", {name})" in body)
        return graph(f"{used} {body}", version=version)

    rewrites(MergeReductions(), text(f"a = {reduced} b = {put_back}"), text(f"b = {expected}"))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{ONE} a = ReduceMax<axes = [0], keepdims = 0>(x) b = Unsqueeze(a, p)", "other axes"),
        (
            f"{ONE} a = ReduceMax<axes = [1], keepdims = 0>(x) c = Unsqueeze(a, p) d = ReduceSum(a) b = Add(c, d)",
            "used elsewhere",
        ),
        (f"{ONE} a = ReduceSum<keepdims = 0, noop_with_empty_axes = 1>(x) b = Unsqueeze(a, p)", "it reduces no axis"),
        (f"{ONE} a = ReduceMax<axes = [1]>(x) b = Unsqueeze(a, p)", ""),
    ],
)
def test_what_does_not_match_is_kept(keeps, body, reason):
    keeps(MergeReductions(), graph(body), reason=reason)


def test_an_unknown_rank_is_kept_in_a_function_and_positive_axes_are_not(rewrites, keeps):
    model = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2, 3] x, float[2, 3, 4] w) => (y, z) {{ y = local.f(x) z = local.f(w) }}
        <domain: "local", opset_import: ["": 17]>
        f (x) => (b) {{ p = Constant<value = int64[1] {{1}}>() {body} }}"""
    keeps(
        MergeReductions(),
        model.format(body="a = ReduceMax<axes = [-1], keepdims = 0>(x) b = Unsqueeze(a, p)"),
        reason="the rank of what it reduces",
    )
    rewrites(
        MergeReductions(),
        model.format(body="a = ReduceMax<axes = [1], keepdims = 0>(x) b = Unsqueeze(a, p)"),
        model.format(body="b = ReduceMax<axes = [1], keepdims = 1>(x)").replace(
            "p = Constant<value = int64[1] {1}>()", ""
        ),
    )


def test_public_outputs_keep_their_names(rewrites):
    rewrites(
        MergeReductions(),
        f"g (float[2, 3] x) => (y) {{ {ONE} a = ReduceMax<axes = [1], keepdims = 0>(x) y = Unsqueeze(a, p) }}",
        "g (float[2, 3] x) => (y) { y = ReduceMax<axes = [1], keepdims = 1>(x) }",
    )
