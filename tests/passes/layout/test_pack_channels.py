from __future__ import annotations

import random
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.ir import check, forget, infer, sweep
from graphopt.passes.layout import _packed, _packed_conv
from graphopt.passes.layout.pack_channels import PackChannels
from graphopt.pipeline import Context, Fidelity, PassManager, Recipe
from graphopt.pipeline.drive import Drive, drive

FUNCTIONS = """
<domain: "graphopt.packed", opset_import: ["": 17]>
ConvFromPlain_b2_c1x4_k1x1 <block, dilations, group, kernel_shape, pads, strides> (x, w, b) => (y) {
  w1 = Transpose<perm = [0, 4, 1, 2, 3]>(w)
  o = Constant<value = int64[4] {4, 1, 1, 1}>()
  w2 = Reshape(w1, o)
  c = Constant<value = int64[1] {4}>()
  b1 = Reshape(b, c)
  z = Conv<dilations = [1, 1], group = 1, kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1]>(x, w2, b1)
  y1 = Transpose<perm = [0, 2, 3, 1]>(z)
  s = Constant<value = int64[5] {0, 0, 0, 2, 2}>()
  y2 = Reshape(y1, s)
  y = Transpose<perm = [0, 3, 1, 2, 4]>(y2)
}
<domain: "graphopt.packed", opset_import: ["": 17]>
Conv_b2_c4x2_k1x1_nobias <block, dilations, group, kernel_shape, pads, strides> (x, w) => (y) {
  x1 = Transpose<perm = [0, 2, 3, 1, 4]>(x)
  i = Constant<value = int64[4] {0, 0, 0, 4}>()
  x2 = Reshape(x1, i)
  x3 = Transpose<perm = [0, 3, 1, 2]>(x2)
  w1 = Transpose<perm = [0, 5, 1, 4, 2, 3]>(w)
  o = Constant<value = int64[4] {2, 4, 1, 1}>()
  w2 = Reshape(w1, o)
  z = Conv<dilations = [1, 1], group = 1, kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1]>(x3, w2)
  y1 = Transpose<perm = [0, 2, 3, 1]>(z)
  s = Constant<value = int64[5] {0, 0, 0, 1, 2}>()
  y2 = Reshape(y1, s)
  y = Transpose<perm = [0, 3, 1, 2, 4]>(y2)
}
<domain: "graphopt.packed", opset_import: ["": 17]>
Unpack_b2_c1 <block, channels> (x) => (y) {
  x1 = Transpose<perm = [0, 2, 3, 1, 4]>(x)
  s = Constant<value = int64[4] {0, 0, 0, 2}>()
  x2 = Reshape(x1, s)
  zero = Constant<value = int64[1] {0}>()
  one = Constant<value = int64[1] {1}>()
  axis = Constant<value = int64[1] {3}>()
  x3 = Slice(x2, zero, one, axis)
  y = Transpose<perm = [0, 3, 1, 2]>(x3)
}"""


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs whatever can be packed: the tests' images are too small to be worth it."""
    monkeypatch.setattr(_packed_conv, "_SAVED", 1e6)


def _model(text: str, version: int = 17) -> ir.Model:
    text = text.strip()
    if not text.startswith("<"):
        text = f'<ir_version: 8, opset_import: ["": {version}]>\n' + text
    proto = onnx.parser.parse_model(text)
    for graph in _graphs(proto.graph):
        _fill(graph)
    for function in proto.functions:
        for node in function.node:
            if node.op_type == "Constant" and node.attribute[0].t.dims:
                node.attribute[0].t.CopyFrom(_noise(node.output[0], list(node.attribute[0].t.dims), np.float32))
    return ir.from_proto(proto)


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [graph, *(found for item in inner for found in _graphs(item))]


def _fill(graph: onnx.GraphProto) -> None:
    """Noise for inputs named w.. and b.., which become constants."""
    for value in [value for value in graph.input if value.name[0] in "wb"]:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        graph.initializer.append(_noise(value.name, sizes, dtype))
        graph.input.remove(value)


def _noise(name: str, sizes: list[int], dtype: np.dtype | type) -> onnx.TensorProto:
    numbers = np.random.default_rng(len(name) + sum(sizes)).standard_normal(sizes)
    return numpy_helper.from_array((numbers / 2).astype(dtype), name)


def _packs(text: str | ir.Model, pass_: PackChannels | None = None, version: int = 17) -> tuple[ir.Model, Drive]:
    """Pack, with the same results and nothing to do a second time."""
    pass_ = pass_ or PackChannels(block=4)
    model = _model(text, version) if isinstance(text, str) else text
    after, _ = PassManager((pass_,), verify="each", strict=True).run(model)
    check(after)
    copy = model.clone()
    infer(copy)
    done = drive(pass_, copy, Context())
    infer(copy)
    assert not drive(pass_, copy, Context()).changed
    return after, done


def _kinds(model: ir.Model | ir.Graph) -> Counter[str]:
    """Operators of the outermost graph; those of the domain without their details."""
    graph = model.graph if isinstance(model, ir.Model) else model
    return Counter(f"P.{n.op_type.split('_')[0]}" if n.domain == _packed.DOMAIN else n.op_type for n in graph)


def test_convolutions_become_functions_on_blocks_of_channels(rewrites, eager):
    done = rewrites(
        PackChannels(block=2),
        """g (float[N, 1, H, W] x) => (float[N, 1, H, W] y) <float[4, 1, 1, 1] w = {1, 2, 3, 4}, float[4] b = {5, 6, 7, 8},
             float[4, 1, 1] k = {1, 3, 5, 7}, float[1, 4, 1, 1] v = {1, 2, 3, 4}> {
             p = Conv(x, w, b) q = Relu(p) r = Mul(q, k) y = Conv(r, v) }""",
        """<ir_version: 8, opset_import: ["": 17, "graphopt.packed": 1]>
        g (float[N, 1, H, W] x) => (float[N, 1, H, W] y) <float[2, 1, 1, 1, 2] w = {1, 2, 3, 4},
             float[2, 2] b = {5, 6, 7, 8}, float[2, 1, 1, 2] k = {1, 3, 5, 7},
             float[1, 2, 1, 1, 2, 2] v = {1, 0, 2, 0, 3, 0, 4, 0}> {
             p = graphopt.packed.ConvFromPlain_b2_c1x4_k1x1<block = 2, dilations = [1, 1], group = 1,
                 kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1]>(x, w, b)
             q = Relu(p) r = Mul(q, k)
             z = graphopt.packed.Conv_b2_c4x2_k1x1_nobias<block = 2, dilations = [1, 1], group = 1,
                 kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1]>(r, v)
             y = graphopt.packed.Unpack_b2_c1<block = 2, channels = 1>(z) }"""
        + FUNCTIONS,
    )
    assert [text for _, text in done.changed] == [
        "2 convolutions packed with 0 Pack and 1 Unpack, not 3 for each by itself"
    ]


def test_the_layout_of_weights_is_blocks_of_outputs_behind_blocks_of_inputs():
    weights = np.random.default_rng(0).standard_normal((5, 6, 3, 2)).astype(np.float32)
    packed = _packed.packed_weights(weights, 4, depthwise=False, reads_plain=False)
    assert packed.shape == (2, 2, 3, 2, 4, 4)
    assert packed[1, 1, 2, 1, 1, 0] == weights[4, 5, 2, 1]
    assert not packed[1, :, :, :, :, 1:].any()
    assert not packed[:, 1, :, :, 2:].any()
    depthwise = _packed.packed_weights(weights[:, :1], 4, depthwise=True, reads_plain=False)
    assert depthwise.shape == (2, 1, 3, 2, 1, 4)
    assert depthwise[0, 0, 1, 1, 0, 3] == weights[3, 0, 1, 1]
    image = _packed.packed_weights(weights[:, :3], 4, depthwise=False, reads_plain=True)
    assert image.shape == (2, 3, 3, 2, 4)
    assert image[0, 2, 1, 0, 3] == weights[3, 2, 1, 0]


@pytest.mark.parametrize("version", [11, 13, 18, 23])
@pytest.mark.parametrize("channels", [8, 6])
def test_a_network_is_packed_as_one(eager, version, channels):
    mean = "s = ReduceMean<axes = [2, 3]>(e)" if version < 18 else "s = ReduceMean(e, axes)"
    after, done = _packs(
        f"""g (float[N, 3, 9, 7] x, float[{channels}, 3, 3, 3] w1, float[{channels}] b1, float[{channels}, 1, 3, 3] w2,
              float[2, {channels}, 1, 1] w3, float[2] b3, float[{channels}, 2, 1, 1] w4, float[{channels}] b4,
              float[5, {channels}, 1, 1] w5) => (float[N, 5, A, B] y) <int64[2] axes = {{2, -1}}> {{
              a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1) b = Relu(a)
              c = Conv<group = {channels}, dilations = [2, 1], auto_pad = "SAME_UPPER">(b, w2) e = HardSwish(c)
              {mean} t = Conv(s, w3, b3) u = Relu(t) v = Conv(u, w4, b4) z = HardSigmoid(v)
              f = Mul(e, z) h = Add(f, b) i = MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(h)
              j = AveragePool<kernel_shape = [2, 2], pads = [1, 0, 0, 1]>(i) y = Conv<strides = [2, 1]>(j, w5) }}""".replace(
            "e = HardSwish(c)", "e = HardSwish(c)" if version >= 14 else "d = HardSigmoid(c) e = Mul(c, d)"
        ),
        version=version,
    )
    assert [text for _, text in done.changed] == [
        "5 convolutions packed with 0 Pack and 1 Unpack, not 9 for each by itself"
    ]
    kinds = _kinds(after)
    assert (kinds["P.ConvFromPlain"], kinds["P.DepthwiseConv"], kinds["P.Conv"], kinds["P.Unpack"]) == (1, 1, 3, 1)
    assert (kinds["P.ReduceMean"], kinds["P.MaxPool"], kinds["P.AveragePool"]) == (1, 1, 1)
    assert after.functions
    assert all(name == _packed.DOMAIN for name, *_ in after.functions)
    infer(after)
    assert [node.outputs[0].shape[0] for node in after.graph if node.op_type.startswith("Unpack")] == ["N"]


def test_whole_blocks_promise_equal_bits(eager):
    pass_ = PackChannels(block=4, fill=False)
    assert pass_.fidelity is Fidelity.EXACT
    assert str(pass_) == "pack-channels{block=4, fill=false}"
    _, done = _packs(
        """g (float[1, 3, 9, 7] x, float[8, 3, 3, 3] w1, float[4, 8, 3, 3] w2, float[6, 4, 1, 1] w3, float[4, 6, 1, 1] w4)
            => (float[A, B, C, D] y, float[E, F, G, H] z) {
            a = Conv(x, w1) b = Sigmoid(a) c = Conv(b, w2) y = Softplus(c) z = Conv(c, w3) u = Conv(z, w4) }""".replace(
            " u = Conv(z, w4)", ""
        ),
        pass_,
    )
    assert [text for _, text in done.changed] == [
        "2 convolutions packed with 0 Pack and 1 Unpack, not 3 for each by itself"
    ]
    assert [text for _, text in done.kept] == ["its 6 channels are no multiple of 4"]
    _, done = _packs("g (float[1, 6, 9, 7] x, float[4, 6, 3, 3] w) => (float[A, B, C, D] y) { y = Conv(x, w) }", pass_)
    assert [text for _, text in done.kept] == ["the 6 channels it reads are no multiple of 4"]


def test_what_only_images_have_one_of_is_broadcast(eager):
    for version in (11, 17):
        after, _ = _packs(
            """g (float[N, 8, 5, 5] x, float[N, 1, 5, 5] m, float[8, 8, 3, 3] w1, float[6, 8, 1, 1] w2, float[6] b2,
                 float[6, 1, 1] b3, float[1, 6, 5, 1] b4, float[5] b5, float[8, 6, 1, 1] w3) => (float[A, B, C, D] y) <float h = {0.5}> {
                 a = Conv<pads = [1, 1, 1, 1]>(x, w1) b = Mul(m, a) c = Conv(b, w2, b2) d = Add(m, c) e = Sub(b3, d)
                 f = Max(e, b4) i = Add(f, b5) k = Mul(i, h) y = Conv(k, w3) }""",
            version=version,
        )
        kinds = _kinds(after)
        assert (kinds["Unsqueeze"], kinds["P.Pack"], kinds["P.Unpack"]) == (2, 1, 1)


def test_a_division_by_channels_that_fill_up_is_not_made(eager):
    after, _ = _packs(
        """g (float[1, 8, 5, 5] x, float[6, 8, 1, 1] w1, float[6, 1, 1] b3) => (float[A, B, C, D] y) {
             a = Conv(x, w1) b = Exp(a) c = Div(a, b) y = Div(c, b3) }"""
    )
    assert _kinds(after)["P.Unpack"] == 1
    assert [
        node.op_type for node in after.graph if node.op_type == "Div" and len(node.outputs[0].shape or ()) == 5
    ] == []


def test_concatenated_blocks_and_groups_of_blocks_stay_packed(eager):
    after, _ = _packs(
        """g (float[1, 8, 5, 5] x, float[8, 4, 3, 3] w1, float[4, 8, 3, 3] w2, float[12, 12, 1, 1] w3, float[4, 24, 1, 1] w4)
             => (float[A, B, C, D] y) {
             a = Conv<group = 2>(x, w1) b = Conv(x, w2) c = Concat<axis = -3>(a, b) d = Conv(c, w3)
             e = Concat<axis = 2>(c, d) f = Transpose<perm = [0, 3, 2, 1]>(e) h = Concat<axis = 1>(d, c) y = Conv(h, w4) }""".replace(
            "f = Transpose<perm = [0, 3, 2, 1]>(e) ", ""
        )
    )
    assert _kinds(after) == {"P.Pack": 1, "P.Conv": 4, "Concat": 2, "P.Unpack": 1}
    after, _ = _packs(
        """g (float[1, 8, 5, 5] x, float[6, 8, 3, 3] w1, float[6, 8, 3, 3] w2, float[4, 12, 1, 1] w3)
             => (float[A, B, C, D] y) { a = Conv(x, w1) b = Conv(x, w2) c = Concat<axis = 1>(a, b) y = Conv(c, w3) }"""
    )
    assert _kinds(after) == {"P.Pack": 2, "P.Conv": 3, "Concat": 1, "P.Unpack": 3}


@pytest.mark.parametrize("channels", [4, 6])
@pytest.mark.parametrize("keeps_axes", [0, 1])
def test_means_of_images_and_resized_ones(eager, keeps_axes, channels):
    after, _ = _packs(
        f"""g (float[N, 4, 5, 5] x, float[{channels}, 4, 3, 3] w1, float[4, {channels}, 1, 1] w2)
              => (float[A, B, C, D] y, float[E, F, G, H] z, float m) <float[4] s = {{1, 1, 2, 1.5}}> {{
              a = Conv(x, w1) b = Resize<mode = "linear", coordinate_transformation_mode = "asymmetric">(a, , s)
              y = Conv(b, w2) c = ReduceMax<axes = [2, 3]>(a) d = GlobalMaxPool(a) e = GlobalAveragePool(a)
              f = Add(c, d) h = Sub(e, f) z = Conv(h, w2)
              m = ReduceMean<axes = [-1, 2], keepdims = {keeps_axes}>(a) }}"""
    )
    kinds = _kinds(after)
    names = ("ReduceMean", "ReduceMax", "Resize", "GlobalMaxPool", "GlobalAveragePool", "Pack", "Conv", "Unpack")
    assert [kinds[f"P.{name}"] for name in names] == [1, 1, 1, 1, 1, 1, 3, 2 + keeps_axes]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Conv(x, z)", "its weights or its bias are not constant"),
        ("y = Conv<group = 4>(x, w2)", "each of its 4 groups makes 1 channels of 2"),
        ("a = Reshape(x, s) y = Conv(a, w1)", "its channels are not known"),
        ("i = Constant<value_ints = [2]>() a = Unsqueeze(x, i) y = Conv(a, w3)", "its weights are FLOAT of rank 5"),
    ],
)
def test_what_cannot_be_packed_is_kept_with_the_reason(body, reason, eager):
    model = _model(
        f"""g (float[1, 8, 5, 5] x, float[4, 8, 3, 3] z, int64[4] s, float[4, 8, 3, 3] w1, float[4, 2, 3, 3] w2,
             float[4, 8, 1, 3, 3] w3) => (float[A, B, C, D] y) {{ {body} }}"""
    )
    infer(model)
    done = drive(PackChannels(block=4), model, Context())
    assert not done.changed
    assert [text for _, text in done.kept] == [reason]


def test_large_weights_that_something_else_reads_are_not_copied(eager):
    model = _model(
        """g (float[1, 520, 5, 5] x, float[520, 520, 1, 1] w1) => (float[A, B, C, D] y, float[E, F, G, H] z) {
             y = Conv(x, w1) z = Neg(w1) }"""
    )
    infer(model)
    done = drive(PackChannels(), model, Context())
    assert [text for _, text in done.kept] == ["its weights are shared, and a copy would be large"]


def test_old_operator_sets_are_refused(keeps):
    keeps(
        PackChannels(),
        """<ir_version: 5, opset_import: ["": 10]> g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y)
             <float[1, 1, 1, 1] w = {2}> { y = Conv(x, w) }""",
        reason="operator set 10 is too old, 11 is needed",
    )


def test_functions_need_their_ir_version(eager):
    text = """<ir_version: IR, opset_import: ["": 11]> g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y)
             <float[1, 1, 1, 1] w = {2}> { y = Conv(x, w) }"""
    after, _ = _packs(ir.from_onnx_text(text.replace("IR", "6")))
    assert after.ir_version == 8
    model = ir.from_onnx_text(text.replace("IR", "3"))
    infer(model)
    done = drive(PackChannels(), model, Context())
    assert [text for _, text in done.kept] == ["the model is of IR version 3, in which every constant is an input"]


def test_a_block_of_one_channel_is_no_block():
    with pytest.raises(GraphoptError, match="a block has 1 channels"):
        PackChannels(block=1)


def test_a_single_cheap_convolution_is_not_worth_the_conversions(keeps):
    text = """g (float[1, 16, 8, 8] x, float[16, 16, SIZE, SIZE] w1) => (float[A, B, C, D] y) { y = Conv(x, w1) }"""
    keeps(
        PackChannels(),
        _model(text.replace("SIZE", "1")),
        reason="to pack and unpack around it costs more than it saves",
    )
    after, _ = _packs(text.replace("SIZE", "3").replace("8, 8]", "64, 64]"), PackChannels())
    assert _kinds(after) == {"P.Pack": 1, "P.Conv": 1, "P.Unpack": 1}


def test_inside_a_branch_and_what_it_captures(eager):
    after, done = _packs(
        """g (bool p, float[1, 4, 5, 5] x, float[4, 4, 3, 3] w1, float[4, 4, 1, 1] w2) => (float[A, B, C, D] y) {
             a = Conv(x, w1)
             y = If (p) <then_branch = t () => (float[A, B, C, D] u) { q = Conv(a, w2) u = Relu(q) },
                         else_branch = e () => (float[A, B, C, D] v) { v = Neg(a) }> }"""
    )
    assert len(done.changed) == 2
    assert _kinds(after) == {"P.Pack": 1, "P.Conv": 1, "P.Unpack": 1, "If": 1}
    then = next(node for node in after.graph if node.op_type == "If").attributes["then_branch"].as_graph()
    assert _kinds(then) == {"P.Pack": 1, "P.Conv": 1, "Relu": 1, "P.Unpack": 1}


def test_inside_a_function(eager):
    text = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[1, 4, 5, 5] x) => (float[A, B, C, D] y) { y = own.block(x) }
        <domain: "own", opset_import: ["": VERSION]> block (x) => (y) {
          w = Constant<value = float[4, 4, 1, 1] {0}>() a = Conv(x, w) b = Relu(a) y = Conv(b, w) }"""
    after, _ = _packs(_model(text.replace("VERSION", "17").replace("{0}", f"{{{', '.join(['1'] * 16)}}}")))
    body = next(function for function in after.functions.values() if function.domain == "own")
    assert _kinds(body.graph) == {"Constant": 1, "P.Pack": 1, "P.Conv": 2, "Relu": 1, "P.Unpack": 1}
    assert body.opset_imports[_packed.DOMAIN] == after.graph.opset_imports[_packed.DOMAIN] == 1
    model = _model(text.replace("VERSION", "16").replace("{0}", f"{{{', '.join(['1'] * 16)}}}"))
    infer(model)
    done = drive(PackChannels(block=4), model, Context())
    assert {text for _, text in done.kept} == {"the function is of operator set 16, the model of 17"}


@pytest.mark.parametrize("dtype", ["float16", "double"])
@pytest.mark.parametrize("channels", [4, 6])
def test_other_floats(eager, dtype, channels):
    after, _ = _packs(
        f"""g ({dtype}[1, 4, 5, 5] x, {dtype}[{channels}, 4, 3, 3] w1, {dtype}[{channels}] b1, {dtype}[4, {channels}, 1, 1] w2)
              => ({dtype}[A, B, C, D] y) {{ a = Conv(x, w1, b1) b = Relu(a) y = Conv(b, w2) }}"""
    )
    assert _kinds(after) == {"P.Pack": 1, "P.Conv": 2, "Relu": 1, "P.Unpack": 1}


def test_a_batch_of_nothing_stays_one(eager):
    after, _ = _packs(
        """g (float[N, 8, 5, 5] x, float[6, 8, 3, 3] w1) => (float[A, B, C, D] y) { a = Conv(x, w1) y = MaxPool<kernel_shape = [2, 2]>(a) }"""
    )
    (found,) = Session(after, optimized=False).run({"x": np.zeros((0, 8, 5, 5), np.float32)}).values()
    assert np.asarray(found).shape == (0, 6, 2, 2)


def test_results_that_are_outputs_and_read_on_stay_both(eager):
    after, _ = _packs(
        """g (float[1, 8, 5, 5] x, float[8, 8, 1, 1] w1, float[8, 8, 1, 1] w2) => (float[A, B, C, D] y, float[A, B, C, D] z) {
             y = Conv(x, w1) a = Add(x, y) z = Conv(a, w2) }"""
    )
    assert _kinds(after) == {"P.Pack": 1, "P.Conv": 2, "Add": 1, "P.Unpack": 2}
    assert [value.name for value in after.graph.outputs] == ["y", "z"]


def test_other_passes_leave_the_functions_alone(eager):
    model = _model(
        """g (float[1, 3, 9, 9] x, float[8, 3, 3, 3] w1, float[8, 8, 3, 3] w2) => (float[A, B, C, D] y) {
             a = Conv(x, w1) b = Relu(a) c = Conv(b, w2) d = GlobalAveragePool(c) y = Relu(d) }"""
    )
    recipe = Recipe.parse(
        "pack-channels{block=4}, clean, fuse, place-transposes{rounding=true}, convert-opset{version=21}"
    )
    after, outcomes = PassManager(recipe, verify="each", strict=True).run(model)
    assert _kinds(after) == {"P.ConvFromPlain": 1, "P.Conv": 1, "P.GlobalAveragePool": 1, "P.Unpack": 1, "Relu": 2}
    assert all(not outcome.failed for outcome in outcomes)


def _network(seed: int) -> onnx.ModelProto:
    """A random network of convolutions, pools, gates and what cannot be packed."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    values: list[tuple[str, int]] = [("x", 3)]

    def constant(*shape: int) -> str:
        name = f"w{len(constants)}"
        constants.append(numpy_helper.from_array(numbers.standard_normal(shape).astype(np.float32) * 0.5, name))
        return name

    def add(op: str, inputs: list[str], channels: int, **attributes: object) -> str:
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        values.append((name, channels))
        return name

    for _ in range(rng.randint(4, 16)):
        name, channels = rng.choice(values[-3:])
        match rng.randrange(11):
            case 0 | 1 | 2 | 3:
                more, size = rng.choice((1, 2, 3, 4, 6, 8)), rng.choice((1, 3))
                inputs = [name, constant(more, channels, size, size)]
                inputs += [constant(more)] if rng.random() < 0.5 else []
                add("Conv", inputs, more, pads=[size // 2] * 4)
            case 4:
                add("Conv", [name, constant(channels, 1, 3, 3)], channels, pads=[1] * 4, group=channels)
            case 5:
                add(rng.choice(("Relu", "Sigmoid", "Exp", "Softplus", "Reciprocal", "Softmax")), [name], channels)
            case 6:
                others = [other for other, count in values if count in (channels, 1)]
                add(rng.choice(("Add", "Mul", "Div", "Max")), [name, rng.choice(others)], channels)
            case 7:
                sizes = rng.choice(((channels, 1, 1), (1, channels, 1, 4), (5, 1), ()))
                add(rng.choice(("Add", "Mul", "Sub")), rng.sample([name, constant(*sizes)], 2), channels)
            case 8:
                pool = add(rng.choice(("GlobalAveragePool", "GlobalMaxPool")), [name], channels)
                values.pop()
                add("Mul", [name, pool], channels)
            case 9:
                other, count = rng.choice(values)
                add("Concat", [name, other], channels + count, axis=1)
            case _:
                kind = rng.choice(("MaxPool", "AveragePool"))
                add(kind, [name], channels, kernel_shape=[3, 3], pads=[1] * 4)
    outputs = [values[-1], *rng.sample(values[1:-1], min(1, len(values) - 2))]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 5, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name, _ in dict(outputs).items()],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@settings(max_examples=100)
@given(seed=st.integers(0, 10**9), fill=st.booleans(), saved=st.sampled_from((0.3, 30.0, 1e4)))
def test_random_networks_compute_the_same(seed, fill, saved):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_packed_conv, "_SAVED", saved)
        pass_ = PackChannels(block=4, fill=fill)
        model = ir.from_proto(_network(seed))
        feeds = {"x": np.random.default_rng(seed).standard_normal((2, 3, 5, 4)).astype(np.float32)}
        expected = Session(model, optimized=False).run(feeds)
        after = model.clone()
        sweep(after)
        infer(after)
        drive(pass_, after, Context())
        forget(after)
        check(after)
        found = Session(after, optimized=False).run(feeds)
        for name, value in expected.items():
            wide = np.asarray(value, np.float64)
            if not fill:
                np.testing.assert_array_equal(np.asarray(found[name]), value)
            elif np.isfinite(wide).all() and np.abs(wide).max() < 1e6:
                limit = 1e-4 * max(1.0, float(np.abs(wide).max()))
                np.testing.assert_allclose(np.asarray(found[name]), wide, rtol=1e-3, atol=limit)
        infer(after)
        assert not drive(pass_, after, Context()).changed
