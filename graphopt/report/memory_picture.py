"""A memory plan as a picture: time goes to the right, the arena upwards, and each tensor is a rectangle.

A tensor that is written over another one lies behind it in the same stripe. The darker line is what lives at each
moment; where it touches the top of the arena, nothing is wasted. SVG 1.1 with its own style, so any browser shows it,
light or dark, with the name of a tensor under the pointer. Only the largest ``MOST`` rectangles are drawn.
"""

from __future__ import annotations

from collections import Counter
from xml.sax.saxutils import escape

from graphopt.ir.arena import Block, live
from graphopt.ir.memory_plan import MemoryPlan, Place

from . import formats

MOST = 3000
_WIDTH, _HEIGHT = 1200, 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 24, 64, 92
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee9955")
_OTHER = "#9a9a9a"
_LIGHT = ("#ccbb44", "#66ccee", "#ee9955", _OTHER)
_STYLE = """
svg{background:#fff;color:#222;font:13px system-ui,sans-serif}
text{fill:currentColor}.t{font-size:17px;font-weight:600}.m{opacity:.72}.n{font-size:11px;pointer-events:none}
.b{stroke:#fff;stroke-width:.6}.b:hover{stroke:#000;stroke-width:1.6}.g{stroke:currentColor;opacity:.16}
.l{fill:none;stroke:currentColor;stroke-width:1.4}.a{stroke:currentColor;stroke-dasharray:5 4}
@media(prefers-color-scheme:dark){svg{background:#16181c;color:#e6e6e6}.b{stroke:#16181c}.b:hover{stroke:#fff}}
"""


def draw(plan: MemoryPlan, name: str) -> str:
    """The picture as SVG.

    Args:
        plan: the plan of a graph; what runs inside a node is one rectangle.
        name: what the plan is of.
    """
    picture = _Picture(plan)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>memory plan of {_text(name)}</title><style>{_STYLE}</style>",
        f'<text class="t" x="{_LEFT}" y="26">{_text(name)}</text>',
        f'<text class="m" x="{_LEFT}" y="46">arena {formats.size(plan.arena)} · at least {formats.size(plan.bound)} '
        f"in this order · without sharing {formats.size(plan.naive)}</text>",
    ]
    return "\n".join([*head, *picture.axes(), *picture.boxes(), *picture.level(), *picture.legend(), "</svg>", ""])


class _Picture:
    def __init__(self, plan: MemoryPlan) -> None:
        self._plan = plan
        self._steps = max(plan.nodes, 1)
        self._top = max(plan.arena, 1)
        weight = Counter[str]()
        for item in plan.places:
            weight[item.operator] += item.bytes * (item.last - item.first + 1)
        largest = [operator for operator, _ in weight.most_common(len(_COLOURS)) if operator]
        self._colour = dict(zip(largest, _COLOURS, strict=False))

    def _x(self, step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / self._steps

    def _y(self, offset: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * offset / self._top

    def axes(self) -> list[str]:
        """Bytes at the left, nodes below."""
        parts: list[str] = []
        for tick in range(5):
            size, y = self._plan.arena * tick // 4, self._y(self._plan.arena * tick / 4)
            parts.append(f'<line class="g" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{formats.size(size)}</text>')
        for step in dict.fromkeys(self._steps * tick // 5 for tick in range(6)):
            x, y = self._x(step), _HEIGHT - _BOTTOM + 18
            parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{step}</text>')
        parts.append(
            f'<text class="m" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - _BOTTOM + 38}" '
            'text-anchor="middle">nodes that have run</text>'
        )
        return parts

    def boxes(self) -> list[str]:
        """The tensors, and what runs inside nodes."""
        boxes = [
            (item.bytes, item.first, item.last, item.offset, item.operator, item.names[0], _said(item))
            for item in self._plan.places
            if item.bytes
        ]
        boxes += [
            (
                item.plan.arena,
                item.first,
                item.first,
                item.offset,
                "",
                "",
                f"inside {item.node}: graph {item.plan.graph}",
            )
            for item in self._plan.inner
            if item.plan.arena
        ]
        boxes.sort(key=lambda box: box[0] * (box[2] - box[1] + 1), reverse=True)
        parts: list[str] = []
        for size, first, last, offset, operator, name, said in boxes[:MOST]:
            x, y = self._x(first), self._y(offset + size)
            width, height = self._x(last + 1) - x, self._y(offset) - y
            parts.append(
                f'<rect class="b" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" '
                f'fill="{self._colour.get(operator, _OTHER)}"><title>{_text(said)}</title></rect>'
            )
            room = int(width / 6.4) - 1
            if height >= 15 and room >= 4:
                shown = name if len(name) <= room else "…" + name[1 - room :]
                ink = "#111" if self._colour.get(operator, _OTHER) in _LIGHT else "#fff"
                parts.append(
                    f'<text class="n" style="fill:{ink}" x="{x + 4:.1f}" y="{y + 12:.1f}">{_text(shown)}</text>'
                )
        if len(boxes) > MOST:
            parts.append(
                f'<text class="m" x="{_WIDTH - _RIGHT}" y="46" text-anchor="end">the largest {MOST} of them</text>'
            )
        return parts

    def level(self) -> list[str]:
        """What lives at each moment, and the top of the arena."""
        blocks = [Block(item.first, item.last, item.bytes) for item in self._plan.places]
        ends = {item.names[0]: item.last for item in self._plan.places}
        blocks += [  # at its own node a result and what it is written over are one
            Block(item.first, item.first, -item.bytes)
            for item in self._plan.places
            if item.over and ends.get(item.over) == item.first
        ]
        arenas = {item.first: 0 for item in self._plan.inner}
        for item in self._plan.inner:
            arenas[item.first] = max(arenas[item.first], item.plan.arena)
        blocks += [Block(step, step, size) for step, size in arenas.items()]
        points = [
            f"{self._x(step + edge):.2f},{self._y(size):.2f}"
            for step, size in enumerate(live(blocks))
            for edge in (0, 1)
        ]
        y = self._y(self._plan.arena)
        top = f'<line class="a" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        return [f'<polyline class="l" points="{" ".join(points)}"/>', top]

    def legend(self) -> list[str]:
        """Which colour is which operator."""
        parts: list[str] = []
        x, y = _LEFT, _HEIGHT - 26
        for operator, colour in [*self._colour.items(), ("others", _OTHER)]:
            parts.append(f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{colour}"/>')
            parts.append(f'<text x="{x + 17}" y="{y}">{_text(operator)}</text>')
            x += 34 + 8 * len(operator)
        parts.append(f'<line class="l" x1="{x}" x2="{x + 18}" y1="{y - 5}" y2="{y - 5}"/>')
        parts.append(f'<text x="{x + 24}" y="{y}">alive</text>')
        return parts


def _said(item: Place) -> str:
    over = f", written over {item.over}" if item.over else ""
    about = "about " if item.guessed else ""
    made = item.node or "given to the loop"
    names = ", ".join(item.names[:4])
    place = f"{about}{formats.size(item.bytes)} at {item.offset:,}"
    return f"{names}: {place}, made by {made}, nodes {item.first}-{item.last}{over}"


def _text(text: str) -> str:
    """Safe in XML, which also knows no control characters."""
    return escape("".join(char if char.isprintable() else "?" for char in text))
