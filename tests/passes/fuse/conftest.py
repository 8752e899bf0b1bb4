"""Models for the fuse family: of other element types, which ONNX text cannot write plainly, and made at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.compare import compare, tolerance
from graphopt.execute.feeds import random_feeds
from graphopt.execute.session import Session
from graphopt.ir import check, infer
from graphopt.pipeline import Context, Pass
from graphopt.pipeline.drive import Drive, drive


@pytest.fixture
def in_type() -> Callable[[str, ir.DataType], ir.Model]:
    """``in_type(text, dtype)``: the float model of the text with another floating type throughout."""

    def convert(text: str, dtype: ir.DataType) -> ir.Model:
        text = text.strip()
        model = ir.from_onnx_text(text if text.startswith("<") else f'<ir_version: 8, opset_import: ["": 17]> {text}')
        values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
        for value in values:
            if value.dtype == ir.DataType.FLOAT:
                value.type = ir.TensorType(dtype)
        for value in model.graph.initializers.values():
            assert value.const_value is not None
            if value.const_value.dtype == ir.DataType.FLOAT:
                elements: np.ndarray = value.const_value.numpy().astype(dtype.numpy())
                value.const_value = ir.tensor(elements)
        return model

    return convert


@pytest.fixture
def agrees() -> Callable[..., Drive]:
    """``agrees(Pass(), model, seed)``: the pass leaves a valid model that computes the same on random feeds."""

    def run(pass_: Pass, model: ir.Model, seed: int) -> Drive:
        check(model)
        copy = model.clone()
        infer(copy)
        done = drive(pass_, copy, Context())
        check(copy)
        before, after = Session(model, optimized=False), Session(copy, optimized=False)
        limit = tolerance(model.graph.inputs[0].dtype.numpy(), 2 + len(model.graph))
        for feeds in random_feeds(model, seed=seed, count=1):
            for difference in compare(before.run(feeds), after.run(feeds), limit):
                assert difference.ok, (difference, done.changed)
        return done

    return run
