"""Numbers as people read them: thousands separators, KiB and MiB, three digits, a real minus sign.

Between a number and its unit stands a no-break space.
"""

from __future__ import annotations

import math
import unicodedata
from datetime import datetime

SPACE = "\u00a0"

NOTHING = "–"
"""What a table shows for a number that nobody measured."""

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def count(value: int | None) -> str:
    """``1,884``."""
    return NOTHING if value is None else f"{value:,}".replace("-", "−")


def delta(before: int | None, after: int | None) -> str:
    """``−316``, ``+2``, ``0``."""
    if before is None or after is None:
        return NOTHING
    return "0" if before == after else f"{after - before:+,}".replace("-", "−")


def change(before: float | None, after: float | None) -> str:
    """The relative change, ``−56 %``; empty when there is nothing to compare with."""
    if before is None or after is None or not before:
        return ""
    percent = 100 * (after / before - 1)
    if percent == 0:
        return f"±0{SPACE}%"
    if abs(percent) < 0.05:
        return f"≈0{SPACE}%"
    if abs(percent) >= 900:
        return f"{after / before:,.0f}×"
    digits = 0 if abs(percent) >= 10 else 1
    shown = f"{percent:+.{digits}f}"
    if shown == "-100" and after:  # a little is left
        shown = f"{percent:+.2f}"
    return f"{shown}{SPACE}%".replace("-", "−")


def _three(value: float) -> str:
    """Three significant digits, more where the number is large."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def size(value: int | None) -> str:
    """``512 B``, ``572 KiB``, ``65.9 MiB``, ``2.79 GiB``."""
    if value is None:
        return NOTHING
    if value < 1024:
        return f"{value:,}{SPACE}B"
    number = float(value)
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1023.5:
            return f"{_three(number)}{SPACE}{unit}"
    return f"{_three(number / 1024)}{SPACE}TiB"


def large(value: int | None) -> str:
    """A count in words' length: ``17.4 M``, ``2.1 G``; below 10,000 as it is."""
    if value is None:
        return NOTHING
    if value < 10_000:
        return count(value)
    number = float(value)
    for unit in ("k", "M", "G"):
        number /= 1000
        if number < 999.5:
            return f"{_three(number)}{SPACE}{unit}"
    return f"{_three(number / 1000)}{SPACE}T"


def seconds(value: float | None) -> str:
    """``83 µs``, ``1.62 ms``, ``1.24 s``, ``2 min 5 s``."""
    if value is None:
        return NOTHING
    if value >= 99.5:
        return f"{int(value + 0.5) // 60:,}{SPACE}min{SPACE}{int(value + 0.5) % 60}{SPACE}s"
    if value >= 1:
        return f"{_three(value)}{SPACE}s"
    if value >= 1e-3:
        return f"{_three(value * 1e3)}{SPACE}ms"
    return f"0{SPACE}s" if value == 0 else f"{_three(value * 1e6)}{SPACE}µs"


def milliseconds(value: float | None) -> str:
    """Milliseconds as ``seconds`` writes them."""
    return NOTHING if value is None else seconds(value / 1e3)


def ratio(value: float | None) -> str:
    """``0.70×``."""
    return NOTHING if value is None else f"{_ratio(value)}×"


def interval(low: float | None, high: float | None) -> str:
    """``0.68–0.72``; empty without both ends."""
    return "" if low is None or high is None else f"{_ratio(low)}–{_ratio(high)}"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def small(value: float | None) -> str:
    """A difference: ``0``, ``1.2e-7``, ``0.031``, ``∞``, ``NaN``."""
    if value is None:
        return NOTHING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}".replace("-", "−")
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def decibels(value: float | None, exact: bool = False) -> str:
    """``42.1 dB``; ``exact`` for no noise at all."""
    if value is None:
        return "exact" if exact else NOTHING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "exact" if value > 0 else f"−∞{SPACE}dB"
    return f"{value:.1f}{SPACE}dB".replace("-", "−")


def moment(value: str) -> str:
    """``22 November 2026, 01:45 (UTC+02:00)`` from ISO 8601; other texts as they are."""
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return value
    zone = found.tzname() or ""
    return f"{found.day} {MONTHS[found.month - 1]} {found.year}, {found:%H:%M}" + (f" ({zone})" if zone else "")


def plural(number: int, one: str, many: str = "") -> str:
    """``1 node``, ``1,884 nodes``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def clean(value: str) -> str:
    """A stranger's text made fit for a page: no control characters, lone surrogates or changed direction."""
    if value.isascii() and value.isprintable():
        return value
    return "".join(char if char in "\n\t" or unicodedata.category(char) not in _UNSEEN else "�" for char in value)


_UNSEEN = frozenset(("Cc", "Cf", "Cs"))
