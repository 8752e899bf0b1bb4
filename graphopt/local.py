"""This machine as far as everything may depend on it: its processor's name, and where files of the user are kept."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def cache_folder() -> Path:
    """``$GRAPHOPT_CACHE``, or the folder the operating system keeps for caches."""
    if given := os.environ.get("GRAPHOPT_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        return base / "graphopt" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "graphopt"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphopt"


def profile_folder() -> Path:
    """``$GRAPHOPT_PROFILES``, or ``profiles`` in the cache folder: what was measured of targets on this machine."""
    given = os.environ.get("GRAPHOPT_PROFILES")
    return Path(given).expanduser() if given else cache_folder() / "profiles"


def processor() -> str:
    """The processor's model, as the system calls it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(errors="replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return name.strip()
    return platform.processor() or platform.machine()
