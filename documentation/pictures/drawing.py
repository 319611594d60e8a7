"""Boxes, arrows and texts in an SVG file, in colours that follow light and dark mode."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

LINE_HEIGHT = 17  # pixels between two lines of a box
STYLE = """<style>
.picture-svg { --ink: #1c2530; --soft: #55606e; --line: #8391a0; --plain: #f1f4f6; --model: #d9efec;
  --data: #fbeccd; --alarm: #fbdedb; --mark: #0b7d70; }
@media (prefers-color-scheme: dark) { .picture-svg { --ink: #e8edf2; --soft: #a9b4c0; --line: #7c8997;
  --plain: #2b333c; --model: #17453f; --data: #4a3a17; --alarm: #55282a; --mark: #4cc2b3; } }
.picture-svg { font-family: system-ui, sans-serif; font-size: 13px; max-width: 100%; height: auto; }
.picture-svg text { fill: var(--ink); stroke: none; }
.picture-svg .soft { fill: var(--soft); font-size: 12px; }
.picture-svg .title { font-weight: 600; }
.picture-svg rect { stroke: var(--line); }
.picture-svg .plain { fill: var(--plain); }
.picture-svg .model { fill: var(--model); }
.picture-svg .data { fill: var(--data); }
.picture-svg .alarm { fill: var(--alarm); }
.picture-svg .bar { fill: var(--mark); stroke: none; }
.picture-svg path { stroke: var(--line); stroke-width: 1.4; fill: none; }
.picture-svg .head { fill: var(--line); stroke: none; }
.picture-svg .dashed { stroke-dasharray: 5 4; }
</style>
"""


class Box(NamedTuple):
    """A rectangle on the picture, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height


class Drawing:
    """A picture of a size in pixels. `description` is read aloud by screen readers."""

    def __init__(self, width: int, height: int, description: str) -> None:
        self.width, self.height, self.description = width, height, description
        self._parts: list[str] = []

    def box(self, box: Box, title: str, lines: Sequence[str] = (), kind: str = "plain") -> Box:
        """Draw a box with a title and further lines, centred. Returns the box.

        Args:
            kind: plain, model, data or alarm: its colour.
        """
        x, y, width, height = box
        self._parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>')
        first = y + height / 2 - LINE_HEIGHT * len(lines) / 2 + 4.5
        for number, line in enumerate((title, *lines)):
            style = "title" if number == 0 else "soft"
            self.text(x + width / 2, first + number * LINE_HEIGHT, line, style, "middle")
        return box

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        """Draw a line of text; `anchor` is start, middle or end."""
        attribute = f' class="{style}"' if style else ""
        self._parts.append(
            f'<text{attribute} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text, quote=False)}</text>'
        )

    def bar(self, box: Box, kind: str = "bar") -> None:
        """Draw a rectangle without text."""
        x, y, width, height = box
        self._parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """Draw a line through the points with a head at the last one."""
        (x1, y1), (x2, y2) = points[-2:]
        length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1e-9)
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        self.line(*points[:-1], (x2 - 6 * dx, y2 - 6 * dy), dashed=dashed)
        corners = [
            (x2, y2),
            (x2 - 8 * dx - 4 * dy, y2 - 8 * dy + 4 * dx),
            (x2 - 8 * dx + 4 * dy, y2 - 8 * dy - 4 * dx),
        ]
        path = " L".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        self._parts.append(f'<path class="head" d="M{path} Z"/>')

    def line(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """Draw a line through the points."""
        path = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<path{" class=" + chr(34) + "dashed" + chr(34) if dashed else ""} d="M{path}"/>')

    def svg(self) -> str:
        """The file's text."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="picture-svg" '
            f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'role="img" aria-label="{escape(self.description)}">\n'
        )
        return head + STYLE + "\n".join(self._parts) + "\n</svg>\n"
