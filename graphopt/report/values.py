"""What a JSON value is worth: each function takes anything and gives its type or None, never an error."""

from __future__ import annotations

import json
import math
from typing import Any, cast


def number(value: object) -> float | None:
    """A JSON number, also one written as text ("inf", "-inf", "nan"); anything else is None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


def whole(value: object) -> int | None:
    """A JSON number within 64 bits as an int, or None."""
    found = number(value)
    if found is None or not abs(found) < 2**63:
        return None
    return value if isinstance(value, int) else int(found)


def size(value: object) -> int | None:
    """A count: a whole number that is not negative, or None."""
    found = whole(value)
    return found if found is not None and found >= 0 else None


def text(value: object) -> str:
    """A JSON value as text; None is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ", ".join(f"{key} {_dump(item)}" for key, item in as_dict(value).items() if item is not None)
    if isinstance(value, list):
        return ", ".join(_dump(item) for item in as_list(value))
    return _dump(value)


def _dump(value: object) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "…"


def as_dict(value: object) -> dict[str, Any]:
    """The value when it is a JSON object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """The value when it is a JSON array, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def positive(value: object) -> float | None:
    """A finite number that is not negative, or None."""
    found = number(value)
    return found if found is not None and math.isfinite(found) and found >= 0 else None


def texts(value: object) -> tuple[str, ...]:
    """The items of a JSON array as texts."""
    return tuple(text(item) for item in as_list(value) if item is not None)
