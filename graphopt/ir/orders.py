"""In which order of axes a model takes its inputs and gives its outputs, where that is another than it once was.

The table rides as JSON in the model's metadata under ``graphopt.orders``: axis i of a port is axis order[i] of what the
model had under that name before. So whoever compares two such models, or feeds one, can put the axes in place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import onnx_ir as ir

KEY = "graphopt.orders"

Order = tuple[int, ...]


def read(model: ir.Model) -> dict[str, Order]:
    """The orders by name; ports that are as they always were are left out."""
    text = model.metadata_props.get(KEY)
    if not text:
        return {}
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    table = cast("dict[str, Any]", found)
    return {name: tuple(order) for name, order in table.items() if _is_order(order)}


def record(model: ir.Model, name: str, order: Order) -> None:
    """Note that a port, as it was until now, has its axes in another order."""
    table = read(model)
    before = table.get(name, tuple(range(len(order))))
    after = tuple(before[axis] for axis in order)
    table.pop(name, None)
    if list(after) != sorted(after):
        table[name] = after
    if table:
        model.metadata_props[KEY] = json.dumps(table, ensure_ascii=False, sort_keys=True)
    else:
        model.metadata_props.pop(KEY, None)


def between(before: Mapping[str, Order], after: Mapping[str, Order]) -> dict[str, Order]:
    """The orders of one model's ports as seen from another's: axis i of the second is axis order[i] of the first."""
    found: dict[str, Order] = {}
    for name in {**before, **after}:
        rank = len(before.get(name) or after.get(name) or ())
        own = tuple(range(rank))
        start, end = before.get(name, own), after.get(name, own)
        if start != end and len(start) == len(end):
            found[name] = tuple(start.index(axis) for axis in end)
    return found


def _is_order(order: object) -> bool:
    if not isinstance(order, list):
        return False
    axes = cast("list[object]", order)
    return all(isinstance(axis, int) for axis in axes) and sorted(cast("list[int]", axes)) == list(range(len(axes)))
