"""Numbers and names as the terminal shows them: plain ASCII, so that pipes and any font can take them."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.execute.compare import Tolerance

_UNSEEN = frozenset(("Cc", "Cf", "Cs"))
_BINARY = ("KiB", "MiB", "GiB", "TiB")
_DECIMAL = ("k", "M", "G", "T", "P")


def clean(text: str) -> str:
    """A stranger's text without what could command a terminal: control characters, changed direction."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("?" if unicodedata.category(char) in _UNSEEN else char for char in text)


def count(value: int) -> str:
    """``1,884``."""
    return f"{value:,}"


def plural(number: int, one: str, many: str = "") -> str:
    """``1 node``, ``2 nodes``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(value: int) -> str:
    """``512 B``, ``572 KiB``, ``2.79 GiB``."""
    return f"{value} B" if value < 1024 else _scaled(float(value), 1024, _BINARY)


def large(value: int) -> str:
    """``9,999``, ``17.4 M``, ``2.10 G``."""
    return count(value) if value < 10_000 else _scaled(float(value), 1000, _DECIMAL)


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    step = 0
    while step < len(units) and (step == 0 or value >= base - 0.5):
        value /= base
        step += 1
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{digits}f} {units[step - 1]}"


def change(before: float, after: float) -> str:
    """``-40.3 %``; empty when nothing changed or there was nothing."""
    if not before or before == after:
        return ""
    return f"{100 * (after / before - 1):+.1f} %"


def seconds(value: float) -> str:
    """``0.02 s``, ``12.3 s``, ``2 min 5 s``; below 10 ms ``1.2 ms``."""
    if value >= 99.95:
        return f"{int(value + 0.5) // 60} min {int(value + 0.5) % 60} s"
    if value >= 0.00995:
        return f"{value:.1f} s" if value >= 9.995 else f"{value:.2f} s"
    return f"{1000 * value:.2g} ms" if value else "0 s"


def small(value: float) -> str:
    """A difference: ``0``, ``1.2e-07``, ``inf``, ``nan``."""
    return f"{value:.2g}" if math.isfinite(value) else str(value)


def decibels(value: float) -> str:
    """``138 dB``, ``exact``."""
    return "exact" if value == math.inf else f"{value:.0f} dB" if math.isfinite(value) else str(value)


def allowance(tolerance: Tolerance) -> str:
    """What a tolerance allows: ``5 % of the largest value``, ``no difference``."""
    if tolerance.sqnr_db is not None:
        return str(tolerance)
    parts = [
        f"{_percent(tolerance.scale)} of the largest value" if tolerance.scale else "",
        f"{_percent(tolerance.rtol)} of each value" if tolerance.rtol else "",
        f"{tolerance.atol:.2g}" if tolerance.atol else "",
        f"{tolerance.integers} in integers" if tolerance.integers else "",
    ]
    return " + ".join(part for part in parts if part) or "no difference"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.99 else f"{100 * share:.0f} %"
