"""Facts about this machine that a measurement depends on."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from graphopt.local import processor

_PACKAGES = ("graphopt", "onnx", "onnx-ir", "onnxruntime", "numpy")
_FEATURES = (
    "sse4_1",
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "asimdhp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)


def machine() -> dict[str, Any]:
    """The machine, JSON-able.

    ``cpu`` (model name), ``cores`` (that this process may use), ``isa`` (vector extensions), ``memory``
    (bytes), ``os``, ``architecture``, ``versions`` (of python and the packages that matter).
    """
    import psutil

    flags = _flags()
    return {
        "cpu": processor(),
        "cores": cores(),
        "isa": [feature for feature in _FEATURES if feature in flags],
        "memory": psutil.virtual_memory().total,
        "os": platform.platform(terse=True),
        "architecture": platform.machine(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def cores() -> int:
    """The cores this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int:
    """The most memory this process has had resident, in bytes."""
    if sys.platform.startswith("linux"):  # ru_maxrss there includes what the parent had before exec
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _flags() -> frozenset[str]:
    """The instruction-set flags; known on Linux only."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            key, _, rest = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return frozenset(rest.split())
    return frozenset()


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
