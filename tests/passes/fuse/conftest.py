"""Models for the fuse family: other element types than float, which ONNX text cannot write plainly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest


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
