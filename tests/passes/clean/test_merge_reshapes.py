from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.ir import infer, load, save
from graphopt.passes.clean._axes import combine
from graphopt.passes.clean.merge_reshapes import MergeReshapes
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive


def graph(x: str, body: str, constants: str = "", version: int = 17) -> str:
    return f'<ir_version: 8, opset_import: ["": {version}]> g ({x} x) => (y) {constants} {{ {body} y = Relu(b) }}'


def shape(name: str, *sizes: int) -> str:
    return f"{name} = Constant<value = int64[{len(sizes)}] {{{', '.join(map(str, sizes))}}}>()"


def given(*sizes: int) -> str:
    return f"<int64[{len(sizes)}] s = {{{', '.join(map(str, sizes))}}}>"


@pytest.mark.parametrize("sizes", [(4, 6), (-1, 2), (24,), (2, 3, 2, 2)])
def test_the_last_reshape_is_enough(rewrites, sizes):
    rewrites(
        MergeReshapes(),
        graph("float[2, 3, 4]", f"{shape('r', 6, 4)} {shape('s', *sizes)} a = Reshape(x, r) b = Reshape(a, s)"),
        graph("float[2, 3, 4]", f"{shape('s', *sizes)} b = Reshape(x, s)"),
    )


@pytest.mark.parametrize(
    ("first", "constants"),
    [
        ("a = Flatten(x)", ""),
        ("o = Constant<value = int64[1] {1}>() a = Unsqueeze(x, o)", ""),
        ("a = Squeeze(x)", ""),
    ],
)
def test_a_reshape_of_anything_that_keeps_the_order(rewrites, first, constants):
    rewrites(
        MergeReshapes(),
        graph("float[2, 1, 12]", f"{first} {shape('s', 4, 6)} b = Reshape(a, s)", constants),
        graph("float[2, 1, 12]", f"{shape('s', 4, 6)} b = Reshape(x, s)"),
    )


def test_a_pair_that_comes_back_goes(rewrites):
    rewrites(
        MergeReshapes(),
        graph("float[N, 3, 4]", f"c = Exp(x) {shape('s', 0, 3, 4)} a = Flatten(c) b = Reshape(a, s)"),
        graph("float[N, 3, 4]", "b = Exp(x)"),
    )


def test_a_0_that_meant_a_size_in_between_is_resolved(rewrites):
    rewrites(
        MergeReshapes(),
        graph("float[2, 3, 4]", f"{shape('r', 6, 4)} {shape('s', 0, 2, 2)} a = Reshape(x, r) b = Reshape(a, s)"),
        graph("float[2, 3, 4]", "b = Reshape(x, s)", given(6, 2, 2)),
    )


def test_a_0_that_means_the_same_size_of_x_stays(rewrites):
    rewrites(
        MergeReshapes(),
        graph("float[N, M, 4]", f"{shape('r', 0, 0, 2, 2)} {shape('s', 0, -1)} a = Reshape(x, r) b = Reshape(a, s)"),
        graph("float[N, M, 4]", f"{shape('s', 0, -1)} b = Reshape(x, s)"),
    )


def test_a_0_of_unknown_size_becomes_the_one_that_is_inferred(rewrites):
    rewrites(
        MergeReshapes(),
        graph("float[N, 3, 4]", f"{shape('r', -1, 4)} {shape('s', 0, 2, 2)} a = Reshape(x, r) b = Reshape(a, s)"),
        graph("float[N, 3, 4]", "b = Reshape(x, s)", given(-1, 2, 2)),
    )


def test_a_0_that_cannot_be_said_of_x_is_kept(keeps):
    keeps(
        MergeReshapes(),
        graph("float[N, M, 4]", f"{shape('r', 0, -1, 2)} {shape('s', 0, 0, 1, 2)} a = Reshape(x, r) b = Reshape(a, s)"),
        reason="refers to the tensor in between",
        runs=False,
    )


def test_the_proven_shape_of_the_result_helps_where_the_target_does_not(rewrites):
    rewrites(
        MergeReshapes(),
        graph("float[N, M, 4]", f"{shape('r', -1, 2, 4)} {shape('s', 0, -1)} a = Reshape(x, r) b = Reshape(a, s)"),
        graph("float[N, M, 4]", "b = Reshape(x, s)", given(-1, 8)),
        runs=False,  # random sizes need not divide
    )


def test_allowzero_takes_a_0_for_a_0(rewrites):
    rewrites(
        MergeReshapes(),
        graph(
            "float[0, 3]",
            f"{shape('r', 3, 0)} {shape('s', 0, 7)} a = Reshape<allowzero = 1>(x, r) b = Reshape<allowzero = 1>(a, s)",
        ),
        graph("float[0, 3]", f"{shape('s', 0, 7)} b = Reshape<allowzero = 1>(x, s)"),
    )


@pytest.mark.parametrize("version", [5, 12, 13, 17, 21])
def test_allowzero_is_never_written(rewrites, version):
    """A peer wrote allowzero into a model of version 12, which ONNX Runtime refuses."""
    rewrites(
        MergeReshapes(),
        graph(
            "float[2, 3, 4]",
            f"{shape('r', 6, 4)} {shape('s', 0, 2, 2)} a = Reshape(x, r) b = Reshape(a, s)",
            version=version,
        ),
        graph("float[2, 3, 4]", "b = Reshape(x, s)", given(6, 2, 2), version=version),
        runs=version > 5,
    )


def test_a_computed_shape_is_kept(keeps):
    keeps(
        MergeReshapes(),
        """g (float[2, 3, 4] x, int64[2] s) => (y) {
             r = Constant<value = int64[2] {6, 4}>() a = Reshape(x, r) b = Reshape(a, s) y = Relu(b) }""",
        reason="its target shape is not known",
        runs=False,
    )


def test_a_stale_declared_shape_is_not_believed(rewrites):
    """The file says a is [2, 12]; it is [6, 4]. A peer believed such a declaration."""
    rewrites(
        MergeReshapes(),
        """g (float[2, 3, 4] x) => (float[7, 7, 7] y) <float[2, 12] a> {
             r = Constant<value = int64[2] {6, 4}>() s = Constant<value = int64[3] {0, 2, 2}>()
             a = Reshape(x, r) b = Reshape(a, s) y = Relu(b) }""",
        "g (float[2, 3, 4] x) => (float[7, 7, 7] y) <int64[3] s = {6, 2, 2}> { b = Reshape(x, s) y = Relu(b) }",
        runs=False,
    )


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        (("Unsqueeze", [0]), ("Unsqueeze", [0]), ("Unsqueeze", [0, 1])),
        (("Unsqueeze", [1]), ("Unsqueeze", [0, 3]), ("Unsqueeze", [0, 2, 3])),
        (("Unsqueeze", [-1]), ("Unsqueeze", [0]), ("Unsqueeze", [0, 4])),
        (("Squeeze", [1]), ("Squeeze", [0]), ("Squeeze", [0, 1])),
        (("Unsqueeze", [0, 3]), ("Squeeze", [0]), ("Unsqueeze", [2])),
        (("Unsqueeze", [0]), ("Squeeze", [0, 1]), ("Squeeze", [0])),
    ],
)
@pytest.mark.parametrize("version", [11, 13, 21])
def test_axes_add_up(rewrites, version, first, second, merged):
    def node(result: str, source: str, operator: str, axes: list[int], axes_name: str) -> str:
        if version < 13:
            return f"{result} = {operator}<axes = {axes}>({source})"
        if axes_name == "s":
            return f"{result} = {operator}({source}, s)"
        return f"{shape(axes_name, *axes)} {result} = {operator}({source}, {axes_name})"

    sizes = "float[1, 1, N]"
    rewrites(
        MergeReshapes(),
        graph(sizes, node("a", "x", *first, "p") + " " + node("b", "a", *second, "q"), version=version),
        graph(sizes, node("b", "x", *merged, "s"), given(*merged[1]) if version >= 13 else "", version=version),
    )


@pytest.mark.parametrize("version", [11, 17])
def test_unsqueeze_and_squeeze_cancel_whatever_the_rank(rewrites, version):
    axes = "<axes = [1]>", "" if version < 13 else ", p"
    head, tail = (axes[0], "") if version < 13 else ("", ", p")
    constant = "" if version < 13 else shape("p", 1)
    model = f"""<ir_version: 8, opset_import: ["": {version}, "local": 1]>
        g (float[2, 3] x) => (float[2, 3] y) {{{{ y = local.f(x) }}}}
        <domain: "local", opset_import: ["": {version}]>
        f (c) => (y) {{{{ {{body}} }}}}"""
    rewrites(
        MergeReshapes(),
        model.format(body=f"{constant} a = Unsqueeze{head}(c{tail}) b = Squeeze{head}(a{tail}) y = Relu(b)"),
        model.format(body="y = Relu(c)"),
    )


def test_a_squeeze_of_all_ones_needs_no_squeeze_before(rewrites):
    rewrites(
        MergeReshapes(),
        graph("float[1, 3, 1]", f"{shape('p', 0)} a = Squeeze(x, p) b = Squeeze(a)"),
        graph("float[1, 3, 1]", "b = Squeeze(x)"),
    )


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("<axis = 2>", "<axis = 0>", "<axis = 0>"),
        ("<axis = 2>", "", "<axis = 2>"),
        ("<axis = 2>", "<axis = -2>", "<axis = 0>"),
    ],
)
def test_flatten_of_a_flatten(rewrites, first, second, merged):
    rewrites(
        MergeReshapes(),
        graph("float[2, 3, N, M]", f"a = Flatten{first}(x) b = Flatten{second}(a)"),
        graph("float[2, 3, N, M]", f"b = Flatten{merged}(x)"),
    )


def test_a_squeeze_of_a_reshape_is_one_reshape(rewrites):
    rewrites(
        MergeReshapes(),
        graph("float[N, 3, 4]", f"{shape('r', -1, 1, 12)} {shape('p', 1)} a = Reshape(x, r) b = Squeeze(a, p)"),
        graph("float[N, 3, 4]", "b = Reshape(x, s)", given(-1, 12)),
    )


def test_two_copied_sizes_stay_copies(rewrites):
    rewrites(
        MergeReshapes(),
        graph("float[N, M, 4]", f"{shape('r', 0, 0, 2, 2)} {shape('p', 2)} a = Reshape(x, r) b = Unsqueeze(a, p)"),
        graph("float[N, M, 4]", "b = Reshape(x, s)", given(0, 0, 1, 2, 2)),
    )


def test_two_unknown_sizes_are_kept(keeps):
    keeps(
        MergeReshapes(),
        graph("float[N, M, 4]", f"{shape('p', 0)} a = Flatten(x) b = Unsqueeze(a, p)"),
        reason="more than one size of the result is not known",
    )


def test_an_empty_tensor_survives(rewrites):
    """No 0 is written beside a -1: that could not be resolved for N = 0."""
    before = graph("float[N, 3, 4]", f"{shape('r', 0, 12)} {shape('p', 1)} a = Reshape(x, r) b = Unsqueeze(a, p)")
    rewrites(MergeReshapes(), before, graph("float[N, 3, 4]", "b = Reshape(x, s)", given(-1, 1, 12)))


def test_what_is_used_elsewhere_stays(rewrites, keeps):
    rewrites(
        MergeReshapes(),
        """g (float[2, 3, 4] x) => (y, z) { r = Constant<value = int64[2] {6, 4}>()
             s = Constant<value = int64[1] {24}>() a = Reshape(x, r) z = Neg(a) b = Reshape(a, s) y = Relu(b) }""",
        """g (float[2, 3, 4] x) => (y, z) { r = Constant<value = int64[2] {6, 4}>()
             s = Constant<value = int64[1] {24}>() a = Reshape(x, r) z = Neg(a) b = Reshape(x, s) y = Relu(b) }""",
    )
    keeps(
        MergeReshapes(),
        """g (float[2, 3, 4] x) => (y, z) { r = Constant<value = int64[2] {6, 4}>()
             s = Constant<value = int64[1] {0}>() a = Reshape(x, r) z = Neg(a) b = Unsqueeze(a, s) y = Relu(b) }""",
        reason="used elsewhere",
    )


def test_public_outputs_keep_values_of_their_own(rewrites):
    rewrites(
        MergeReshapes(),
        """g (float[2, 3] x) => (y, z, a) { r = Constant<value = int64[1] {6}>()
             s = Constant<value = int64[2] {2, 3}>() c = Neg(x)
             a = Reshape(c, r) y = Reshape(a, s) z = Reshape(a, s) }""",
        """g (float[2, 3] x) => (y, z, a) { r = Constant<value = int64[1] {6}>()
             y = Neg(x) a = Reshape(y, r) z = Identity(y) }""",
    )


def test_in_a_branch_and_a_function(rewrites):
    model = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2, 3] x, bool k) => (float[3, 2] y) {{
          r = Constant<value = int64[1] {{6}}>() s = Constant<value = int64[2] {{3, 2}}>() a = Reshape(x, r)
          y = If (k) <
            then_branch = t () => (float[3, 2] p) {{ q = Reshape({source}, s) p = Neg(q) }},
            else_branch = e () => (float[3, 2] v) {{ w = local.f(x) u = Reshape(a, s) v = Add(w, u) }}>
        }}
        <domain: "local", opset_import: ["": 17]>
        f (a) => (b) {{
          r = Constant<value = int64[1] {{6}}>() s = Constant<value = int64[2] {{3, 2}}>() {body} b = Abs(d) }}"""
    before = model.format(source="a", body="c = Reshape(a, r) d = Reshape(c, s)")
    expected = (
        model.format(source="x", body="d = Reshape(a, s)")
        .replace("Reshape(a, s) v", "Reshape(x, s) v")
        .replace("r = Constant<value = int64[1] {6}>() s", "s")
        .replace(" a = Reshape(x, r)", "")
    )
    rewrites(MergeReshapes(), before, expected)


def test_new_shapes_of_an_ir_version_3_model_are_among_its_inputs(tmp_path):
    text = """<ir_version: 3, opset_import: ["": 8]>
        g (float[2, 3, 4] x, int64[2] r, int64[3] s) => (y) <int64[2] r = {6, 4}, int64[3] s = {0, 2, 2}> {
          a = Reshape(x, r) y = Reshape(a, s) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "old.onnx")
    model = load(tmp_path / "old.onnx")
    infer(model)
    assert drive(MergeReshapes(), model, Context()).changed
    save(model, tmp_path / "new.onnx")
    proto = onnx.load(tmp_path / "new.onnx")
    assert [node.op_type for node in proto.graph.node] == ["Reshape"]
    assert [item.name for item in proto.graph.initializer] == [item.name for item in proto.graph.input][1:]


def test_combined_axes_do_what_the_two_did():
    """All pairs over small tensors, in NumPy."""
    operators = {"Squeeze": np.squeeze, "Unsqueeze": np.expand_dims}
    subsets = [s for n in (1, 2) for s in itertools.combinations(range(-3, 4), n)]
    checked = 0
    for first, second in itertools.product(operators, repeat=2):
        for before, after in itertools.product(subsets, repeat=2):
            x = np.zeros((1, 1, 2, 1, 3))
            try:
                middle = operators[first](x, before)
                result = operators[second](middle, after)
            except ValueError:
                continue
            for ranks in ((x.ndim, middle.ndim, result.ndim), (None, None, None)):
                combined = combine(first, before, second, after, ranks)
                if combined is not None:
                    operator, axes = combined
                    assert operators[operator](x, tuple(axes)).shape == result.shape
                    checked += 1
    assert checked > 300


def test_a_squeeze_that_may_fail_keeps_its_check(keeps):
    """Of a size other than 1, Squeeze is an error; a Reshape would mix batch and time without a word."""
    keeps(
        MergeReshapes(),
        """g (float[N, 4, T] x) => (y) <int64[1] last = {-1}, int64[1] z = {0}> {
             a = Squeeze(x, last) b = Unsqueeze(a, z) y = Relu(b) }""",
        reason="makes sure that the size it drops is 1",
        runs=False,
    )
