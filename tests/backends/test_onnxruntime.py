"""The ONNX Runtime backend: artifacts that load elsewhere, providers that are used or refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.backends.artifact import MANIFEST
from graphopt.backends.onnxruntime import OnnxRuntime, session_settings
from graphopt.errors import GraphoptError
from graphopt.execute.providers import available
from graphopt.execute.session import Session
from graphopt.models.builders import external
from graphopt.target import find_target, targets


def model() -> ir.Model:
    return ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] y) <float[2] w = {1, 2}> { y = Add(x, w) }'
    )


FEEDS = {"x": np.ones((3, 2), np.float32)}


def test_an_artifact_runs_where_it_was_made_and_after_a_move(tmp_path):
    artifact = OnnxRuntime().compile(model(), find_target("onnx"), tmp_path / "made")
    expected = artifact.run(FEEDS)["y"]
    shutil.move(tmp_path / "made", tmp_path / "elsewhere")
    np.testing.assert_array_equal(OnnxRuntime().load(tmp_path / "elsewhere").run(FEEDS)["y"], expected)
    np.testing.assert_array_equal(expected, np.array([[2, 3]] * 3, np.float32))


def test_an_artifact_loads_in_a_fresh_process(tmp_path):
    OnnxRuntime().compile(model(), find_target("onnx"), tmp_path / "a")
    code = (
        "import sys, numpy as np; from pathlib import Path; from graphopt.backends.onnxruntime import OnnxRuntime; "
        "print(OnnxRuntime().load(Path(sys.argv[1])).run({'x': np.zeros((1, 2), np.float32)})['y'].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[[1.0, 2.0]]"


def test_external_weights_travel_with_the_artifact(tmp_path):
    external(tmp_path / "m.onnx", gigabytes=0.01)
    from graphopt.ir import load

    artifact = OnnxRuntime().compile(load(tmp_path / "m.onnx"), find_target("onnx"), tmp_path / "a")
    for file in tmp_path.glob("m.onnx*"):
        file.unlink()
    assert {MANIFEST, "model.onnx"} < {file.name for file in (tmp_path / "a").iterdir()}
    (port,) = artifact._session.inputs
    feeds = {port.name: np.ones([size if isinstance(size, int) else 1 for size in port.shape], np.float32)}
    assert OnnxRuntime().load(tmp_path / "a").run(feeds)


def test_the_manifest_tells_target_versions_and_digests(tmp_path):
    OnnxRuntime().compile(model(), find_target("x86-64"), tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    assert manifest["backend"] == "onnxruntime" and manifest["target"] == "x86-64"
    assert "onnxruntime" in manifest["versions"]
    assert set(manifest["files"]) == {"model.onnx"}


def test_a_changed_file_is_refused(tmp_path):
    OnnxRuntime().compile(model(), find_target("onnx"), tmp_path / "a")
    blob = tmp_path / "a" / "model.onnx"
    blob.write_bytes(blob.read_bytes().replace(b"y", b"z", 1))
    with pytest.raises(GraphoptError, match="was changed"):
        OnnxRuntime().load(tmp_path / "a")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "no manifest"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "cannot be read"),
        (lambda folder: (folder / "model.onnx").unlink(), "is missing"),
        (lambda folder: _edit(folder, format=99), "format 99"),
        (lambda folder: _edit(folder, files={"../m": "0"}), "outside the artifact"),
    ],
)
def test_a_damaged_artifact_is_explained(tmp_path, damage, message):
    OnnxRuntime().compile(model(), find_target("onnx"), tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(GraphoptError, match=message):
        OnnxRuntime().load(tmp_path / "a")


def _edit(folder: Path, **facts: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_an_older_artifact_is_replaced_and_anything_else_is_not(tmp_path):
    OnnxRuntime().compile(model(), find_target("onnx"), tmp_path / "a")
    OnnxRuntime().compile(model(), find_target("onnx"), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "precious").write_text("mine")
    with pytest.raises(GraphoptError, match="something else"):
        OnnxRuntime().compile(model(), find_target("onnx"), tmp_path / "b")
    assert (tmp_path / "b" / "precious").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_an_operator_nobody_knows_is_named(tmp_path):
    custom = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17, "my.domain": 1]> g (float[2] x) => (float[2] y) { y = my.domain.Secret(x) }'
    )
    (site,) = OnnxRuntime().legal(custom, find_target("onnx"))
    assert "my.domain" in site.text
    with pytest.raises(GraphoptError, match=r"my\.domain"):
        OnnxRuntime().compile(custom, find_target("onnx"), tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", [target.name for target in targets().values() if target.provider != "CPUExecutionProvider"]
)
def test_a_missing_provider_is_an_error_with_the_package_to_install(tmp_path, name):
    target = targets()[name]
    if target.provider in available():
        pytest.skip(f"{target.provider} is installed here")
    with pytest.raises(GraphoptError) as raised:
        OnnxRuntime().compile(model(), target, tmp_path / "a")
    assert target.provider in raised.value.what
    assert "onnxruntime" in raised.value.hint.replace("ONNX Runtime", "onnxruntime")
    assert not list(tmp_path.iterdir())


def test_openvino_runs_as_a_plug_in():
    pytest.importorskip("onnxruntime_ep_openvino", reason="needs the extra openvino")
    reference = Session(model(), optimized=False).run(FEEDS)["y"]
    session = Session(model(), optimized=True, **session_settings(targets()["x86-openvino"]))
    np.testing.assert_allclose(session.run(FEEDS)["y"], reference, rtol=1e-5)


def test_every_target_of_this_runtime_is_offered():
    assert set(OnnxRuntime().targets()) == set(targets())
