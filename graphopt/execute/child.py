"""What runs inside the child of ``isolate``: take the request, set the limits, call, leave the answer."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError

_MEMORY_MARKS = ("bad_alloc", "Failed to allocate memory", "Unable to allocate", "not enough memory")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


def main(folder: str) -> None:
    """Answer the request in a folder: ``answer`` holds ("result" | "error" | "memory", content), pickled."""
    request = pickle.loads(Path(folder, "request").read_bytes())
    _tie_to_parent(request["parent"])
    _limit(request["memory"])
    answer = _answer(request)
    part = Path(folder, "answer.part")
    part.write_bytes(answer)
    part.rename(Path(folder, "answer"))
    sys.stdout.flush()
    os._exit(0)  # native libraries crash in their destructors now and then; the answer is already there


def _answer(request: dict[str, Any]) -> bytes:
    try:
        function = _function(request["module"], request["name"], request["file"])
        args, kwargs = pickle.loads(request["arguments"])
        return pickle.dumps(("result", function(*args, **kwargs)), protocol=5)
    except GraphoptError as error:
        if any(mark in error.what for mark in _MEMORY_MARKS):
            return pickle.dumps(("memory", None))
        return pickle.dumps(("error", error))
    except MemoryError:
        return pickle.dumps(("memory", None))
    except Exception as error:  # noqa: BLE001  whatever happens here is the answer
        text = f"{type(error).__name__}: {error}"
        if any(mark in text for mark in _MEMORY_MARKS):
            return pickle.dumps(("memory", None))
        return pickle.dumps(("error", GraphoptError(" ".join(text.split())[:500])))


def _function(module: str, name: str, file: str | None) -> Any:
    """The function by name; from its file where the module is a script or not importable."""
    found: Any = None
    if module != "__main__":
        with contextlib.suppress(ImportError):
            found = importlib.import_module(module)
    if found is None:
        if file is None:
            raise GraphoptError(f"the function {module}.{name} cannot be imported by another process")
        alias = "graphopt_isolated_main" if module == "__main__" else module
        spec = importlib.util.spec_from_file_location(alias, file)
        assert spec is not None and spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        sys.modules[module] = found  # arguments of classes defined there are unpickled by this name
        sys.modules[alias] = found  # dataclasses look their module up by the name it is executed under
        spec.loader.exec_module(found)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _limit(memory_bytes: int | None) -> None:
    if memory_bytes is None:
        return
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _tie_to_parent(parent: int) -> None:
    """Die when the parent is killed in a way it cannot clean up after."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
