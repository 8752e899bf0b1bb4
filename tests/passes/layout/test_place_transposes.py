from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import onnx_ir as ir
import pytest
from channels_last import ChannelsLast
from hypothesis import given, settings
from hypothesis import strategies as st
from permuted_graphs import make

from graphopt.execute.session import Session
from graphopt.ir import bodies, check, forget, infer, nodes, sweep
from graphopt.passes.layout import place_transposes
from graphopt.passes.layout._orders import Solution, solve
from graphopt.passes.layout._region import Pair, Region, permutation
from graphopt.passes.layout.place_transposes import PlaceTransposes
from graphopt.pipeline import Context, Fidelity, PassManager
from graphopt.pipeline.drive import drive

TO_NCHW = "<perm = [0, 3, 1, 2]>"
TO_NHWC = "<perm = [0, 2, 3, 1]>"


def count(model: ir.Model) -> int:
    return sum(node.op_type == "Transpose" for node in nodes(model))


def test_a_pair_around_an_activation_goes(rewrites):
    done = rewrites(
        PlaceTransposes(),
        f"""g (float[1, 3, 4, 5] x) => (float[1, 3, 4, 5] y) {{
             a = Transpose{TO_NHWC}(x) b = Relu(a) y = Transpose{TO_NCHW}(b) }}""",
        "g (float[1, 3, 4, 5] x) => (float[1, 3, 4, 5] y) { y = Relu(x) }",
    )
    assert done.changed[0][1] == "2 transposes become none"


def test_a_network_of_tf2onnx_keeps_one_transpose(rewrites):
    """Each Conv comes between two of them, biases and residuals are NHWC; at the end a Reshape of [N, 1, 1, C]."""
    done = rewrites(
        PlaceTransposes(),
        f"""g (float[N, 8, 8, 3] x) => (float[N, 4] y) <float[4, 3, 1, 1] w = {{{", ".join(["0.5"] * 12)}}},
             float[4, 4, 1, 1] v = {{{", ".join(["0.25"] * 16)}}}, float[4] bias = {{1, 2, 3, 4}}, int64[2] flat = {{-1, 4}}> {{
             a = Transpose{TO_NCHW}(x) b = Conv(a, w) c = Transpose{TO_NHWC}(b) d = Add(c, bias) e = Relu(d)
             f = Transpose{TO_NCHW}(e) h = Conv(f, v) i = Transpose{TO_NHWC}(h) j = Add(i, e)
             k = Transpose{TO_NCHW}(j) l = GlobalAveragePool(k) m = Transpose{TO_NHWC}(l) y = Reshape(m, flat) }}""",
        f"""g (float[N, 8, 8, 3] x) => (float[N, 4] y) <float[4, 3, 1, 1] w = {{{", ".join(["0.5"] * 12)}}},
             float[4, 4, 1, 1] v = {{{", ".join(["0.25"] * 16)}}}, float[4, 1, 1] bias = {{1, 2, 3, 4}}, int64[2] flat = {{-1, 4}}> {{
             a = Transpose{TO_NCHW}(x) b = Conv(a, w) d = Add(b, bias) e = Relu(d)
             h = Conv(e, v) j = Add(h, e) l = GlobalAveragePool(j) y = Reshape(l, flat) }}""",
    )
    assert [text for _, text in done.changed] == ["4 transposes become none", "its transpose is not needed"]


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_whole_network_with_channels_last_keeps_the_one_at_its_input(quantized, dynamic):
    source = ir.from_proto(ChannelsLast(quantized=quantized, dynamic=dynamic).model(blocks=3))
    assert count(source) == 2 * (1 + 3 * 5)
    model, outcomes = PassManager("place-transposes{rounding=true}", verify="each", strict=True).run(source)
    assert outcomes.verdict is not None and outcomes.verdict.ok
    assert count(model) == 1
    exact, outcomes = PassManager("place-transposes", verify="each", strict=True).run(source)
    assert outcomes.verdict is not None and outcomes.verdict.verdict == "equal"
    assert 1 < count(exact) < 15  # each mean over an image keeps the order of its sums


def test_it_is_not_greedy(rewrites):
    """Three branches of one tensor are transposed back: none can be sunk alone without two new ones."""
    rewrites(
        PlaceTransposes(),
        """g (float[2, 3, 4] x, float[2, 3, 4] z) => (float[2, 3, 4] y) {
             a = Transpose<perm = [0, 2, 1]>(x) b = Transpose<perm = [0, 2, 1]>(z) c = Add(a, b) d = Mul(c, b)
             e = Sub(d, a) y = Transpose<perm = [0, 2, 1]>(e) }""",
        "g (float[2, 3, 4] x, float[2, 3, 4] z) => (float[2, 3, 4] y) { c = Add(x, z) d = Mul(c, z) y = Sub(d, x) }",
    )


def test_the_readers_of_a_tensor_share_one_transpose(rewrites):
    done = rewrites(
        PlaceTransposes(),
        """g (float[3, 4] x) => (float[4, 3] y, float[4, 3] z) <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {
             a = Transpose(x) b = Transpose(x) y = MatMul(a, w) z = MatMul(b, w) }""",
        """g (float[3, 4] x) => (float[4, 3] y, float[4, 3] z) <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {
             a = Transpose(x) y = MatMul(a, w) z = MatMul(a, w) }""",
    )
    assert done.changed[0][1] == "2 transposes become 1"


def test_a_transpose_moves_to_where_the_tensor_is_small(rewrites):
    done = rewrites(
        PlaceTransposes(),
        """g (float[64, 64] x) => (float[1, 64] y) {
             a = Transpose(x) b = Relu(a) y = ReduceMax<axes = [0]>(b) }""",
        """g (float[64, 64] x) => (float[1, 64] y) {
             b = Relu(x) c = ReduceMax<axes = [1]>(b) y = Transpose<perm = [1, 0]>(c) }""",
    )
    assert done.changed[0][1] == "1 transpose moves to where less has to be moved"


@pytest.mark.parametrize(
    ("opset", "before", "constants_before", "after", "constants_after"),
    [
        (17, "Concat<axis = -1>(a, a)", "", "Concat<axis = 1>(x, x)", ""),
        (17, "Mul(k, a)", "float k = {2}", "Mul(k, x)", "float k = {2}"),
        (17, "Mul(k, a)", "float[3] k = {1, 2, 3}", "Mul(k, x)", "float[3, 1, 1] k = {1, 2, 3}"),
        (17, "Mul(a, k)", "float[4, 1, 1] k = {1, 2, 3, 4}", "Mul(x, k)", "float[1, 4, 1] k = {1, 2, 3, 4}"),
        (17, "Clip(a, k)", "float k = {2}", "Clip(x, k)", "float k = {2}"),
        (17, "PRelu(a, k)", "float[3] k = {1, 2, 3}", "PRelu(x, k)", "float[3, 1, 1] k = {1, 2, 3}"),
        (17, "Where(k, a, a)", "bool[1] k = {1}", "Where(k, x, x)", "bool[1] k = {1}"),
        (17, "Pad(a, k)", "int64[8] k = {0,0,0,1,0,2,0,0}", "Pad(x, k)", "int64[8] k = {0,1,0,0,0,0,2,0}"),
        (10, "Pad<pads = [0,0,0,1,0,2,0,0]>(a)", "", "Pad<pads = [0,1,0,0,0,0,2,0]>(x)", ""),
        (
            18, "Pad(a, k, , i)", "int64[2] k = {1, 2}, int64[1] i = {3}",
            "Pad(x, k, , i)", "int64[2] k = {1, 2}, int64[1] i = {1}",
        ),
        (
            17, "Slice(a, k, e)", "int64[2] k = {1, 1}, int64[2] e = {9, 9}",
            "Slice(x, k, e, i)", "int64[2] k = {1, 1}, int64[2] e = {9, 9}, int64[2] i = {0, 2}",
        ),
        (
            9, "Slice<starts = [1, 1], ends = [9, 9]>(a)", "",
            "Slice<starts = [1, 1], ends = [9, 9], axes = [0, 2]>(x)", "",
        ),
        (17, "ReduceMax<axes = [3], keepdims = 1>(a)", "", "ReduceMax<axes = [1], keepdims = 1>(x)", ""),
        (18, "ReduceMax(a, k)", "int64[1] k = {-1}", "ReduceMax(x, k)", "int64[1] k = {1}"),
        (17, "Softmax<axis = 1>(a)", "", "Softmax<axis = 2>(x)", ""),
        (17, "Tile(a, k)", "int64[4] k = {1, 1, 1, 2}", "Tile(x, k)", "int64[4] k = {1, 2, 1, 1}"),
        (17, "Expand(a, k)", "int64[4] k = {2, 4, 5, 3}", "Expand(x, k)", "int64[4] k = {2, 3, 4, 5}"),
        (17, "Resize(a, , k)", "float[4] k = {1, 2, 2, 1}", "Resize(x, , k)", "float[4] k = {1, 1, 2, 2}"),
        (
            18, "Resize<axes = [1, 2]>(a, , , k)", "int64[2] k = {6, 7}",
            "Resize<axes = [2, 3]>(x, , , k)", "int64[2] k = {6, 7}",
        ),
        (17, "CumSum(a, k)", "int64 k = {3}", "CumSum(x, k)", "int64 k = {1}"),
        (17, "Gather<axis = 3>(a, k)", "int64[2] k = {2, 0}", "Gather<axis = 1>(x, k)", "int64[2] k = {2, 0}"),
    ],
)  # fmt: skip
def test_what_changes_in_an_operator(rewrites, opset, before, constants_before, after, constants_after):
    head = f'<ir_version: 8, opset_import: ["": {opset}]>'

    def text(body: str, constants: str) -> str:
        kept = f"<{constants}>" if constants else ""
        return f"{head} g (float[2, 3, 4, 5] x) => (float[A, B, C, D] y) {kept} {{ {body} }}"

    rewrites(
        PlaceTransposes(),
        text(f"a = Transpose{TO_NHWC}(x) b = {before} y = Transpose{TO_NCHW}(b)", constants_before),
        text(f"y = {after}", constants_after),
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("int64[1] k = {3}> { b = Squeeze(a, k)", "int64[1] k = {1}> { b = Squeeze(x, k)"),
        ("int64[2] k = {-1, 8}> { b = Reshape(a, k)", "int64[2] k = {-1, 8}> { b = Reshape(x, k)"),
        ("int64[1] k = {0}> { c = ArgMax<axis = 3, keepdims = 0>(a) b = Cast<to = 1>(c)",
         "int64[1] k = {0}> { c = ArgMax<axis = 1, keepdims = 0>(x) b = Cast<to = 1>(c)"),
        ("int64[1] k = {0}> { c = Shape(a) b = Cast<to = 1>(c)",
         "int64[4] k = {0, 2, 3, 1}> { s = Shape(x) c = Gather<axis = 0>(s, k) b = Cast<to = 1>(c)"),
    ],
)  # fmt: skip
def test_a_node_at_the_end_takes_any_order(rewrites, before, after):
    done = rewrites(
        PlaceTransposes(),
        f"g (float[N, 1, 2, 4] x) => (b) <{before} }}".replace("{ b", f"{{ a = Transpose{TO_NHWC}(x) b").replace(
            "{ c", f"{{ a = Transpose{TO_NHWC}(x) c"
        ),
        f"g (float[N, 1, 2, 4] x) => (b) <{after} }}",
    )
    assert done.changed[0][1] == "its transpose is not needed"


def test_a_sum_moves_only_on_request(rewrites, keeps):
    def text(body: str) -> str:
        return f"g (float[2, 3, 4, 5] x) => (float[2, 3] y) {{ {body} }}"

    before = text(f"a = Transpose{TO_NHWC}(x) y = ReduceMean<axes = [1, 2], keepdims = 0>(a)")
    keeps(PlaceTransposes(), before)
    rewrites(PlaceTransposes(rounding=True), before, text("y = ReduceMean<axes = [2, 3], keepdims = 0>(x)"))
    assert PlaceTransposes(rounding=True).fidelity is Fidelity.NUMERIC
    assert PlaceTransposes().fidelity is Fidelity.EXACT


@pytest.mark.parametrize("operator", ["Log", "Elu", "Softplus"])
def test_what_the_runtime_rounds_by_place_moves_only_on_request(keeps, operator):
    text = f"g (float[3, 4] x) => (float[3, 4] y) {{ a = Transpose(x) b = {operator}(a) y = Transpose(b) }}"
    keeps(PlaceTransposes(), text)
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]>' + text)
    infer(model)
    assert drive(PlaceTransposes(rounding=True), model, Context()).changed


def test_a_softmax_keeps_its_axis_the_last(keeps):
    """Along another axis the kernel transposes itself."""
    keeps(
        PlaceTransposes(),
        """g (float[64, 65] x) => (float[65, 64] y) <float[65, 64] k> {
             a = Transpose(x) y = Softmax<axis = -1>(a) }""".replace("<float[65, 64] k>", ""),
    )


@pytest.mark.parametrize(
    "body",
    [
        "a = Transpose(x) b = MatMul(a, x) y = Transpose(b)",
        "a = Transpose(x) b = Add(a, v) y = Transpose(b)",  # v has one axis, and is not constant
        "a = Transpose(x) y = Relu(a)",
        "a = Transpose(x) b = LayerNormalization(a, v) y = Transpose(b)",
    ],
)
def test_operators_of_a_fixed_order_keep_theirs(keeps, body):
    keeps(PlaceTransposes(), f"g (float[4, 4] x, float[4] v) => (float[4, 4] y) {{ {body} }}")


def test_what_cannot_be_better_has_a_reason(keeps):
    keeps(
        PlaceTransposes(),
        """g (float[4, 4] x) => (float[4, 4] y) <float[4, 4] w> {
             a = Transpose(x) b = Relu(a) c = MatMul(b, b) d = Transpose(c) e = Neg(d) f = MatMul(e, e)
             h = Transpose(f) i = Add(h, b) y = MatMul(i, i) }""".replace(" <float[4, 4] w>", ""),
        reason="are as few as can be",
    )


def test_a_transpose_between_other_orders_takes_them_up(rewrites):
    rewrites(
        PlaceTransposes(),
        f"""g (float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y, float[4, 3, 2, 5] z) {{
             a = Transpose{TO_NHWC}(x) b = Relu(a) y = Transpose{TO_NCHW}(b) z = Transpose<perm = [1, 3, 0, 2]>(b) }}""",
        """g (float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y, float[4, 3, 2, 5] z) {
             y = Relu(x) z = Transpose<perm = [2, 1, 0, 3]>(y) }""",
    )


def test_results_in_the_middle_keep_their_order(rewrites):
    rewrites(
        PlaceTransposes(),
        """g (float[3, 4] x) => (float[4, 3] a, float[3, 4] y) {
             t = Transpose(x) a = Relu(t) n = Neg(a) y = Transpose(n) }""",
        """g (float[3, 4] x) => (float[4, 3] a, float[3, 4] y) {
             r = Relu(x) a = Transpose<perm = [1, 0]>(r) y = Neg(r) }""",
    )


def test_inside_a_branch_with_outer_values(rewrites):
    def text(body: str) -> str:
        return f"""g (bool p, float[2, 3] x) => (float[2, 3] y) {{
             o = Neg(x)
             y = If (p) <then_branch = t () => (float[2, 3] u) {{ {body} }},
                         else_branch = e () => (float[2, 3] v) {{ v = Neg(o) }}> }}"""

    rewrites(PlaceTransposes(), text("a = Transpose(o) b = Relu(a) u = Transpose(b)"), text("u = Relu(o)"))


def test_what_an_inner_graph_reads_keeps_its_order(keeps):
    keeps(
        PlaceTransposes(),
        """g (bool p, float[2, 3] x) => (float[3, 2] y) {
             a = Transpose(x) b = Relu(a)
             y = If (p) <then_branch = t () => (float[3, 2] u) { u = Neg(b) },
                         else_branch = e () => (float[3, 2] v) { v = Abs(b) }> }""",
    )


def test_in_a_loop(rewrites):
    def text(body: str) -> str:
        return f"""g (int64 n, bool go, float[2, 3] x) => (float[2, 3] y) {{
             y = Loop (n, go, x) <body = b (int64 i, bool c, float[2, 3] s) => (bool d, float[2, 3] r) {{
               d = Identity(c) {body} }}> }}"""

    rewrites(PlaceTransposes(), text("a = Transpose(s) e = Relu(a) r = Transpose(e)"), text("r = Relu(s)"))


def test_in_a_function_with_a_parameter(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
            g (float[2, 3] x) => (float[2, 3] y) {{ y = own.f<slope = 0.5>(x) }}
            <domain: "own", opset_import: ["": 17]> f <slope>(x) => (y) {{ {body} }}"""

    rewrites(
        PlaceTransposes(),
        text("a = Transpose<perm = [1, 0]>(x) b = LeakyRelu<alpha: float = @slope>(a) y = Transpose<perm = [1, 0]>(b)"),
        text("y = LeakyRelu<alpha: float = @slope>(x)"),
    )


@pytest.mark.parametrize("dtype", ["float16", "double", "int32", "bool", "uint8"])
def test_every_element_type(rewrites, dtype):
    def text(body: str) -> str:
        return f"g ({dtype}[2, 3] x) => ({dtype}[2, 3] y) {{ {body} }}"

    rewrites(PlaceTransposes(), text("a = Transpose(x) b = Identity(a) y = Transpose(b)"), text("y = Identity(x)"))


def test_floats_of_eight_bits_are_not_transposed_before_the_operator_exists(keeps):
    keeps(
        PlaceTransposes(),
        """<ir_version: 9, opset_import: ["": 19]> g (float[64, 64] x) => (float[64, 64] y) {
             a = Transpose(x) b = Cast<to = 17>(a) c = Cast<to = 1>(b) y = MatMul(c, x) }""",
        runs=False,
    )


def test_an_unknown_rank_is_left_alone(keeps):
    keeps(
        PlaceTransposes(),
        """g (float[2, 3] x, int64[R] s) => (float[A, B] y) {
             r = Reshape(x, s) a = Transpose<perm = [1, 0]>(r) b = Add(a, r) y = Transpose<perm = [1, 0]>(b) }""",
        runs=False,
    )


def test_a_large_constant_with_other_readers_is_not_copied(keeps):
    elements = ir.tensor(np.ones((1024, 1024), np.float32))
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]> g (float[1024, 1024] x) => (float[1024, 1024] y, float[1024, 1024] z) {
             a = Transpose(x) b = Mul(a, k) y = Transpose(b) z = MatMul(x, k) }""".replace("(x) ", "(x) ", 1).replace(
            "g (float[1024, 1024] x)", "g (float[1024, 1024] x, float[1024, 1024] k)"
        )
    )
    value = model.graph.inputs.pop()
    value.const_value = elements
    model.graph.initializers.add(value)
    keeps(PlaceTransposes(), model, runs=False)


def _feeds(model: ir.Model, seed: int) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(seed)
    return {
        value.name: numbers.standard_normal(tuple(value.shape.numpy())).astype(np.float32)
        for value in model.graph.inputs
    }


@settings(max_examples=150)
@given(seed=st.integers(0, 10**9), rounding=st.booleans())
def test_random_graphs_compute_the_same_with_no_more_transposes(seed, rounding):
    model = ir.from_proto(make(seed, rounding=rounding))
    sweep(model)
    pass_ = PlaceTransposes(rounding=rounding)
    feeds = _feeds(model, seed)
    wanted = Session(model, optimized=False).run(feeds)
    after = model.clone()
    infer(after)
    drive(pass_, after, Context())
    forget(after)
    check(after)
    found = Session(after, optimized=False).run(feeds)
    for name, expected in wanted.items():
        actual = np.asarray(found[name])
        if rounding and actual.dtype.kind == "f":
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
        else:
            assert actual.tobytes() == np.asarray(expected).tobytes(), name
    assert count(after) <= count(model)
    infer(after)
    assert not drive(pass_, after, Context()).changed


@settings(max_examples=100)
@given(seed=st.integers(0, 10**9))
def test_no_choice_of_orders_is_cheaper(seed):
    """All choices of small regions, one by one."""
    model = ir.from_proto(make(seed, steps=12))
    sweep(model)
    infer(model)
    for body in bodies(model):
        look = partial(place_transposes._look, body, False)
        ends = (partial(place_transposes._exit, look), partial(place_transposes._entry, look))
        for node in body.graph:
            order = permutation(node)
            if order is None:
                continue
            region = Region(node, Pair.of(order), partial(place_transposes._describe, look), ends)
            free = [bundle for bundle in region.bundles if _is_free(region, bundle.root.producer())]
            if not region.transposes or len(region.movable) + len(free) > 9:
                continue
            costs: list[int] = []
            for labels in itertools.product((0, 1), repeat=len(region.movable) + len(free)):
                orders = dict(zip(region.movable, labels, strict=False))
                given_free = dict(zip(free, labels[len(orders) :], strict=True))
                produced = {}
                for bundle in region.bundles:
                    producer = bundle.root.producer()
                    fixed = orders[producer] if producer in orders else region.kinds[bundle.root]
                    produced[bundle] = given_free.get(bundle, fixed)
                costs.append(Solution(region, orders, produced).cost)
            assert solve(region).cost == min(costs)


def _is_free(region: Region, node: ir.Node | None) -> bool:
    return node is not None and (node in region.entries or region.is_other_transpose(node))


@pytest.mark.parametrize(
    ("there", "back", "mode", "left"),
    [(TO_NCHW, TO_NHWC, "linear", 0), (TO_NHWC, TO_NCHW, "linear", 0), (TO_NCHW, TO_NHWC, "cubic", 2)],
)
def test_an_interpolation_moves_where_the_runtime_has_a_kernel(there, back, mode, left):
    scales = "{1, 1, 2, 3}" if there == TO_NCHW else "{1, 2, 3, 1}"
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[1, 4, 5, 6] x) => (float[A, B, C, D] y)
        <float[4] s = {scales}> {{
        a = Transpose{there}(x) b = Resize<mode = "{mode}">(a, , s) y = Transpose{back}(b) }}"""
    model, outcomes = PassManager("place-transposes{rounding=true}", strict=True).run(ir.from_onnx_text(text))
    assert count(model) == left
    assert outcomes.verdict is not None and outcomes.verdict.ok
