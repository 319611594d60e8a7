"""Boxes, arrows and texts in an SVG file, in colours for light and dark mode.

Every picture is 440 pixels wide, so that its text is readable on a phone of 390 pixels. A drawing records the
placed texts, boxes and lines: tests check that no text leaves its box, crosses a line or covers another text.
"""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from documentation.pictures.colours import DARK, LIGHT, variables
from documentation.pictures.text_width import text_width

WIDTH = 440  # of every picture
SHOWN_WIDTH = 540  # where there is room
LINE_HEIGHT = 17  # between two lines of a box
FONT_SIZE, SOFT_FONT_SIZE = 14, 13
ASCENT, DESCENT = 0.76, 0.22  # of a text above and below its base line, as shares of the font size
STYLE = f"""<style>
.picture-svg {{ {variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ .picture-svg {{ {variables(DARK)} }} }}
.picture-svg {{ font-family: system-ui, sans-serif; font-size: {FONT_SIZE}px; }}
.picture-svg {{ max-width: 100%; height: auto; }}
.picture-svg text {{ fill: var(--ink); stroke: none; }}
.picture-svg .soft, .picture-svg .label {{ fill: var(--soft); font-size: {SOFT_FONT_SIZE}px; }}
.picture-svg .label {{ paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }}
.picture-svg .title {{ font-weight: 600; }}
.picture-svg rect {{ stroke: var(--line); }}
.picture-svg .paper {{ fill: var(--paper); stroke: none; }}
.picture-svg .plain {{ fill: var(--plain); }}
.picture-svg .model {{ fill: var(--model); }}
.picture-svg .data {{ fill: var(--data); }}
.picture-svg .alarm {{ fill: var(--alarm); }}
.picture-svg .outline {{ fill: none; }}
.picture-svg .mark {{ fill: var(--mark); stroke: none; }}
.picture-svg .second {{ fill: var(--second); stroke: none; }}
.picture-svg .third {{ fill: var(--third); stroke: none; }}
.picture-svg .line {{ fill: var(--line); stroke: none; }}
.picture-svg .band {{ fill: var(--band); stroke: none; }}
.picture-svg path {{ stroke: var(--line); stroke-width: 1.4; fill: none; }}
.picture-svg path.head {{ fill: var(--line); stroke: none; }}
.picture-svg path.band {{ fill: var(--band); stroke: none; }}
.picture-svg path.grid {{ stroke: var(--grid); stroke-width: 1; }}
.picture-svg path.dashed {{ stroke-dasharray: 5 4; }}
.picture-svg path.mark {{ stroke: var(--mark); stroke-width: 2; fill: none; }}
.picture-svg path.second {{ stroke: var(--second); stroke-width: 2; fill: none; }}
.picture-svg path.third {{ stroke: var(--third); stroke-width: 2; fill: none; }}
</style>
"""
Point = tuple[float, float]


class Box(NamedTuple):
    """A rectangle on the picture, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> Point:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> Point:
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> Point:
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> Point:
        return self.x + self.width / 2, self.y + self.height


class PlacedText(NamedTuple):
    """A text and the largest area that it can take, in pixels."""

    text: str
    area: Box


class Drawing:
    """A picture of WIDTH × `height` pixels, with a title at its top.

    Screen readers read `description` aloud.

    Attributes:
        texts, boxes: the placed texts and boxes.
        segments: the parts of lines, which texts must not cross.
    """

    def __init__(self, height: int, description: str, title: str = "") -> None:
        self.height, self.description = height, description
        self.texts: list[PlacedText] = []
        self.boxes: list[Box] = []
        self.segments: list[tuple[Point, Point]] = []
        self._parts: list[str] = []
        if title:
            self.text(10, 22, title, "title")

    def box(self, box: Box, title: str = "", lines: Sequence[str] = (), kind: str = "plain") -> Box:
        """Draw a box with a title and further lines, all optional and centred. Returns the box.

        `kind` sets the box's colour: plain, model, data, alarm or outline.
        """
        x, y, width, height = box
        self.boxes.append(box)
        self._parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'
        )
        texts = [(title, "title")] * bool(title) + [(line, "soft") for line in lines]
        first = y + height / 2 - LINE_HEIGHT * (len(texts) - 1) / 2 + 4.5
        for number, (text, style) in enumerate(texts):
            self.text(x + width / 2, first + number * LINE_HEIGHT, text, style, "middle")
        return box

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        """Draw a line of text; `anchor` is start, middle or end.

        `style` is title, soft, label or empty. A label is soft, with room around the letters, over a grid.
        """
        attribute = f' class="{style}"' if style else ""
        self._parts.append(
            f'<text{attribute} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text, quote=False)}</text>'
        )
        size = SOFT_FONT_SIZE if style in ("soft", "label") else FONT_SIZE
        width = text_width(text, size, style == "title")
        left = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
        self.texts.append(PlacedText(text, Box(left, y - ASCENT * size, width, (ASCENT + DESCENT) * size)))

    def bar(self, box: Box, kind: str = "mark") -> None:
        """Draw a rectangle without text and without a frame, such as the bar of a chart."""
        x, y, width, height = box
        self.boxes.append(box)
        self._parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'
        )

    def dot(self, x: float, y: float, kind: str = "mark", radius: float = 3.5) -> None:
        """Draw a filled circle."""
        self.boxes.append(Box(x - radius, y - radius, 2 * radius, 2 * radius))
        self._parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>')

    def arrow(self, *points: Point, dashed: bool = False) -> None:
        """Draw a line through the points with a head at the last one."""
        (x1, y1), (x2, y2) = points[-2:]
        length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1e-9)
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        self.line(*points[:-1], (x2 - 6 * dx, y2 - 6 * dy), kind="dashed" if dashed else "")
        corners = [
            (x2, y2),
            (x2 - 8 * dx - 4 * dy, y2 - 8 * dy + 4 * dx),
            (x2 - 8 * dx + 4 * dy, y2 - 8 * dy - 4 * dx),
        ]
        self._path(corners, "head", closed=True)

    def line(self, *points: Point, kind: str = "") -> None:
        """Draw a line through the points; `kind` is dashed, mark, second, third or grid.

        Texts may cross a line of kind grid.
        """
        if "grid" not in kind:
            self.segments += pairwise(points)
        self._path(points, kind)

    def area(self, points: Sequence[Point], kind: str = "band") -> None:
        """Fill the area inside the points. Texts may lie on it."""
        self._path(points, kind, closed=True)

    def _path(self, points: Sequence[Point], kind: str, closed: bool = False) -> None:
        path = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        attribute = f' class="{kind}"' if kind else ""
        self._parts.append(f'<path{attribute} d="M{path}{" Z" if closed else ""}"/>')

    def svg(self) -> str:
        """The file's text."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="picture-svg" '
            f'viewBox="0 0 {WIDTH} {self.height}" width="{SHOWN_WIDTH}" '
            f'role="img" aria-label="{escape(self.description)}">\n'
        )
        paper = f'<rect class="paper" width="{WIDTH}" height="{self.height}" rx="8"/>\n'
        return head + STYLE + paper + "\n".join(self._parts) + "\n</svg>\n"
