"""The facts a measurement is worth nothing without: the machine, and the versions of what ran on it."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("graphopt", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "numpy")


def machine() -> dict[str, object]:
    """The processor's name, the cores this process may use, the memory in bytes, the system."""
    return {"cpu": _cpu(), "cores": _cores(), "memory": _memory(), "os": _system()}


def versions() -> dict[str, str]:
    """Versions by package, Python's among them; a package that is not installed is left out.

    ``graphopt`` is always there ("unknown" when it runs from a tree that is not installed).
    """
    found = {"graphopt": "unknown", "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def _cpu() -> str:
    """The model name in the system's own words, as far as it tells."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware", "cpu model") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int:
    import psutil  # only here: not every command needs it

    return int(psutil.virtual_memory().total)


def _system() -> str:
    return f"{platform.system()} {platform.release()} ({platform.machine()})"
