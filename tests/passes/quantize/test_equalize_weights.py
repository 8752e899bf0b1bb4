"""equalize-weights: what is balanced, that the numbers stay the same, and what is left alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData
from graphopt.events import Site
from graphopt.execute.session import Session
from graphopt.passes.quantize.equalize_weights import EqualizeWeights
from graphopt.pipeline import Context, Outcomes, PassManager, Recipe
from graphopt.target import targets

HEAD = '<ir_version: 8, opset_import: ["": 17]> '


def model_of(body: str, shapes: dict[str, tuple[int, ...]], *, head: str = HEAD, seed: int = 0) -> ir.Model:
    """A model with normal numbers for the values that nothing computes; output channels differ in size."""
    model = ir.from_onnx_text(head + body)
    rng = np.random.default_rng(seed)
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, shape in shapes.items():
        elements = rng.normal(size=shape) * 2.0 ** rng.uniform(-3, 3, (shape[0],) + (1,) * (len(shape) - 1))
        value = used[name]
        value.const_value = ir.tensor(elements.astype(np.float32), name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.initializers.add(value)
    return model


def equalised(model: ir.Model, pass_: EqualizeWeights | None = None) -> tuple[ir.Model, Outcomes]:
    """The result, proven equal by the manager; nothing is left to do a second time."""
    recipe = Recipe((pass_ or EqualizeWeights(),))
    result, outcomes = PassManager(recipe, verify="each", strict=True).run(model, Context())
    assert outcomes.verdict is None or outcomes.verdict.ok
    _, again = PassManager(recipe, verify="off").run(result, Context())
    assert not again[0].changed
    return result, outcomes


def weights(model: ir.Model, op_type: str = "Conv") -> list[np.ndarray]:
    return [node.inputs[1].const_value.numpy() for node in model.graph if node.op_type == op_type]


def rows(weight: np.ndarray) -> np.ndarray:
    return np.abs(weight).reshape(len(weight), -1).max(axis=1)


def columns(weight: np.ndarray) -> np.ndarray:
    return np.abs(weight).max(axis=(0, *range(2, weight.ndim)))


PAIR = """g (float[n,3,8,8] x) => (float[n,5,8,8] y)
{ a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)  r = Relu(a)  y = Conv <kernel_shape=[1,1]> (r, w2, b2) }"""
PAIR_SHAPES = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (5, 4, 1, 1), "b2": (5,)}


def test_both_sides_of_a_channel_use_the_same_share_of_their_layers():
    result, outcomes = equalised(model_of(PAIR, PAIR_SHAPES))
    first, second = weights(result)
    left, right = rows(first), columns(second)
    np.testing.assert_allclose(left / left.max(), right / right.max(), rtol=0.02)
    assert len(outcomes[0].changed) == 1


def test_whole_powers_of_two_change_no_bit():
    model = model_of(PAIR, PAIR_SHAPES)
    result, _ = equalised(model, EqualizeWeights(exact=True))
    ratio = rows(weights(result)[0]) / rows(weights(model)[0])
    np.testing.assert_array_equal(np.log2(ratio), np.rint(np.log2(ratio)))
    assert np.ptp(np.log2(ratio)) > 0
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)}
    before, after = (Session(item, optimized=False).run(feeds)["y"] for item in (model, result))
    np.testing.assert_array_equal(before, after)


def test_a_depthwise_convolution_between_two_others_is_balanced_with_both():
    body = """g (float[n,3,8,8] x) => (float[n,5,8,8] y)
    { a = Conv <kernel_shape=[1,1]> (x, w1, b1)  r = Relu(a)
      d = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=8> (r, w2, b2)  s = Relu(d)
      y = Conv <kernel_shape=[1,1]> (s, w3, b3) }"""
    shapes = {"w1": (8, 3, 1, 1), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (5, 8, 1, 1), "b3": (5,)}
    result, _ = equalised(model_of(body, shapes))
    first, second, third = weights(result)
    shares = [item / item.max() for item in (rows(first), rows(second), columns(third))]
    np.testing.assert_allclose(shares[0], shares[1], rtol=0.05)
    np.testing.assert_allclose(shares[1], shares[2], rtol=0.05)


@pytest.mark.parametrize(
    "between",
    [
        "r = LeakyRelu <alpha=0.1> (a)",
        "r = PRelu(a, w4)",
        "r = Identity(a)",
        "r = Clip(a, nothing)",
        "r = MaxPool <kernel_shape=[2,2], pads=[0,0,1,1]> (a)",
        "r = AveragePool <kernel_shape=[2,2], pads=[1,1,1,1]> (a)",
        "r = GlobalAveragePool(a)",
        "r = ReduceMean <axes=[2,3], keepdims=1> (a)",
        "q = Relu(a)  p = Pad(q, around)  r = Relu(p)",
        "t = Transpose <perm=[0,2,3,1]> (a)  u = Relu(t)  r = Transpose <perm=[0,3,1,2]> (u)",
        "g1 = GlobalAveragePool(x)  g2 = Conv(g1, w5)  g3 = Sigmoid(g2)  r = Mul(a, g3)",
        "q, p = Split <axis=1> (a)  r = Concat <axis=1> (p, q)",
        "q = Add(a, w6)  r = Relu(q)",
        "q = Sub(w6, a)  r = Relu(q)",
    ],
)
def test_what_is_homogeneous_in_each_channel_may_lie_between(between: str):
    body = f"""g (float[n,3,8,8] x) => (y)
    <float nothing = {{0}}, int64[8] around = {{0, 0, 1, 1, 0, 0, 1, 1}}>
    {{ a = Conv <kernel_shape=[3,3]> (x, w1, b1)  {between}  y = Conv <kernel_shape=[1,1]> (r, w2, b2) }}"""
    shapes = {**PAIR_SHAPES, "w4": (4, 1, 1), "w5": (4, 3, 1, 1), "w6": (4, 1, 1)}
    shapes = {name: shape for name, shape in shapes.items() if name in body}
    model = model_of(body, shapes)
    result, outcomes = equalised(model)
    assert outcomes[0].changed
    assert (weights(result)[0] != weights(model)[0]).any()


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        ("r = Sigmoid(a)", "gives no result that scales with them"),
        ("h = HardSwish(a)  r = Relu(h)", "gives no result that scales with them"),
        ("r = Clip(a, low, six)", "cuts them at -6 and 6"),
        ("r = Clip(a, nothing, six)", "cuts them at 0 and 6"),
        ("s = Softmax <axis=1> (a)  r = Mul(s, a)", "gives no result"),
        ("r = Mul(a, a)", "are factors in"),
        ("r = Concat <axis=2> (x4, a)", "gives no result that scales with them"),
    ],
)
def test_what_is_not_is_left_alone_with_the_reason(between: str, reason: str):
    extra = ", float[n,4,6,6] x4" if "x4" in between else ""
    body = f"""g (float[n,3,8,8] x{extra}) => (y)
    <float low = {{-6}}, float nothing = {{0}}, float six = {{6}}>
    {{ a = Conv <kernel_shape=[3,3]> (x, w1, b1)  {between}  y = Conv <kernel_shape=[1,1]> (r, w2, b2) }}"""
    model = model_of(body, PAIR_SHAPES)
    result, outcomes = equalised(model)
    assert not outcomes[0].changed
    np.testing.assert_array_equal(weights(result)[0], weights(model)[0])
    assert any(reason in text for _, text in outcomes[0].kept), outcomes[0].kept


def test_all_that_is_added_and_all_that_reads_the_sum_is_scaled_alike():
    body = """g (float[n,3,8,8] x) => (float[n,5,8,8] y, float[n,2,8,8] z)
    { a = Conv <kernel_shape=[1,1]> (x, w1, b1)  b = Conv <kernel_shape=[1,1]> (a, w2, b2)  q = Relu(b)
      c = Conv <kernel_shape=[1,1]> (q, w3, b3)  s = Add(a, c)
      y = Conv <kernel_shape=[1,1]> (s, w4)  r = Relu(s)  z = Conv <kernel_shape=[1,1]> (r, w5) }"""
    shapes = {"w1": (4, 3, 1, 1), "b1": (4,), "w2": (6, 4, 1, 1), "b2": (6,), "w3": (4, 6, 1, 1), "b3": (4,)}
    model = model_of(body, {**shapes, "w4": (5, 4, 1, 1), "w5": (2, 4, 1, 1)})
    result, _ = equalised(model)
    before, after = weights(model), weights(result)
    by = columns(after[3]) / columns(before[3])
    np.testing.assert_allclose(rows(before[0]) / rows(after[0]), by, rtol=1e-5)
    np.testing.assert_allclose(columns(after[4]) / columns(before[4]), by, rtol=1e-5)


def test_pixels_of_a_channel_that_become_features_share_its_scale():
    body = """g (float[n,3,4,4] x) => (float[n,5] y)
    { a = Conv <kernel_shape=[3,3]> (x, w1, b1)  r = Relu(a)  f = Flatten(r)  y = Gemm <transB=1> (f, w2, b2) }"""
    model = model_of(body, {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (5, 16), "b2": (5,)})
    result, _ = equalised(model)
    ratio = weights(result, "Gemm")[0] / weights(model, "Gemm")[0]
    np.testing.assert_allclose(ratio, np.repeat(ratio[:1, ::4], 4, axis=1).repeat(5, axis=0), rtol=1e-5)
    assert np.ptp(np.log2(ratio[0])) > 0.1


@pytest.mark.parametrize("transposed", [0, 1])
def test_products_of_matrices_with_the_sum_of_their_bias(transposed: int):
    body = f"""g (float[n,7,3] x) => (float[m,5] y)
    <int64[2] flat = {{-1, 6}}>
    {{ a = MatMul(x, w1)  s = Add(a, b1)  r = Relu(s)  f = Reshape(r, flat)
       y = Gemm <transB={transposed}, alpha=0.5, beta=2.0> (f, w2, b2) }}"""
    model = model_of(body, {"w1": (3, 6), "b1": (6,), "w2": (5, 6) if transposed else (6, 5), "b2": (5,)})
    result, outcomes = equalised(model)
    assert outcomes[0].changed
    assert (weights(result, "MatMul")[0] != weights(model, "MatMul")[0]).any()


def test_groups_and_transposed_convolutions():
    body = """g (float[n,4,5,5] x) => (float[n,3,7,7] y)
    { a = Conv <kernel_shape=[1,1], group=2> (x, w1, b1)  r = Relu(a)
      t = ConvTranspose <kernel_shape=[3,3], group=2> (r, w2, b2)  u = Relu(t)
      y = Conv <kernel_shape=[1,1]> (u, w3) }"""
    shapes = {"w1": (6, 2, 1, 1), "b1": (6,), "w2": (6, 4, 3, 3), "b2": (8,), "w3": (3, 8, 1, 1)}
    model = model_of(body, shapes)
    _, outcomes = equalised(model)
    assert len(outcomes[0].changed) == 2


def test_channels_that_cannot_reach_the_end_of_a_clip_grow_until_they_would():
    body = """g (float[n,3,8,8] x) => (float[n,5,8,8] y)
    <float nothing = {0}, float six = {6}>
    { a = Conv <kernel_shape=[1,1]> (x, w1, b1)  r = Clip(a, nothing, six)
      d = Conv <kernel_shape=[3,3], group=4, pads=[1,1,1,1]> (r, w2, b2)  s = Clip(d, nothing, six)
      y = Conv <kernel_shape=[1,1]> (s, w3) }"""
    model = model_of(body, {"w1": (4, 3, 1, 1), "b1": (4,), "w2": (4, 1, 3, 3), "b2": (4,), "w3": (5, 4, 1, 1)})
    small = np.full((4, 1, 3, 3), 0.01, np.float32)
    small[0] = 3.0  # this channel reaches 6
    model.graph.initializers["w2"].const_value = ir.tensor(small, name="w2")
    model.graph.initializers["b2"].const_value = ir.tensor(np.full(4, 0.1, np.float32), name="b2")
    result, _ = equalised(model)
    ratio = rows(weights(result)[1]) / rows(small)
    assert ratio[0] == 1
    assert (ratio[1:] > 4).all()
    assert (0.1 + 0.01 * 9 * 6) * ratio[1:].max() <= 6


def test_a_clip_gets_an_end_for_each_channel_when_asked_for():
    body = PAIR.replace("Relu(a)", "Clip(a, nothing, six)").replace("{ a", "<float nothing={0}, float six={6}> { a")
    model = model_of(body, PAIR_SHAPES)
    result, _ = equalised(model, EqualizeWeights(clip_reach=4.0))
    assert Counter(node.op_type for node in result.graph) == Counter(Conv=2, Relu=1, Min=1)
    ends = next(node for node in result.graph if node.op_type == "Min").inputs[1].const_value.numpy()
    assert ends.shape == (4, 1, 1)
    assert ends.min() >= 1.5 - 1e-6
    assert ends.max() <= 24 + 1e-6
    kept, outcomes = equalised(model, EqualizeWeights(clip_reach=4.0, clips=("another",)))
    assert not outcomes[0].changed
    assert kept.graph.num_nodes() == 3


def test_weights_that_are_shared_or_of_16_bits_are_left_alone():
    shared = """g (float[n,4,8,8] x) => (float[n,4,8,8] y)
    { a = Conv <kernel_shape=[1,1]> (x, w1)  r = Relu(a)  y = Conv <kernel_shape=[1,1]> (r, w1) }"""
    _, outcomes = equalised(model_of(shared, {"w1": (4, 4, 1, 1)}))
    assert not outcomes[0].changed
    half = ir.from_onnx_text(
        HEAD
        + "g (float16[n,2] x, float16[2,2] v) => (float16[n,2] y) { a = MatMul(x, v) r = Relu(a) y = MatMul(r, v) }"
    )
    _, outcomes = equalised(half)
    assert not outcomes[0].changed


def test_outputs_and_what_a_subgraph_reads_keep_their_scale():
    output = PAIR.replace("float[n,5,8,8] y)", "float[n,5,8,8] y, float[n,4,8,8] r)")
    _, outcomes = equalised(model_of(output, PAIR_SHAPES))
    assert any("is an output" in text for _, text in outcomes[0].kept)
    inner = """g (float[n,3,8,8] x, bool c) => (float[n,5,8,8] y, float[n,4,8,8] z)
    { a = Conv <kernel_shape=[1,1]> (x, w1, b1)  r = Relu(a)  y = Conv <kernel_shape=[1,1]> (r, w2, b2)
      z = If (c) <then_branch = t () => (p) { p = Neg(r) }, else_branch = e () => (q) { q = Abs(r) }> }"""
    shapes = {**PAIR_SHAPES, "w1": (4, 3, 1, 1)}
    _, outcomes = equalised(model_of(inner, shapes))
    assert any("also read in a subgraph" in text for _, text in outcomes[0].kept)


def test_branches_and_functions_are_equalised_too():
    body = """g (float[n,2] x, bool c) => (y)
    { y = If (c) <
        then_branch = t () => (p)
        <float[2,2] v1 = {8.0, 0.1, 4.0, 0.2}, float[2,1] v2 = {0.1, 3.0}>
        { a = MatMul(x, v1)  r = Relu(a)  p = MatMul(r, v2) },
        else_branch = e () => (q) <float[2,1] v3 = {0.1, 3.0}> { q = MatMul(x, v3) }> }"""
    _, outcomes = equalised(ir.from_onnx_text(HEAD + body))
    assert len(outcomes[0].changed) == 1
    function = """<ir_version: 8, opset_import: ["": 17, "f": 1]> g (float[n,2] x) => (float[n,1] y) { y = f.pair(x) }
    <opset_import: ["": 17], domain: "f"> pair (x) => (y)
    { v1 = Constant <value = float[2,2] {8.0, 0.1, 4.0, 0.2}> ()  v2 = Constant <value = float[2,1] {0.1, 3.0}> ()
      a = MatMul(x, v1)  r = Relu(a)  y = MatMul(r, v2) }"""
    equalised(ir.from_onnx_text(function))


def test_channels_of_zeros_and_dead_ones_do_no_harm():
    model = model_of(PAIR, PAIR_SHAPES)
    first = model.graph.initializers["w1"].const_value.numpy().copy()
    second = model.graph.initializers["w2"].const_value.numpy().copy()
    first[0], second[:, 1] = 0, 0
    model.graph.initializers["w1"].const_value = ir.tensor(first, name="w1")
    model.graph.initializers["w2"].const_value = ir.tensor(second, name="w2")
    result, _ = equalised(model)
    assert all(np.isfinite(item).all() for item in weights(result))


def depthwise_network(seed: int = 0, blocks: int = 3) -> ir.Model:
    """A small network of depthwise and pointwise convolutions with ReLU, its channels de-equalised exactly."""
    rng = np.random.default_rng(seed)
    lines, shapes, source, width = [], {}, "x", 3
    plan = [(16, 1, 3)]
    for number in range(blocks):
        plan += [(16 * (1 + number % 2), 0, 3), (16 * (1 + (number + 1) % 2), 1, 1)]
    layers: list[str] = []
    for number, (channels, full, kernel) in enumerate(plan):
        channels = channels if full else width
        group = 1 if full else width
        shapes[f"w{number}"] = (channels, width // group, kernel, kernel)
        shapes[f"b{number}"] = (channels,)
        pad = kernel // 2
        lines.append(
            f"c{number} = Conv <kernel_shape=[{kernel},{kernel}], group={group}, pads=[{pad},{pad},{pad},{pad}]>"
            f" ({source}, w{number}, b{number})  r{number} = Relu(c{number})"
        )
        layers.append(f"w{number}")
        source, width = f"r{number}", channels
    lines.append(f"m = GlobalAveragePool({source})  f = Flatten(m)  y = Gemm <transB=1> (f, w, b)")
    shapes |= {"w": (10, width), "b": (10,)}
    model = model_of(f"g (float[n,3,16,16] x) => (float[n,10] y) {{ {' '.join(lines)} }}", shapes)
    arrays = {}
    for name, shape in shapes.items():
        fan = max(int(np.prod(shape[1:])), 1)
        arrays[name] = rng.normal(size=shape) * (np.sqrt(2 / fan) if len(shape) > 1 else 0.1)
    for number in range(len(plan)):
        scale = 2.0 ** rng.uniform(-4, 4, shapes[f"w{number}"][0])
        arrays[f"w{number}"] /= scale.reshape(-1, 1, 1, 1)
        arrays[f"b{number}"] /= scale
        after = f"w{number + 1}" if number + 1 < len(plan) else "w"
        depthwise = arrays[after].ndim == 4 and arrays[after].shape[1] == 1
        arrays[after] = arrays[after] * scale.reshape(
            *((-1, 1) if depthwise else (1, -1)), *(1,) * (arrays[after].ndim - 2)
        )
    for name, array in arrays.items():
        model.graph.initializers[name].const_value = ir.tensor(array.astype(np.float32), name=name)
    return model


def sqnr_db(model: ir.Model, recipe: str, data: CalibrationData) -> float:
    context = Context(target=targets()["x86-64"], data=data.for_model(model))
    result, _ = PassManager(recipe, verify="off").run(model, context)
    left, right = Session(model, optimized=False), Session(result, optimized=False)
    signal = noise = 0.0
    for sample in data.for_model(model):
        truth, found = left.run(sample)["y"].astype(np.float64), right.run(sample)["y"]
        signal, noise = signal + float((truth**2).sum()), noise + float(((truth - found) ** 2).sum())
    return 10 * np.log10(signal / noise)


def test_a_network_whose_channels_differ_by_powers_of_two_survives_one_scale_for_each_weight():
    model = depthwise_network()
    rng = np.random.default_rng(3)
    data = CalibrationData.open([{"x": rng.normal(size=(4, 3, 16, 16)).astype(np.float32)} for _ in range(4)])
    before = sqnr_db(model, "insert-qdq{per_channel=false}", data)
    after = sqnr_db(model, "equalize-weights, insert-qdq{per_channel=false}", data)
    assert after > 30
    assert after > before + 15


def test_each_site_can_be_left_out():
    model = depthwise_network()
    feeds = {"x": np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    truth = Session(model, optimized=False).run(feeds)["y"]
    for skipped in range(3):
        copy = model.clone()
        from graphopt.ir import infer

        infer(copy)
        walk = EqualizeWeights().apply(copy, Context())
        answer, number = None, 0
        while True:
            try:
                site: Site = walk.send(answer)
            except StopIteration:
                break
            answer = site.edit is not None and number != skipped
            if answer:
                site.edit()
            number += 1
        np.testing.assert_allclose(Session(copy, optimized=False).run(feeds)["y"], truth, rtol=1e-3, atol=1e-4)


def test_with_data_only_the_clips_that_matter_get_ends_of_their_own():
    body = """g (float[n,3,8,8] x) => (float[n,5,8,8] y)
    <float nothing = {0}, float six = {6}>
    { a = Conv <kernel_shape=[1,1]> (x, w1, b1)  p = Clip(a, nothing, six)
      b = Conv <kernel_shape=[1,1]> (p, w2, b2)  q = Clip(b, nothing, six)
      c = Conv <kernel_shape=[1,1]> (q, w3, b3)  r = Clip(c, nothing, six)
      y = Conv <kernel_shape=[1,1]> (r, w4) }"""
    shapes = {"w1": (4, 3, 1, 1), "b1": (4,), "w2": (4, 4, 1, 1), "b2": (4,), "w3": (4, 4, 1, 1), "b3": (4,)}
    model = model_of(body, {**shapes, "w4": (5, 4, 1, 1)})
    rng = np.random.default_rng(0)
    even = {name: rng.uniform(0.4, 0.6, shape) * rng.choice([-1, 1], shape) for name, shape in shapes.items()}
    even["w4"] = rng.uniform(0.4, 0.6, (5, 4, 1, 1))
    even["w1"][0] *= 200  # the other channels lose all their bits to this one
    even["w1"][1:] *= 0.9
    for name, array in even.items():
        model.graph.initializers[name].const_value = ir.tensor(array.astype(np.float32), name=name)
    data = CalibrationData.open([{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(3)])
    context = Context(data=data.for_model(model))
    recipe = Recipe((EqualizeWeights(clip_reach=16.0),))
    result, outcomes = PassManager(recipe, verify="each", strict=True).run(model, context)
    operators = [node.op_type for node in result.graph]
    assert operators == ["Conv", "Relu", "Min", "Conv", "Clip", "Conv", "Clip", "Conv"]
    assert outcomes.verdict is None or outcomes.verdict.ok
