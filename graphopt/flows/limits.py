"""How much a child process that touches a stranger's model may take."""

from __future__ import annotations

import sys
from typing import Any

from ..errors import GraphoptError

MEMORY_SHARE = 0.8
_TOO_LARGE = ("memory", "exceeds the supported maximum", "overflow")


def limits(timeout: float) -> dict[str, Any]:
    """Keyword arguments of ``graphopt.execute.isolated``: the time, and most of this machine's memory."""
    import psutil

    return {"timeout": timeout, "memory_bytes": int(psutil.virtual_memory().total * MEMORY_SHARE)}


def is_too_large(error: GraphoptError) -> bool:
    """True where a run failed because a tensor is larger than any machine has room for."""
    return any(mark in error.what for mark in _TOO_LARGE)


def at_stage(stage: str) -> None:
    """In a child: say in its log what is done now; the error of a crash quotes the log's last line."""
    sys.stderr.write(f"during {stage}\n")
    sys.stderr.flush()
