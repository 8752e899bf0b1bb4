"""Random feeds: whatever they are made for accepts them, and they respect what each input is for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser

from graphopt.errors import GraphoptError
from graphopt.execute.feeds import random_feeds
from graphopt.execute.session import Session


def model(text: str, opset: int = 17) -> ir.Model:
    return ir.from_proto(parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}'))


def one(text: str, **options: object) -> dict[str, np.ndarray]:
    graph = model(text)
    feeds = random_feeds(graph, **options)[0]
    Session(graph, optimized=False).run(feeds)
    return feeds


HALVES = ", ".join(["0.5"] * 60)
EMBEDDING = f"""
g (int64[batch, length] input_ids, int64[batch, length] attention_mask, int64[batch, length] token_type_ids,
   int64[batch, length] position_ids) => (float[batch, length, 2] y)
<float[30, 2] words = {{{HALVES}}}, float[7, 2] places = {{{HALVES[: 14 * 5 - 2]}}},
 float[2, 2] kinds = {{0.0, 0.0, 1.0, 1.0}}> {{
  plain = Cast<to = 6>(input_ids)  a = Gather(words, plain)
  b = Gather(places, position_ids)  c = Gather(kinds, token_type_ids)
  m = Cast<to = 1>(attention_mask)  axis = Constant<value_ints = [2]>()  wide = Unsqueeze(m, axis)
  ab = Add(a, b)  abc = Add(ab, c)  y = Mul(abc, wide)
}}"""


def test_ids_lie_within_their_tables_and_masks_are_zero_or_one() -> None:
    feeds = one(EMBEDDING, dims={"batch": 3, "length": 40})
    assert feeds["input_ids"].shape == (3, 40)
    assert 0 <= feeds["input_ids"].min() < 10 < feeds["input_ids"].max() < 30
    assert set(feeds["attention_mask"].reshape(-1)) == {0, 1}
    assert (feeds["attention_mask"][:, 0] == 1).all()
    assert set(feeds["token_type_ids"].reshape(-1)) == {0, 1}
    assert feeds["position_ids"][1, :9].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]


def test_an_offset_on_the_way_to_the_table_counts() -> None:
    feeds = one(
        "g (int64[N] i) => (float[N] y) <float[5] t = {1.0, 2.0, 3.0, 4.0, 5.0}>"
        " { two = Constant<value_int = 2>() j = Add(i, two) y = Gather(t, j) }",
        dims={"N": 200},
    )
    assert set(feeds["i"]) == {0, 1, 2}


def test_a_mask_without_the_name_is_seen_by_its_use() -> None:
    feeds = one(
        "g (int64[N] keep, float[N] x) => (float[N] y) { one = Constant<value_int = 1>()"
        " away = Sub(one, keep) f = Cast<to = 1>(away) low = Constant<value_float = -10000.0>()"
        " m = Mul(f, low) y = Add(m, x) }",
        dims={"N": 50},
    )
    condition = one(
        "g (int64[N] c, float[N] x) => (float[N] y) { b = Cast<to = 9>(c) y = Where(b, x, x) }", dims={"N": 50}
    )
    assert set(condition["c"]) == {0, 1}
    assert feeds["keep"].dtype == np.int64


def test_a_number_compared_with_constants_is_one_of_them() -> None:
    feeds = one(
        "g (float[N] x, int64 rate) => (float[N] y) { want = Constant<value_int = 8123>() is = Equal(rate, want)"
        " y = If(is) <then_branch = t () => (float[N] a) { a = Relu(x) },"
        " else_branch = e () => (float[M] b) { s = Constant<value_ints = [7, 7, 7]>() b = Reshape(x, s) }> }"
    )
    assert feeds["rate"] == 8123


def test_a_sampling_rate_is_known_by_its_name() -> None:
    assert one("g (float[N] x, int64 sr) => (float[N] y) { f = Cast<to = 1>(sr) y = Mul(x, f) }")["sr"] == 16000


def test_the_same_symbol_is_the_same_size() -> None:
    feeds = one("g (float[N, M] a, float[M, N] b) => (float[N, N] y) { y = MatMul(a, b) }")
    assert feeds["a"].shape == feeds["b"].shape[::-1]


@pytest.mark.parametrize("height", [48, 96, 320])
def test_sizes_are_found_by_trying(height: int) -> None:
    feeds = one(
        f"g (float[N, 3, H, W] x) => (float[a, b] y) {{ s = Constant<value_ints = [-1, {height}]>()"
        f" shape = Shape<start = 2, end = 3>(x) want = Constant<value_ints = [{height}]>()"
        " zero = Constant<value_ints = [0]>() d = Sub(shape, want) z = Sub(zero, d) pads = Abs(d)"
        " none = Mul(pads, z) bad = Sub(none, pads) ones = Constant<value_ints = [1]>() n = Add(bad, ones)"
        " c = ConstantOfShape(n) y0 = Reshape(x, s) y = Mul(y0, c) }"
    )
    assert feeds["x"].shape[2] == height


def test_unnamed_unknown_sizes_are_not_one_size() -> None:
    graph = model("g (float[N, 3, H, W] x) => (float[a] y) { s = Constant<value_ints = [-1]>() y = Reshape(x, s) }")
    graph.graph.inputs[0].shape = ir.Shape([None, 3, "?", "?"])
    feeds = random_feeds(graph, dims={"x:2": 5, "x:3": 7})
    assert feeds[0]["x"].shape[1:] == (3, 5, 7)


def test_constant_weights_tell_the_channels() -> None:
    feeds = one(
        "g (float[N, C] x) => (float[N, 2] y) <float[5, 2] w = {1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0}>"
        " { y = MatMul(x, w) }"
    )
    assert feeds["x"].shape[1] == 5


def test_a_sum_of_symbols_is_their_sum() -> None:
    graph = model("g (float[past] a, float[T] b) => (float[K] y) { c = Concat<axis = 0>(a, a) y = Add(c, b) }")
    graph.graph.inputs[1].shape = ir.Shape(["past + past"])
    feeds = random_feeds(graph, dims={"past": 3})[0]
    assert feeds["b"].shape == (6,)


def test_bytes_are_images_and_floats_are_normal() -> None:
    feeds = one(
        "g (uint8[1, 3, 64, 64] i, float[1, 3, 64, 64] f) => (float[a, b, c, d] y)"
        " { j = Cast<to = 1>(i) y = Add(j, f) }"
    )
    assert (feeds["i"].min(), feeds["i"].max()) == (0, 255)
    assert abs(feeds["f"].mean()) < 0.05
    assert 0.95 < feeds["f"].std() < 1.05


def test_sizes_and_axes_as_inputs_get_values_that_run() -> None:
    one("g (float[4, 4] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }")
    one("g (float[4, 4] x, int64[1] k) => (float[a, b] y, int64[a, b] i) { y, i = TopK(x, k) }")
    one("g (float[4, 4] x, int64[1] axes) => (float[a, b, c] y) { y = Unsqueeze(x, axes) }")
    one("g (int64[2] s) => (float[a, b] y) { y = ConstantOfShape(s) }")


def test_the_seed_decides_everything() -> None:
    graph = model("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    first, again, other = (random_feeds(graph, seed, 2) for seed in (1, 1, 2))
    assert all((a["x"] == b["x"]).all() for a, b in zip(first, again, strict=True))
    assert not (first[0]["x"] == other[0]["x"]).all()
    assert not (first[0]["x"] == first[1]["x"]).all()


def test_other_sizes_come_on_request_where_the_model_takes_them() -> None:
    free = random_feeds(model("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }"), count=3, vary=True)
    assert len({feeds["x"].shape for feeds in free}) > 1
    fixed = "g (float[N] x) => (float[16] y) { s = Constant<value_ints = [16]>() y = Reshape(x, s) }"
    bound = random_feeds(model(fixed), count=3, vary=True)
    assert {feeds["x"].shape for feeds in bound} == {(16,)}


def test_inputs_with_defaults_are_left_alone() -> None:
    assert list(one("g (float[2] x, float[1] w = {2.0}) => (float[2] y) { y = Mul(x, w) }")) == ["x"]


def test_a_size_nobody_has_is_an_error_with_the_names() -> None:
    with pytest.raises(GraphoptError, match="no input has a dimension 'M'") as caught:
        one("g (float[N] x) => (float[N] y) { y = Relu(x) }", dims={"M": 3})
    assert "N" in caught.value.hint
    assert caught.value.exit_code == 2


def test_when_nothing_runs_the_last_reason_is_told() -> None:
    text = "g (float[N] x) => (float[3, 3] y) { s = Constant<value_ints = [1999, 1999]>() y = Reshape(x, s) }"
    with pytest.raises(GraphoptError, match="no random feeds were found") as caught:
        random_feeds(model(text), seconds=5)
    assert "Reshape" in caught.value.what
    assert "--data" in caught.value.hint


def decoder(layers: int, mask: str) -> str:
    """Attention over cached and new tokens as the dynamo exporter writes it: a symbol of its own for each cache."""
    caches = ", ".join(f"float[batch, 1, s{i}, 2] past_{i}_{kind}" for i in range(layers) for kind in ("key", "value"))
    lines = ["e = Gather(table, input_ids)", "axis = Constant<value_ints = [1]>()", "h0 = Unsqueeze(e, axis)", mask]
    for i in range(layers):
        lines += [
            f"k{i} = Concat<axis = 2>(past_{i}_key, h{i})  v{i} = Concat<axis = 2>(past_{i}_value, h{i})",
            f"t{i} = Transpose<perm = [0, 1, 3, 2]>(k{i})  s_{i} = MatMul(h{i}, t{i})  m{i} = Where(seen, s_{i}, low)",
            f"w{i} = Softmax(m{i})  h{i + 1} = MatMul(w{i}, v{i})",
        ]
    return (
        f"g (int64[batch, new] input_ids, int64[b2, total] attention_mask, {caches}) => (float[B, 1, S, 2] y)"
        f"<float[30, 2] table = {{{HALVES}}}, float low = {{-1e9}}> {{ {' '.join(lines)} y = Identity(h{layers}) }}"
    )


# the mask is given the shape of all cached and new tokens, so that one of another length does not fit
STRICT = """
  some = Cast<to = 9>(attention_mask)  both = Constant<value_ints = [1, 2]>()  seen = Unsqueeze(some, both)
  old = Shape<start = 2, end = 3>(past_0_key)  now = Shape<start = 1>(input_ids)  all = Add(old, now)
  one = Shape<start = 0, end = 1>(input_ids)  to = Concat<axis = 0>(one, all)  flat = Reshape(attention_mask, to)
"""


@pytest.mark.parametrize("layers", [1, 4, 12])
def test_caches_with_symbols_of_their_own_get_one_length_and_the_mask_the_sum(layers: int) -> None:
    graph = model(decoder(layers, STRICT))
    for feeds in random_feeds(graph, count=2, vary=True):
        Session(graph, optimized=False).run(feeds)
        lengths = {value.shape[2] for name, value in feeds.items() if name.startswith("past")}
        assert len(lengths) == 1
        assert feeds["attention_mask"].shape[1] == lengths.pop() + feeds["input_ids"].shape[1]


def test_a_length_that_is_asked_for_is_kept_and_the_others_follow() -> None:
    feeds = one(decoder(2, STRICT), dims={"s1": 5, "new": 3})
    assert feeds["past_1_key"].shape[2] == feeds["past_0_value"].shape[2] == 5
    assert feeds["attention_mask"].shape[1] == 8


def test_inputs_that_look_alike_may_still_have_other_sizes() -> None:
    feeds = one(
        "g (float[1, a] x, float[1, b] y) => (float[1, 17] z)"
        " { t = Concat<axis = 1>(x, y) w = Constant<value_ints = [1, 17]>() z = Reshape(t, w) }"
    )
    assert feeds["x"].shape[1] + feeds["y"].shape[1] == 17
