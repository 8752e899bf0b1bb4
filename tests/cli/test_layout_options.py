from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

import graphopt as go

NETWORK = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 4, 5] x) => (float[N, 2, 4, 5] y)
    <float[2, 2, 1, 1] w = {1, 2, 3, 4}> { a = Conv(x, w) y = Sigmoid(a) }"""


def test_images_can_be_taken_and_given_with_their_channels_last(graphopt, folder: Path) -> None:
    ir.save(ir.from_onnx_text(NETWORK), folder / "net.onnx")
    words = ["--input-layout", "nhwc", "--output-layout", "nhwc", "--recipe", "clean"]
    done = graphopt("optimize", "net.onnx", "-o", "out.onnx", *words)
    assert done.code == 0
    assert "equal bit for bit" in done.out
    assert "0 -> 2 nodes" in done.out
    model = go.load(folder / "out.onnx")
    assert [str(size) for size in model.graph.inputs[0].shape] == ["N", "4", "5", "2"]
    assert [str(size) for size in model.graph.outputs[0].shape] == ["N", "4", "5", "2"]
