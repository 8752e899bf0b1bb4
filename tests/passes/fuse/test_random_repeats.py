"""fuse-resize on random repetitions: any rank, any axes, any factors, empty batches."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import check, infer
from graphopt.passes.fuse.fuse_resize import FuseResize
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive


def _model(rng: np.random.Generator) -> tuple[ir.Model, tuple[int, ...], tuple[int, ...]]:
    rank = int(rng.integers(3, 6))
    shape = tuple(int(size) for size in rng.integers(1, 6, size=rank))
    factors = tuple(int(factor) for factor in rng.integers(1, 4, size=rank))
    named = [str(size) for size in shape]
    if rank > 3:
        named[0], shape = "N", (int(rng.integers(0, 3)), *shape[1:])
    spread: list[int] = []
    axes: list[int] = []
    for axis, (size, factor) in enumerate(zip(shape, factors, strict=True)):
        spread.append(1 if not axis else size)
        if factor > 1:
            axes.append(len(spread))
            spread.append(factor)
    result = [-1, *(size * factor for size, factor in zip(shape[1:], factors[1:], strict=True))]
    if not axes or not shape[0]:
        result[0] = 0 if not axes else shape[0] * factors[0]
    tile = rng.random() < 0.5
    sizes = [1 if tile and place not in axes else size for place, size in enumerate(spread)]
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[{",".join(named)}] x) => (float y)
        <int64[{len(axes)}] a = {{{",".join(map(str, axes))}}}, int64[{len(spread)}] e = {{{",".join(map(str, sizes))}}},
         int64[{rank}] t = {{{",".join(map(str, result))}}}> {{
        u = Unsqueeze(x, a) v = {"Tile" if tile else "Expand"}(u, e) y = Reshape<allowzero = 1>(v, t) }}"""
    model = ir.from_onnx_text(text)
    model.graph.outputs[0].shape = ir.Shape([None] * rank)
    return model, shape, factors


@pytest.mark.parametrize("seed", range(60))
def test_repeated_elements_stay_where_they_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, shape, factors = _model(rng)
    if max(factors) == 1:
        return
    check(model)
    copy = model.clone()
    infer(copy)
    done = drive(FuseResize(), copy, Context())
    check(copy)
    assert bool(done.changed) == (factors[-1] > 1), (shape, factors, done.kept)
    x = rng.standard_normal(shape, dtype=np.float32)
    wanted = x
    for axis, factor in enumerate(factors):
        wanted = np.repeat(wanted, factor, axis)
    for found in (model, copy):
        y = np.asarray(Session(found, optimized=False).run({"x": x})["y"])
        np.testing.assert_array_equal(y, wanted)
