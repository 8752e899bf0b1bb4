"""Numbers and names as the terminal shows them: plain ASCII, so that pipes and any font can take them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

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


def three(value: float) -> str:
    """A time with three digits, zeros at the end among them: ``0.0700``, ``1.90``, ``36.2``, ``417``."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)) + 1e-9)
    return f"{value:,.{min(max(digits, 0), 6)}f}"


def profile_words(facts: Mapping[str, Any]) -> str:
    """Where a profile comes from (``graphopt.flows.decisions.profiles``), on one line."""
    place = "on this machine" if facts["origin"] == "local" else "shipped with graphopt"
    threads = plural(facts["threads"], "thread") if facts["threads"] else "all cores"
    parts = [facts["cpu"], threads, f"onnxruntime {facts['onnxruntime']}", facts["measured"]]
    return f"{place}: {', '.join(part for part in parts if part)} ({facts['path']}, sha256 {facts['sha256'][:12]})"
