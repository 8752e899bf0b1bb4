"""Any record as strict JSON: for run folders, and for the lines of ``--json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any


def plain(value: object) -> Any:
    """The value in JSON's types; non-finite numbers as text, what JSON does not know by its ``str``."""
    if isinstance(value, Enum):
        return plain(value.value) if isinstance(value.value, str) else value.name.lower()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value) if item.repr}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [plain(item) for item in items]
    as_list = getattr(value, "tolist", None)  # numpy's numbers and arrays
    return plain(as_list()) if callable(as_list) else str(value)
