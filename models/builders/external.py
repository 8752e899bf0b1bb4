"""A model of any size with its weights in a file beside it, written without holding them in memory.

The weights are a sparse file: the first rows of each are seeded noise (no two weights are equal), the
rest are holes, which read as zeros. So 3 GB are there in a moment and take next to no disk.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx

_WIDTH = 1024
_NOISY_ROWS = 4


def external(path: str | os.PathLike[str], gigabytes: float = 3.0, *, width: int = _WIDTH, seed: int = 0) -> Path:
    """Writes ``path`` and ``<path>.data``: layers of MatMul, a removable Identity, and Relu.

    The layers go up to 4 * width and down again, so the model runs on an input ``x`` [N, width] and gives
    ``y`` [N, width]. ``gigabytes`` (of 1e9 bytes) is rounded up to a whole pair of layers.

    Returns:
        The model's path.
    """
    path = Path(path)
    data = path.with_name(path.name + ".data")
    each = width * 4 * width * 4
    layers = 2 * max(1, -(-int(gigabytes * 1e9) // (2 * each)))
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    value = "x"
    with data.open("wb") as file:
        for number in range(layers):
            rows, columns = (width, 4 * width) if number % 2 == 0 else (4 * width, width)
            noise = rng.standard_normal((_NOISY_ROWS, columns)).astype("<f4") / np.sqrt(rows)
            file.seek(number * each)
            file.write(noise.tobytes())
            weights.append(_reference(f"weight_{number}", (rows, columns), data.name, number * each, each))
            nodes += [
                onnx.helper.make_node("MatMul", [value, f"weight_{number}"], [f"m_{number}"], f"matmul_{number}"),
                onnx.helper.make_node("Identity", [f"m_{number}"], [f"i_{number}"], f"identity_{number}"),
                onnx.helper.make_node("Relu", [f"i_{number}"], [f"r_{number}"], f"relu_{number}"),
            ]
            value = f"r_{number}"
        file.truncate(layers * each)
    nodes.append(onnx.helper.make_node("Add", [value, "x"], ["y"], "add"))
    graph = onnx.helper.make_graph(
        nodes,
        "external",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", width])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", width])],
        initializer=weights,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def _reference(name: str, shape: tuple[int, int], location: str, offset: int, length: int) -> onnx.TensorProto:
    """A float32 tensor whose bytes lie in ``location``."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text
    return tensor
