"""Every line of bad input: at most three lines of error, exit code 1 or 2, the input untouched, nothing half-written.

Each goes through the real command in a process of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from .conftest import RECIPE, Done, build, command, contents, plain_model

OUTPUT = "out.onnx"


def refused(done: Done, folder: Path, before: dict[str, str], *said: str) -> None:
    """What holds for every refusal."""
    lines = done.err.splitlines()
    titles = [line[:7] for line in lines]
    assert titles in (
        ["error: "],
        ["error: ", "where: "],
        ["error: ", "hint:  "],
        ["error: ", "where: ", "hint:  "],
    ), done.err
    assert done.code in (1, 2), done.err
    assert "Traceback" not in done.out + done.err
    assert contents(folder) == before, "a file was changed, or something was left behind"
    for words in said:
        assert words in done.err, done.err


def save(folder: Path, proto: onnx.ModelProto, name: str = "model.onnx") -> None:
    (folder / name).write_bytes(proto.SerializeToString())


def not_onnx(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"#!/bin/sh\necho this is no model\n" * 20)


def truncated(folder: Path) -> None:
    whole = plain_model(1000).SerializeToString()
    (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])


def empty(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")


def wrong_ir_version(folder: Path) -> None:
    proto = plain_model()
    proto.ir_version = 99
    save(folder, proto)


def unknown_opset(folder: Path) -> None:
    proto = plain_model()
    proto.opset_import[0].version = 99
    save(folder, proto)


def _with_external(folder: Path, location: str) -> None:
    proto = plain_model()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    save(folder, proto)


def missing_external_data(folder: Path) -> None:
    _with_external(folder, "weights.bin")


def outside_the_folder(folder: Path) -> None:
    _with_external(folder, "../../../../etc/passwd")


def absolute_path(folder: Path) -> None:
    _with_external(folder, "/etc/passwd")


def cyclic(folder: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], "first"), helper.make_node("Relu", ["a"], ["b"], "second")]
    save(folder, build([*nodes, helper.make_node("Relu", ["a"], ["y"], "third")]))


def duplicate_names(folder: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "first"), helper.make_node("Abs", ["x"], ["y"], "second")]
    save(folder, build(nodes))


def nan_weights(folder: Path) -> None:
    weights = {"w": np.full((4, 4), np.nan, np.float32)}
    save(folder, build([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], weights=weights))


def kills_the_runtime(folder: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 2, 2])
    save(folder, build([helper.make_node("DepthToSpace", ["x"], ["y"], "killer", blocksize=4294967296)], [x]))


def fills_the_memory(folder: Path) -> None:
    weights = {"repeats": np.asarray([2**20, 2**22], np.int64)}
    save(folder, build([helper.make_node("Tile", ["x", "repeats"], ["y"], "huge")], weights=weights))


BAD_MODELS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "not an ONNX file": (not_onnx, ("not an ONNX model", "model.onnx")),
    "an empty file": (empty, ("is empty", "model.onnx")),
    "a truncated file": (truncated, ("is truncated", "model.onnx")),
    "a wrong IR version": (wrong_ir_version, ("99",)),
    "an unknown opset": (unknown_opset, ("99",)),
    "missing external data": (missing_external_data, ("weights.bin",)),
    "external data outside the folder": (outside_the_folder, ("outside",)),
    "external data by an absolute path": (absolute_path, ("/etc/passwd",)),
    "a cyclic graph": (cyclic, ("has a cycle", "first", "second")),
    "duplicate names": (duplicate_names, ("'y'", "second")),
    "NaN weights": (nan_weights, ("NaN", "'w'")),
    "a model that kills ONNX Runtime": (kills_the_runtime, ("crashed", "ONNX Runtime")),
    "a model that needs terabytes": (fills_the_memory, ("Tile",)),
}


@pytest.mark.parametrize("case", BAD_MODELS, ids=lambda case: case.replace(" ", "-"))
def test_a_bad_model_is_refused(case: str, folder: Path, process: Callable[..., Done]) -> None:
    make, said = BAD_MODELS[case]
    make(folder)
    before = contents(folder)
    refused(process("optimize", "model.onnx", "-o", OUTPUT, "--recipe", RECIPE), folder, before, *said)


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({"z": np.zeros((2, 4), np.float32)}, "no input 'z'"),
        ({"x": np.zeros((2, 4), np.float64)}, "double"),
        ({"x": np.zeros((2, 5), np.float32)}, "shape"),
    ],
    ids=["name", "dtype", "shape"],
)
def test_feeds_that_do_not_fit_are_refused(
    feeds: dict[str, np.ndarray], said: str, folder: Path, model: Path, process: Callable[..., Done]
) -> None:
    (folder / "feeds").mkdir()
    np.savez(folder / "feeds" / "0.npz", **feeds)
    before = contents(folder)
    done = process("optimize", "model.onnx", "-o", OUTPUT, "--recipe", RECIPE, "--data", "feeds")
    refused(done, folder, before, said)


def _read_only_folder() -> Path | None:
    """A folder that even root may not write to."""
    for place in (Path("/sys"), Path("/proc/sys")):
        try:
            (place / ".graphopt-probe").touch()
        except OSError:
            if place.is_dir():
                return place
    return None


def test_a_read_only_output_folder_is_refused(folder: Path, model: Path, process: Callable[..., Done]) -> None:
    place = _read_only_folder()
    if place is None:
        pytest.skip("this system has no folder that this user may not write to")
    before = contents(folder)
    refused(process("optimize", "model.onnx", "-o", str(place / OUTPUT), "--recipe", RECIPE), folder, before, OUTPUT)


def test_a_full_disk_is_an_error_and_leaves_the_old_output(folder: Path, process: Callable[..., Done]) -> None:
    resource = pytest.importorskip("resource", reason="needs a limit on file sizes")
    onnx.save(plain_model(200_000), folder / "model.onnx")  # 3.2 MB
    (folder / OUTPUT).write_bytes(b"the old output")
    before = contents(folder)
    done = process(
        "optimize",
        "model.onnx",
        "-o",
        OUTPUT,
        "--recipe",
        RECIPE,
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)),
    )
    refused(done, folder, before, "full", OUTPUT)
    assert done.code == 1


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal")
@pytest.mark.parametrize("wait_for", ["the first line", "a child process"])
def test_ctrl_c_ends_with_one_line(wait_for: str, folder: Path, model: Path) -> None:
    before = contents(folder)
    words = ["optimize", "model.onnx", "-o", OUTPUT, "--recipe", RECIPE, "--json"]
    running = subprocess.Popen(
        command(words), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stdout is not None
    running.stdout.readline()
    if wait_for == "a child process":
        running.stdout.readline()
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, (out, err)
    assert err.splitlines() == ["interrupted: nothing half-written is left behind"]
    assert contents(folder) == before


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal")
def test_ctrl_c_leaves_no_run_folder(folder: Path, model: Path) -> None:
    words = ["optimize", "model.onnx", "-o", OUTPUT, "--recipe", RECIPE, "--json", "--report", "--runs", "all"]
    running = subprocess.Popen(
        command(words), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stdout is not None
    running.stdout.readline()
    assert list((folder / "all").iterdir())
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, (out, err)
    assert not list((folder / "all").iterdir())


def test_feeds_with_nan_are_refused_by_name(folder: Path, model: Path, process: Callable[..., Done]) -> None:
    feeds = {f"{i}|x": np.ones((2, 4), np.float32) for i in range(3)}
    feeds["1|x"][0, 2] = np.nan
    np.savez(folder / "feeds.npz", **feeds)
    before = contents(folder)
    done = process("optimize", "model.onnx", "-o", OUTPUT, "--data", "feeds.npz")
    refused(done, folder, before, "'x'", "NaN", "sample 1", "feeds.npz")
    refused(process("verify", "model.onnx", "model.onnx", "--data", "feeds.npz"), folder, before, "'x'", "sample 1")
