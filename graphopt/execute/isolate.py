"""Running a function in a process of its own, with limits.

A stranger's model can kill the library that loads it (ONNX Runtime 1.31 divides by zero on a DepthToSpace
with blocksize 2**32), fill the memory (a Tile with huge repeats) or never end. In a child process each of
these becomes an error that names the stage. The child is a clean interpreter, not a fork: it holds no lock,
thread or memory of ours.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from graphopt.errors import GraphoptError

R = TypeVar("R")

_BOOT = "import sys; sys.path[:] = {path!r}; from graphopt.execute.child import main; main({folder!r})"


def isolated(
    function: Callable[..., R],
    *args: Any,
    timeout: float,
    memory_bytes: int | None = None,
    stage: str,
    **kwargs: Any,
) -> R:
    """``function(*args, **kwargs)``, computed in a fresh child process.

    Args:
        function: a function at the top level of a module (the child imports it again).
        *args: picklable arguments.
        **kwargs: more of them, by name.
        timeout: seconds until the child and all its children are killed.
        memory_bytes: limit of the child's address space (a CUDA process needs far more of it than memory);
            None for no limit. Where the system has no such limit (Windows), it is not applied.
        stage: what is done, for the message: ``loading model.onnx``.

    Returns:
        what the function returns, which must be picklable.

    Raises:
        GraphoptError: the function raised one, or another exception, or the child crashed, ran out of memory
            or time.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-child-") as folder:
        request = {
            "module": function.__module__,
            "name": function.__qualname__,
            "file": _source(function),
            "arguments": pickle.dumps((args, kwargs)),
            "memory": memory_bytes,
            "parent": os.getpid(),
        }
        Path(folder, "request").write_bytes(pickle.dumps(request))
        code = _wait(_start(folder), timeout, stage)
        return _answer(Path(folder), code, memory_bytes, stage)


def _source(function: Callable[..., Any]) -> str | None:
    """The file that defines the function, for a module that cannot be imported by name (a script, a test)."""
    return getattr(sys.modules.get(function.__module__), "__file__", None)


def _start(folder: str) -> subprocess.Popen[bytes]:
    boot = _BOOT.format(path=[os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path], folder=folder)
    with open(Path(folder, "log"), "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-E", "-c", boot],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait(child: subprocess.Popen[bytes], timeout: float, stage: str) -> int:
    try:
        return child.wait(timeout)
    except subprocess.TimeoutExpired:
        raise GraphoptError(
            f"no answer within {timeout:g} seconds",
            stage,
            "the model may be too large for this machine, or malicious",
        ) from None
    finally:  # Ctrl-C comes through here too: nothing that we started lives on
        _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and its descendants; a child that has ended by itself may have left some."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    elif child.poll() is None:
        child.kill()
    child.wait()


def _answer(folder: Path, code: int, memory_bytes: int | None, stage: str) -> Any:
    answer = folder / "answer"
    if code == 0 and answer.is_file():
        kind, content = pickle.loads(answer.read_bytes())
        if kind == "result":
            return content
        if kind == "error":
            raise GraphoptError(content.what, content.where or stage, content.hint, usage=content.usage)
        raise _out_of_memory(memory_bytes, stage)
    tail = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
    if "bad_alloc" in "".join(tail) or "MemoryError" in "".join(tail) or (code == -signal.SIGKILL and memory_bytes):
        raise _out_of_memory(memory_bytes, stage)
    how = _signal_name(-code) if code < 0 else f"exit code {code}"
    said = f": {tail[0][:200]}" if tail else ""
    raise GraphoptError(
        f"the process crashed ({how}){said}",
        stage,
        "a native library cannot cope with this model; nothing of yours was touched",
    )


def _out_of_memory(memory_bytes: int | None, stage: str) -> GraphoptError:
    limit = f" of {memory_bytes / 2**30:.3g} GiB" if memory_bytes else ""
    return GraphoptError(
        f"more memory is needed than the limit{limit}",
        stage,
        "allow more memory, or use a smaller model or feeds",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
