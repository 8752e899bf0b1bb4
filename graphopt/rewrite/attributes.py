"""Whether the attributes of a node are those that a pattern asks for, and what they are called there.

An attribute that the pattern does not mention must have its default, unless ``**`` catches the others. A reference
to a parameter of the enclosing function has an unknown value, so only ``**`` catches it.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from .constants import is_near
from .pattern import PatternNode
from .schema import defaults
from .syntax import AttributeTerm, AttributeVariable


def attributes_of(target: PatternNode, node: ir.Node, version: int) -> list[tuple[str, ir.Attr | None]] | None:
    """The values of the pattern's attribute variables, or None when the node has the wrong attributes.

    Args:
        target: the operator of the pattern.
        node: the node that may be it.
        version: of the operator set of the node's domain, which decides on defaults.
    """
    usual = defaults(node.domain, node.op_type, version)
    captured: list[tuple[str, ir.Attr | None]] = []
    for name, term in target.call.attributes:
        found = node.attributes.get(name) or usual.get(name)
        if found is not None and found.is_ref():
            return None
        if isinstance(term, AttributeVariable):
            if found is None and not term.optional:
                return None
            captured.append((term.name, found))
        elif found is None or not _equal(term, found.value):
            return None
    if target.call.rest is None:
        spelled = {name for name, _ in target.call.attributes}
        for name, found in node.attributes.items():
            if name not in spelled and (found.is_ref() or not same(found, usual.get(name))):
                return None
    return captured


def same(first: ir.Attr | None, second: ir.Attr | None) -> bool:
    """True when two attributes have the same value, or both are left out."""
    if first is None or second is None:
        return first is second
    return first.type == second.type and first.value == second.value


def _equal(wanted: AttributeTerm, found: Any) -> bool:
    """True when an attribute has the value that the pattern spells out; floats up to rounding."""
    if isinstance(wanted, tuple):
        return (
            isinstance(found, (tuple, list))
            and len(found) == len(wanted)
            and all(_equal(item, other) for item, other in zip(wanted, found, strict=True))
        )
    if isinstance(wanted, (str, AttributeVariable)) or not isinstance(found, (int, float)):
        return wanted == found
    return is_near(found, wanted, ir.DataType.FLOAT if isinstance(found, float) else ir.DataType.INT64)
