from __future__ import annotations

import pytest

from graphopt.passes.clean.eliminate_resize import EliminateResize

_NAMES = """float[4] same = {1, 1, 1, 1}, float[4] nearly = {1, 1, 1.1, 1.1}, float[0] none = {}, float[8] roi =
    {0, 0, 0, 0, 1, 1, 1, 1}, int64[4] sizes = {2, 3, 4, 5}, int64[4] larger = {2, 3, 4, 6}, float[2] ones = {1, 1}"""


def _text(body: str, opset: int = 18, shape: str = "2, 3, 4, 5", result: str = "2, 3, 4, 5") -> str:
    return f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[{shape}] x) => (float[{result}] y)
        <{_NAMES}> {{ {body} }}"""


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("r = Resize(x, none, same)", 11),
        ("r = Resize(x, , same)", 18),
        ('r = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , same)', 18),
        ('r = Resize <mode = "cubic", coordinate_transformation_mode = "asymmetric"> (x, , same)', 18),
        ("r = Resize(x, none, none, sizes)", 11),
        ('r = Resize <mode = "linear", antialias = 1> (x, , , sizes)', 18),
        ("r = Resize <axes = [2, 3]> (x, , ones)", 18),
        ("r = Resize(x, same)", 10),
        ("r = Upsample(x, same)", 9),
        ("r = Upsample <scales = [1.0, 1.0, 1.0, 1.0]> (x)", 7),
    ],
)
def test_what_resizes_nothing_goes(rewrites, body, opset):
    rewrites(EliminateResize(), _text(f"{body} y = Neg(r)", opset), _text("y = Neg(x)", opset))


def test_computed_sizes_that_are_those_of_the_input(rewrites):
    """As where a decoder resizes to the size of the encoder's features, and it has it already."""
    text = "s = Shape(x) r = Resize(x, , , s) y = Neg(r)"
    rewrites(EliminateResize(), _text(text, shape="N, 3, H, W"), _text("y = Neg(x)", shape="N, 3, H, W"))


@pytest.mark.parametrize(
    "body",
    [
        "r = Resize(x, , nearly)",
        "r = Resize(x, , , larger)",
        'r = Resize <keep_aspect_ratio_policy = "not_larger"> (x, , , larger)',
    ],
)
def test_what_resizes_is_no_site(keeps, body):
    text = _text(f"{body} y = Neg(r)", result="2, 3, 4, W")
    assert not keeps(EliminateResize(), text, runs=False).kept


@pytest.mark.parametrize("mode", ["tf_crop_and_resize", "tf_half_pixel_for_nn"])
def test_coordinates_that_move_are_kept(keeps, mode):
    body = f'r = Resize <coordinate_transformation_mode = "{mode}"> (x, roi, same) y = Neg(r)'
    keeps(EliminateResize(), _text(body, 11), reason="may move elements", runs=False)


def test_what_names_an_output_is_kept(keeps):
    keeps(EliminateResize(), _text("y = Resize(x, , same)"), reason="names a graph output")


def test_inside_a_branch(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 18]> g (bool p, float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y)
            <{_NAMES}> {{ y = If (p) <then_branch = t () => (float[2, 3, 4, 5] u) {{ {body} }},
                         else_branch = e () => (float[2, 3, 4, 5] v) {{ v = Neg(x) }}> }}"""

    rewrites(EliminateResize(), text("r = Resize(x, , same) u = Abs(r)"), text("u = Abs(x)"))
