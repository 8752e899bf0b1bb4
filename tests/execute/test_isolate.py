"""Child processes: whatever happens inside is an answer or an error that names the stage."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import parser

from graphopt.errors import GraphoptError
from graphopt.execute.isolate import isolated
from graphopt.execute.session import Session

GIB = 2**30


def add(a: int, b: int = 10) -> int:
    return a + b


def pid() -> int:
    return os.getpid()


def segfault() -> None:
    ctypes.string_at(0)


def sleep_with_a_child(path: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(path).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(60)


def allocate(count: int) -> float:
    return float(np.ones(count).sum())


def raise_value_error() -> None:
    raise ValueError("seven is no colour")


def raise_ours() -> None:
    raise GraphoptError("the option is wrong", "option x", "leave it out", usage=True)


def leave_quietly() -> None:
    os._exit(3)


def run_model(path: str, size: int) -> tuple[int, ...]:
    return Session(path, optimized=False).run({"x": np.zeros(size, np.float32)})["y"].shape


def model_file(folder: Path, text: str) -> str:
    path = folder / "model.onnx"
    path.write_bytes(parser.parse_model(text).SerializeToString())
    return str(path)


def gone(number: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_the_result_comes_back_from_another_process() -> None:
    assert isolated(add, 1, b=2, timeout=20, stage="adding") == 3
    assert isolated(pid, timeout=20, stage="asking") != os.getpid()


def test_a_crash_names_the_signal_and_the_stage() -> None:
    with pytest.raises(GraphoptError, match="SIGSEGV") as caught:
        isolated(segfault, timeout=20, stage="loading model.onnx")
    assert caught.value.where == "loading model.onnx"
    assert caught.value.exit_code == 1


def test_a_process_that_ends_without_an_answer_is_an_error() -> None:
    with pytest.raises(GraphoptError, match="exit code 3"):
        isolated(leave_quietly, timeout=20, stage="leaving")


def test_time_is_limited_and_grandchildren_die_too(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    with pytest.raises(GraphoptError, match="no answer within 2 seconds"):
        isolated(sleep_with_a_child, str(note), timeout=2, stage="sleeping")
    assert all(gone(int(number)) for number in note.read_text().split())


@pytest.mark.skipif(sys.platform == "win32", reason="no address space limit there")
def test_memory_is_limited() -> None:
    assert isolated(allocate, 1000, timeout=20, memory_bytes=2 * GIB, stage="allocating") == 1000.0
    with pytest.raises(GraphoptError, match="limit of 2 GiB"):
        isolated(allocate, GIB, timeout=20, memory_bytes=2 * GIB, stage="allocating")


def test_exceptions_come_back_as_errors_of_the_stage() -> None:
    with pytest.raises(GraphoptError, match="ValueError: seven is no colour") as caught:
        isolated(raise_value_error, timeout=20, stage="painting")
    assert caught.value.where == "painting"


def test_our_own_errors_keep_all_their_fields() -> None:
    with pytest.raises(GraphoptError) as caught:
        isolated(raise_ours, timeout=20, stage="parsing")
    assert (caught.value.what, caught.value.where, caught.value.hint) == (
        "the option is wrong",
        "option x",
        "leave it out",
    )
    assert caught.value.usage


def test_a_model_that_kills_onnxruntime_is_an_error(tmp_path: Path) -> None:
    """ONNX Runtime 1.31 divides by zero when it loads this."""
    path = model_file(
        tmp_path,
        '<ir_version: 8, opset_import: ["": 13]> g (float[4] x) => (float[a, b, c, d] y) {'
        " s = Constant<value_ints = [1, 4, 1, 1]>() r = Reshape(x, s)"
        " y = DepthToSpace<blocksize = 4294967296>(r) }",
    )
    with pytest.raises(GraphoptError) as caught:
        isolated(run_model, path, 4, timeout=30, memory_bytes=4 * GIB, stage="running model.onnx")
    assert caught.value.where.startswith(("running model.onnx", f"loading {path}"))


@pytest.mark.skipif(sys.platform == "win32", reason="no address space limit there")
@pytest.mark.parametrize("node", ["Tile(x, r)", "Expand(x, r)"])
def test_a_model_that_wants_all_memory_is_an_error(tmp_path: Path, node: str) -> None:
    path = model_file(
        tmp_path,
        '<ir_version: 8, opset_import: ["": 13]> g (float[1] x) => (float[n] y) {'
        f" r = Constant<value_ints = [1000000000]>() y = {node} }}",
    )
    with pytest.raises(GraphoptError, match="memory"):
        isolated(run_model, path, 1, timeout=60, memory_bytes=3 * GIB, stage="running")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_parent_leaves_no_child_behind(tmp_path: Path, how: signal.Signals) -> None:
    if how == signal.SIGKILL and not sys.platform.startswith("linux"):
        pytest.skip("only Linux can tie a child to its parent")
    note, script = tmp_path / "pid", tmp_path / "script.py"
    script.write_text(
        "import os, sys, time, pathlib\n"
        "from graphopt.execute.isolate import isolated\n"
        "def hang(path):\n"
        "    pathlib.Path(path).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    isolated(hang, sys.argv[1], timeout=60, stage='hanging')\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # a killed parent cannot remove its folder
    parent = subprocess.Popen([sys.executable, str(script), str(note)], stderr=subprocess.DEVNULL, env=environment)
    try:
        for _ in range(400):
            if note.exists() and note.read_text():
                break
            time.sleep(0.05)
        child = int(note.read_text())
        parent.send_signal(how)
        parent.wait(20)
        assert gone(child)
    finally:
        parent.kill()
        parent.wait()
