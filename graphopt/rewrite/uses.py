"""Questions about the users of a value that take constant time, however many users there are.

``onnx_ir.Value.uses()`` copies all of them into a tuple. A value with 10,000 users that is asked about by
each of them would cost 10^8 steps, so these functions look at the dictionary behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from typing import cast

import onnx_ir as ir

FANOUT = 32
"""How many users of one value are looked at. A value with more is no inner value of any pattern."""


def _uses(value: ir.Value) -> Collection[tuple[ir.Node, int]]:
    # The only private name of onnx_ir in this package; the public method is the fall-back.
    found = getattr(value, "_uses", None)
    return cast("Collection[tuple[ir.Node, int]]", value.uses() if found is None else found)


def use_count(value: ir.Value) -> int:
    """The number of operands that the value is, in subgraphs too; being a graph's output does not count."""
    return len(_uses(value))


def first_uses(value: ir.Value, limit: int = FANOUT) -> Iterator[tuple[ir.Node, int]]:
    """The first few (node, operand number) that use the value. Do not edit the graph meanwhile."""
    return islice(iter(_uses(value)), limit)


def is_used(value: ir.Value) -> bool:
    """True when a node or a graph's interface needs the value."""
    return bool(_uses(value)) or value.is_graph_output()
