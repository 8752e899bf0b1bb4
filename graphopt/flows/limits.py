"""How much a child process that touches a stranger's model may take."""

from __future__ import annotations

from typing import Any

MEMORY_SHARE = 0.8


def limits(timeout: float) -> dict[str, Any]:
    """Keyword arguments of ``graphopt.execute.isolated``: the time, and most of this machine's memory."""
    import psutil

    return {"timeout": timeout, "memory_bytes": int(psutil.virtual_memory().total * MEMORY_SHARE)}
