"""fuse-resize: repeated elements, computed scales, other coordinates, and what is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import check, infer
from graphopt.passes.fuse.fuse_resize import FuseResize
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.target import targets

X, Y = "float[B, 3, H, W] x", "float[?, ?, ?, ?] y"


def model(body: str, names: str = "", *, x: str = X, y: str = Y, opset: int = 17) -> str:
    names = f"<{names}>" if names else ""
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({x}) => ({y}) {names} {{ {body} }}'


NEAREST = '<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
SHAPE = """one = Constant<value = int64[1] {1}>() two = Constant<value = int64[1] {2}>()
    h = Shape<start = 2, end = 3>(x) w = Shape<start = 3, end = 4>(x) n = Shape<start = 0, end = 2>(x)
    h2 = Mul(h, two) w2 = Mul(w, two)"""


def resized(factors: str, opset: int = 17, **options: str) -> str:
    names = f"float[{len(factors.split(','))}] s = {{{factors}}}"
    return model(f"y = Resize{NEAREST}(x, , s)", names, opset=opset, **options)


@pytest.mark.parametrize(
    "spread",
    [
        "e = Concat<axis = 0>(n, h, two, w, two) v = Expand(u, e)",  # torch's expand, both exporters
        "t = Constant<value = int64[6] {1, 1, 1, 2, 1, 2}>() v = Tile(u, t)",  # MXNet
    ],
)
def test_spread_along_new_axes(rewrites, spread):
    body = f"{SHAPE} a = Constant<value = int64[2] {{3, 5}}>() u = Unsqueeze(x, a) {spread}"
    body = f"{body} z = Concat<axis = 0>(n, h2, w2) y = Reshape(v, z)"
    rewrites(FuseResize(), model(body), resized("1, 1, 2, 2"))


@pytest.mark.parametrize("spread", ["Expand", "Tile"])
def test_repeat_interleave_of_one_axis_and_the_other(rewrites, spread):
    """TorchScript asks the spread tensor for its shape."""
    body = f"""u = Unsqueeze(x, three) v = {spread}(u, rows) l = Shape(v) front = Slice(l, zero, two, zero)
        back = Slice(l, four, five, zero) t = Concat<axis = 0>(front, rest, back) m = Reshape(v, t)
        u2 = Unsqueeze(m, four) v2 = {spread}(u2, columns) y = Reshape(v2, last)"""
    names = """int64[1] three = {3}, int64[1] four = {4}, int64[1] five = {5}, int64[1] zero = {0}, int64[1] two = {2},
        int64[1] rest = {-1}, int64[5] rows = {1, 1, 1, 3, 1}, int64[5] columns = {1, 1, 1, 1, 2},
        int64[4] last = {0, 3, 0, -1}"""
    rewrites(FuseResize(), model(body, names), resized("1, 1, 3, 2"))


def test_a_stack_of_one_value(rewrites):
    body = "u = Unsqueeze(x, a) v = Concat<axis = -1>(u, u, u) y = Reshape(v, t)"
    names = "int64[1] a = {-1}, int64[4] t = {0, 3, 0, -1}"
    rewrites(FuseResize(), model(body, names), resized("1, 1, 1, 3"))


def test_rows_that_are_used_elsewhere_keep_their_axes(rewrites):
    """The Reshapes of two steps became one."""
    x = "float[2, 4, 5, 6] x"
    body = """u = Unsqueeze(x, three) v = Expand(u, rows) m = Reshape(v, t) v2 = Expand(m, columns)
        y = Reshape(v2, last)"""
    names = """int64[1] three = {3}, int64[5] rows = {1, 1, 1, 2, 1}, int64[5] t = {2, 4, 10, 6, 1},
        int64[5] columns = {1, 1, 1, 1, 2}, int64[4] last = {2, 4, 10, 12}"""
    rewrites(FuseResize(), model(body, names, x=x), resized("1, 1, 2, 2", x=x))


def test_another_shape_behind_is_reshaped(rewrites):
    x, y = "float[2, 4, 5, 6] x", "float[?, ?] y"
    body = "u = Unsqueeze(x, a) v = Expand(u, e) y = Reshape(v, t)"
    names = "int64[2] a = {3, 5}, int64[6] e = {2, 4, 5, 2, 6, 2}, int64[2] t = {8, 120}"
    after = model(f"z = Resize{NEAREST}(x, , s) y = Reshape(z, t)", "float[4] s = {1, 1, 2, 2}, int64[2] t = {8, 120}",
                  x=x, y=y)  # fmt: skip
    rewrites(FuseResize(), model(body, names, x=x, y=y), after)


def test_axes_that_are_there_are_dropped(rewrites):
    x = "float[2, 4, 5, 1, 6, 1] x"
    body, names = "v = Expand(x, e) y = Reshape(v, t)", "int64[6] e = {1, 1, 1, 2, 1, 2}, int64[4] t = {2, 4, 10, 12}"
    after = model(
        f"z = Squeeze(x, a) y = Resize{NEAREST}(z, , s)", "int64[2] a = {3, 5}, float[4] s = {1, 1, 2, 2}", x=x
    )
    rewrites(FuseResize(), model(body, names, x=x), after)


def test_indices_that_repeat(rewrites):
    """As np.repeat with numbers does."""
    x = "float[2, 4, 2, 3] x"
    body = "z = Gather<axis = 2>(x, rows) y = Gather<axis = -1>(z, columns)"
    names = "int64[4] rows = {0, 0, 1, 1}, int64[9] columns = {0, 0, 0, 1, 1, 1, 2, 2, 2}"
    rewrites(FuseResize(), model(body, names, x=x), resized("1, 1, 2, 3", x=x))


def test_a_grid_of_indices(rewrites):
    """As dynamo writes nearest-exact."""
    x = "float[2, 4, 2, 2] x"
    grid = ", ".join(f"{i // 2}, {j // 2}" for i in range(4) for j in range(4))
    body = """t = Transpose<perm = [2, 3, 0, 1]>(x) g = GatherND<batch_dims = 0>(t, grid)
        y = Transpose<perm = [2, 3, 0, 1]>(g)"""
    rewrites(FuseResize(), model(body, f"int64[4, 4, 2] grid = {{{grid}}}", x=x), resized("1, 1, 2, 2", x=x))


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_sizes_that_are_multiples(rewrites, opset):
    """As torch's interpolate(size=...) does."""
    shape = "l = Shape(x) h = Gather(l, second) w = Gather(l, third) h2 = Mul(h, two) w2 = Mul(w, two)"
    axes = ("<axes = [0]>", "") if opset < 13 else ("", ", zero")
    body = f"""{shape} h3 = Unsqueeze{axes[0]}(h2{axes[1]}) w3 = Unsqueeze{axes[0]}(w2{axes[1]})
        n = Slice(l, zero, two1, zero) t = Concat<axis = 0>(n, h3, w3) y = Resize{NEAREST}(x, roi, no, t)"""
    names = """int64 second = {2}, int64 third = {3}, int64 two = {2}, int64[1] zero = {0}, int64[1] two1 = {2},
        float[0] roi = {}, float[0] no = {}"""
    after = resized("1, 1, 2, 2", opset)
    if opset < 13:
        after = model(f"y = Resize{NEAREST}(x, roi, s)", "float[0] roi = {}, float[4] s = {1, 1, 2, 2}", opset=opset)
    rewrites(FuseResize(), model(body, names, opset=opset), after)


SCALES = """l = Shape(x) h = Gather(l, second) w = Gather(l, third) fh = Cast<to = 1>(h) fw = Cast<to = 1>(w)
    mh = Mul(fh, two) mw = Mul(fw, two) gh = Floor(mh) gw = Floor(mw) h3 = Unsqueeze<axes = [0]>(gh)
    w3 = Unsqueeze<axes = [0]>(gw) a = Concat<axis = 0>(h3, w3) b = Slice<starts = [2], ends = [99], axes = [0]>(l)
    c = Cast<to = 1>(b) d = Div(a, c) s = Concat<axis = 0>(ones, d)"""
OLD = "int64 second = {2}, int64 third = {3}, float two = {2}, float[2] ones = {1, 1}"


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_scales_that_are_computed(rewrites, mode):
    """As TorchScript writes them into opset 9."""
    before = model(f'{SCALES} y = Upsample<mode = "{mode}">(x, s)', OLD, opset=9)
    after = model(f'y = Upsample<mode = "{mode}">(x, s)', "float[4] s = {1, 1, 2, 2}", opset=9)
    rewrites(FuseResize(), before, after)


def test_sizes_of_another_mode_are_scales(rewrites):
    mode = '<mode = "linear", coordinate_transformation_mode = "half_pixel">'
    body = f"{SHAPE} t = Concat<axis = 0>(n, h2, w2) y = Resize{mode}(x, , , t)"
    rewrites(FuseResize(), model(body), model(f"y = Resize{mode}(x, , s)", "float[4] s = {1, 1, 2, 2}"))


@pytest.mark.parametrize(
    ("coordinates", "rounding"),
    [
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
        ("pytorch_half_pixel", "round_prefer_floor"),
        ("tf_half_pixel_for_nn", "floor"),
    ],
)
def test_coordinates_that_come_to_the_same(rewrites, coordinates, rounding):
    mode = f'<mode = "nearest", coordinate_transformation_mode = "{coordinates}", nearest_mode = "{rounding}">'
    rewrites(FuseResize(), model(f"y = Resize{mode}(x, , s)", "float[4] s = {1, 1, 3, 2}"), resized("1, 1, 3, 2"))


@pytest.mark.parametrize(
    ("coordinates", "rounding"),
    [
        ("half_pixel", "floor"),
        ("half_pixel", "ceil"),
        ("asymmetric", "round_prefer_floor"),
        ("asymmetric", "ceil"),
        ("align_corners", "floor"),
        ("tf_half_pixel_for_nn", "round_prefer_floor"),
    ],
)
def test_coordinates_that_do_not(keeps, coordinates, rounding):
    mode = f'<mode = "nearest", coordinate_transformation_mode = "{coordinates}", nearest_mode = "{rounding}">'
    keeps(FuseResize(), model(f"y = Resize{mode}(x, , s)", "float[4] s = {1, 1, 3, 2}"))


def test_every_whole_factor_gives_the_same_elements():
    """Also at lengths where coordinates in 32 bits are rounded."""
    mode = '<mode = "nearest", coordinate_transformation_mode = "half_pixel", nearest_mode = "round_prefer_floor">'
    for factor in (2, 3, 5, 7, 11, 100):
        text = model(f"y = Resize{mode}(x, , s)", f"float[4] s = {{1, 1, 1, {factor}}}", x="float[1, 1, 1, W] x")
        before = ir.from_onnx_text(text)
        after = before.clone()
        infer(after)
        assert drive(FuseResize(), after, Context()).changed
        x = np.arange((1 << 20) // factor, dtype=np.float32).reshape(1, 1, 1, -1)
        for found in (before, after):
            y = np.asarray(Session(found, optimized=False).run({"x": x})["y"])
            np.testing.assert_array_equal(y.reshape(-1), np.repeat(x.reshape(-1), factor))


def test_two_in_a_row_are_one(rewrites):
    body = f"z = Resize{NEAREST}(x, , s) y = Resize{NEAREST}(z, , t)"
    rewrites(FuseResize(), model(body, "float[4] s = {1, 1, 2, 3}, float[4] t = {1, 1, 3, 2}"), resized("1, 1, 6, 6"))


def test_two_upsamples_in_a_row_are_one(rewrites):
    names = "float[4] s = {1, 1, 2, 3}, float[4] t = {1, 1, 3, 2}"
    after = model('y = Upsample<mode = "nearest">(x, s)', "float[4] s = {1, 1, 6, 6}", opset=9)
    rewrites(FuseResize(), model("z = Upsample(x, s) y = Upsample(z, t)", names, opset=9), after)


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8"])
def test_other_types(rewrites, dtype):
    x, y = f"{dtype}[2, 4, 5, 6] x", f"{dtype}[?, ?, ?, ?] y"
    names = "int64[2] a = {3, 5}, int64[6] e = {2, 4, 5, 2, 6, 2}, int64[4] t = {2, 4, 10, 12}"
    before = model("u = Unsqueeze(x, a) v = Expand(u, e) y = Reshape(v, t)", names, x=x, y=y)
    rewrites(FuseResize(), before, resized("1, 1, 2, 2", x=x, y=y))


SPREAD = "u = Unsqueeze(x, a) v = Expand(u, e) y = Reshape(v, t)"
STATIC = "int64[2] a = {3, 5}, int64[6] e = {2, 4, 5, 2, 6, 2}, int64[4] t = {2, 4, 10, 12}"


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (model(SPREAD, STATIC, x="double[2, 4, 5, 6] x", y="double[?, ?, ?, ?] y"), "no Resize for double"),
        (model(SPREAD, STATIC, x="int64[2, 4, 5, 6] x", y="int64[?, ?, ?, ?] y"), "no Resize for int64"),
        (model(SPREAD, STATIC, x="float[2, 4, 5, 6] x", y=f"{Y}, float[?, ?, ?, ?, ?, ?] v"), "used elsewhere"),
        (model("u = Unsqueeze(x, a) v = Concat<axis = 3>(u, u) y = Reshape(v, t)",
               "int64[1] a = {-1}, int64[3] t = {0, 3, -1}", x="float[B, 3, L] x", y="float[?, ?, ?] y"),
         "may be too many"),
        (model("u = Unsqueeze(x, a) v = Concat<axis = 3>(u, u) y = Reshape(v, t)",
               "int64[1] a = {-1}, int64[3] t = {0, 3, -1}", x="float[B, 3, 600000] x", y="float[?, ?, ?] y"),
         "too many for coordinates"),
    ],
)  # fmt: skip
def test_what_is_kept_has_a_reason(keeps, before, reason):
    keeps(FuseResize(), before, reason=reason, runs=False)


def test_a_target_may_object(keeps):
    context = Context(target=dataclasses.replace(targets()["onnx"], lacks=frozenset({"Resize"})))
    keeps(FuseResize(), model(SPREAD, STATIC, x="float[2, 4, 5, 6] x"), context=context, reason="has no Resize")


@pytest.mark.parametrize(
    "text",
    [
        # the keys of grouped attention: whole rows
        model("u = Unsqueeze(x, a) v = Expand(u, e) y = Reshape(v, t)",
              "int64[1] a = {2}, int64[5] e = {1, 1, 4, 1, 1}, int64[4] t = {2, 12, 5, 8}", x="float[2, 3, 5, 8] x"),
        # tiled, not repeated
        model("u = Unsqueeze(x, a) v = Expand(u, e) y = Reshape(v, t)",
              "int64[1] a = {3}, int64[5] e = {1, 1, 1, 2, 1}, int64[4] t = {2, 3, 5, 16}", x="float[2, 3, 5, 8] x"),
        model("y = Gather<axis = 3>(x, i)", "int64[4] i = {0, 1, 0, 1}", x="float[2, 3, 5, 2] x"),
        model("y = Gather<axis = 3>(x, i)", "int64[2] i = {0, 1}", x="float[2, 3, 5, 2] x"),
        model(f"y = Resize{NEAREST}(x, , s)", "float[4] s = {1, 1, 2.5, 2}"),
        model(f"y = Resize{NEAREST}(x, , s)", "float[4] s = {1, 1, 0.5, 2}"),
    ],
)  # fmt: skip
def test_others_are_no_candidates(keeps, text):
    assert not keeps(FuseResize(), text).kept


def test_sizes_that_are_fed_stay(keeps):
    text = model(f"y = Resize{NEAREST}(x, , , t)", x=f"{X}, int64[4] t")
    assert not keeps(FuseResize(), text, runs=False).kept


def test_inside_a_branch(rewrites):
    def text(body: str, names: str) -> str:
        branch = f"""y = If (b) <then_branch = d0 () => (float[?, ?, ?, ?] y1) {{ {body} }},
                                    else_branch = e0 () => (float[?, ?, ?, ?] z) {{ z = Neg(x) }}>"""
        return model(branch, names, x="bool b, float[2, 4, 5, 6] x")

    before = text(SPREAD.replace("y = ", "y1 = "), STATIC)
    done = rewrites(FuseResize(), before, text(f"y1 = Resize{NEAREST}(x, , s)", "float[4] s = {1, 1, 2, 2}"))
    assert len(done.changed) == 1


def test_inside_a_function():
    text = """<ir_version: 10, opset_import: ["": 17, "own": 1]> g (float[2, 4, 5, 6] x) => (float[2, 4, 10, 12] y) {
            y = own.block(x) }
        <domain: "own", opset_import: ["": 17]> block (x) => (y) { a = Constant<value = int64[2] {3, 5}>()
            e = Constant<value = int64[6] {2, 4, 5, 2, 6, 2}>() t = Constant<value = int64[4] {2, 4, 10, 12}>()
            u = Unsqueeze(x, a) v = Expand(u, e) y = Reshape(v, t) }"""
    source = ir.from_onnx_text(text)
    copy = source.clone()
    infer(copy)
    assert drive(FuseResize(), copy, Context()).changed
    check(copy)
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)}
    before, now = (np.asarray(Session(item, optimized=False).run(feeds)["y"]) for item in (source, copy))
    np.testing.assert_array_equal(now, before)
