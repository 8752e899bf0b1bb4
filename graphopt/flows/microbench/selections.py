"""Where the largest or smallest element of a row is: a scan for a sort."""

from __future__ import annotations

from .micro import Micro

_ROWS = ({"s": 1}, {"s": 16}, {"s": 128})


def _row(form: str, plain: str) -> Micro:
    return Micro(form, plain, f"y = {form}{{axis=-1, keepdims=1}}(x)", {"x": "s 1000"}, _ROWS, chain=1)


SELECTIONS = (
    _row("ArgMax", "_, y = TopK{axis=-1}(x, [1])"),
    _row("ArgMin", "_, y = TopK{axis=-1, largest=0}(x, [1])"),
)
