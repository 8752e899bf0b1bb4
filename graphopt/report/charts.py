"""Small drawings as inline SVG.

Every drawing is as wide as its column: lengths across are percentages, heights and strokes are pixels, so
bars stretch and nothing else does. Colours come from classes of the style sheet, hence light, dark and print.
The drawings hold no words but axis labels: the numbers stand beside them as text, and the drawings are hidden
from screen readers.
"""

from __future__ import annotations

import math

from markupsafe import Markup

LEAST = 0.6
"""Per cent of the width that the shortest bar takes, so that 1 beside 10,000 is still seen."""


def pair(before: float | None, after: float | None, top: float) -> Markup:
    """Two bars, one over the other: what was and what is.

    What vanished is an outline, and what is new has a colour of its own.

    Args:
        before: the upper bar; None or 0 draws none.
        after: the lower bar likewise.
        top: the value that fills the width.
    """
    bars: list[str] = []
    if before:
        bars.append(_bar(before / top, 1, 7, "before" if after is None or after else "gone"))
    if after:
        bars.append(_bar(after / top, 10, 7, "after" if before is None or before else "new"))
    return _svg(18, *bars)


def ratio(value: float | None, low: float | None, high: float | None, top: float, *, reference: bool = False) -> Markup:
    """A bar from 0 to a ratio, its interval as a whisker, and the line at 1.

    Args:
        value: the ratio; None draws the line at 1 alone.
        low: the interval's lower end, or None.
        high: the interval's upper end, or None.
        top: the ratio that fills the width.
        reference: true for the candidate that the ratios are relative to.
    """
    parts: list[str] = []
    if value is not None:
        parts.append(_bar(min(value / top, 1), 4, 14, "before" if reference else "after"))
    parts.append(_upright(1 / top, 0, 22, "one"))
    if low is not None and high is not None and not reference:
        start, end = _percent(low / top), _percent(high / top)
        parts.append(f'<line class="whisker" x1="{start}" x2="{end}" y1="11" y2="11"/>')
        parts.append(_upright(low / top, 7, 15, "whisker"))
        parts.append(_upright(high / top, 7, 15, "whisker"))
    return _svg(22, *parts)


def ratio_axis(top: float) -> Markup:
    """The labels below ``ratio`` bars."""
    return _svg(16, _label(0, "0", "start"), _label(1 / top, "1.00× before", "middle" if top > 1.6 else "end"))


def level(value: float, top: float, ticks: tuple[float, ...], *, good: bool = True) -> Markup:
    """A bar from 0 to a level, with faint lines at the ticks."""
    parts = [_upright(tick / top, 0, 16, "tick") for tick in ticks]
    parts.append(_bar(max(0.0, min(value / top, 1)), 3, 10, "after" if good else "wrong"))
    return _svg(16, *parts)


def level_axis(top: float, ticks: tuple[float, ...], unit: str) -> Markup:
    """The labels below ``level`` bars."""
    labels = [_label(tick / top, f"{tick:g}", "middle") for tick in ticks[:-1]]
    labels += [_label(tick / top, f"{tick:g} {unit}", "middle") for tick in ticks[-1:]]
    return _svg(16, _label(0, "0", "start"), *labels)


def meter(share: float, falling: bool) -> Markup:
    """A thin bar beside a number: its share of the largest, drawn from the right."""
    if not share:
        return Markup("")
    width, kind = max(share, 0.04), "after" if falling else "gone"
    return _svg(
        5,
        f'<rect class="{kind}" x="{_percent(1 - width)}" width="{_percent(width)}" height="5" rx="1.5"/>',
    )


def ratio_top(values: list[float]) -> float:
    """The end of the axis that shows 1 and all values with some room, 1.15 at least."""
    return max(1.15, 1.05 * max(values, default=1.0))


def _bar(share: float, top: int, height: int, kind: str) -> str:
    width = max(100 * share, LEAST) if share > 0 else 0
    return f'<rect class="{kind}" x="0" y="{top}" width="{width:.2f}%" height="{height}" rx="2"/>'


def _upright(share: float, top: int, bottom: int, kind: str) -> str:
    x = _percent(share)
    return f'<line class="{kind}" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'


def _label(share: float, words: str, anchor: str) -> str:
    return f'<text x="{_percent(share)}" y="12" text-anchor="{anchor}">{words}</text>'


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%" if math.isfinite(share) else "0%"


def _svg(height: int, *parts: str) -> Markup:
    """Safe as it is: the parts are numbers and words of this file."""
    return Markup(f'<svg width="100%" height="{height}" aria-hidden="true" focusable="false">{"".join(parts)}</svg>')
