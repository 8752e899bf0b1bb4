"""Proof that a mask is causal: key j is kept for query i where j - i <= n, and for no other."""

from __future__ import annotations

import json

import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from graphopt import ir as gir

from ._attention_bands import RULES, Band, Offset, Pattern, Ramp, of_constant
from ._attention_core import Mask, absorbs
from ._attention_operands import Dims

_LARGEST_CONSTANT = 1 << 22
_DEEPEST = 24


class BandReader:
    """Finds the patterns of values; each value is looked at once."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Pattern | None] = {}

    def causal(self, masks: tuple[Mask, ...], dtype: ir.DataType) -> Offset | None:
        """How many keys more than its own index each query keeps, when that is all there is to the mask."""
        if len(masks) != 1:
            return None
        (mask,) = masks
        found = self.of(mask.value)
        if not isinstance(found, Band):
            return None
        if mask.fill is not None:
            is_causal = (found.near, found.far) == ((0, 1) if mask.inverted else (1, 0))
        else:
            is_causal = found.near == 0 and absorbs(found.far, dtype)
        return found.offset if is_causal else None

    def of(self, value: ir.Value | None, depth: int = 0) -> Pattern | None:
        """The pattern of a value, or None."""
        if value is None or depth > _DEEPEST:
            return None
        if value not in self._known:
            self._known[value] = self._look(value, depth)
        return self._known[value]

    def _look(self, value: ir.Value, depth: int) -> Pattern | None:
        elements = gir.array(value, _LARGEST_CONSTANT)
        if elements is not None:
            return of_constant(elements)
        node = value.producer()
        if node is None or node.domain not in gir.STANDARD_DOMAINS or gir.has_reference(node):
            return None
        size, rule = _size(value), RULES.get(node.op_type)
        if size is not None or rule is None:
            return None if size is None else Ramp(0, size)
        operands = [self.of(item, depth + 1) for item in node.inputs]
        if node.op_type not in ("Unsqueeze", "Slice"):  # these look for themselves
            for item, found in zip(node.inputs, operands, strict=True):
                if not _spans(gir.dims(item), found, gir.dims(value)):
                    return None
        return rule(node, operands)


def _spans(own: Dims | None, pattern: Pattern | None, whole: Dims | None) -> bool:
    """An operand is as long as the result along the axes that matter: nothing is repeated along them."""
    backs = (1, 2) if isinstance(pattern, Band) else (pattern.back,) if isinstance(pattern, Ramp) else ()
    if own is None or whole is None:
        return not any(backs)
    return all(len(own) >= back and own[-back] is not None and own[-back] == whole[-back] for back in backs if back)


def _size(value: ir.Value) -> Offset | None:
    """The one element of an integer tensor: a number, or a size."""
    numbers = gir.known_ints(value)
    if numbers is not None:
        return numbers[0] if len(numbers) == 1 else None
    text = value.metadata_props.get(SYM_DATA_KEY)
    elements = json.loads(text) if text is not None else ()
    return elements[0] if len(elements) == 1 and elements[0] not in (None, "None", "") else None
