"""Charts as inline SVG: pure functions of numbers, coloured by the classes of style.css."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup

from reporting import svg
from reporting.formatting import format_number
from reporting.svg import LETTER_WIDTH, Colour

MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM = 62, 14, 46  # for tick labels and axis names
HALF_WIDTH = 470  # of a chart in a pair
NARROW_WIDTH = 358  # of a chart on a phone
OUTSIDE_PENALTY = 1e4  # of a label outside the frame, in square pixels of overlap

LINE_HEIGHT = 15

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Axis(NamedTuple):
    """A scale with a name. `log` makes it logarithmic, for ratios and probabilities."""

    name: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False
    signed: bool = False  # tick labels have a plus sign

    def normalize(self, value: float) -> float:
        """Return the position of a value between low (0) and high (1)."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def tick_label(self, tick: float) -> str:
        return format_number(tick, sign=self.signed and tick != 0)


def linear_axis(name: str, values: Iterable[float], from_zero: bool = False, signed: bool = False) -> Axis:
    """Return an axis around all values with about five round ticks; `from_zero` makes it include 0."""
    values = list(values)
    low, high = (min(0.0, *values) if from_zero else min(values)), max(values)
    margin = 0.06 * (high - low or abs(high) or 1.0)
    low, high = (low if from_zero and low == 0 else low - margin), high + margin
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step)
    ticks = tuple(k * step for k in range(first, math.floor(high / step) + 1))
    return Axis(name, low, high, ticks, signed=signed)


def log_axis(name: str, values: Iterable[float]) -> Axis:
    """A logarithmic axis of probabilities: ticks at powers of ten, up to 1."""
    low = min([value for value in values if value > 0], default=0.1)
    bottom = math.floor(math.log10(low))
    return Axis(name, low * 0.8, 1.0, tuple(10.0**k for k in range(bottom, 1) if 10.0**k >= low * 0.8), True)


class Chart:
    """A frame with two axes, into which marks are drawn."""

    def __init__(self, x: Axis, y: Axis, width: int = 600, height: int = 360, right: int = 20) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height
        self.name_lines = wrap_text(x.name, width - MARGIN_LEFT)
        bottom = MARGIN_BOTTOM + LINE_HEIGHT * (len(self.name_lines) - 1)
        self.plot_size = width - MARGIN_LEFT - right, height - MARGIN_TOP - bottom
        self.elements: list[Markup] = []
        self.occupied_boxes: list[Box] = []  # of marks and labels
        self.label_boxes: list[Box] = []
        self._draw_axes()

    def x_pixel(self, value: float) -> float:
        return MARGIN_LEFT + self.x.normalize(value) * self.plot_size[0]

    def y_pixel(self, value: float) -> float:
        return MARGIN_TOP + (1 - self.y.normalize(value)) * self.plot_size[1]

    def line(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        """Draw a line through (x, y) values."""
        if not points:
            return
        pixels = [(self.x_pixel(x), self.y_pixel(y)) for x, y in points]
        self.elements.append(svg.path(f"line {colour}", f"M{svg.join_points(pixels)}"))
        for (x, y), (next_x, next_y) in pairwise(pixels):  # labels avoid lines too
            for step in range(20):
                left, top = x + (next_x - x) * step / 20, y + (next_y - y) * step / 20
                self.occupied_boxes.append((left - 1, top - 1, left + 1, top + 1))

    def reference_line(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw a dashed line between two (x, y) values."""
        pixels = [(self.x_pixel(x), self.y_pixel(y)) for x, y in (start, end)]
        self.elements.append(svg.path("reference", f"M{svg.join_points(pixels)}"))

    def band(self, points: Sequence[tuple[float, float, float]]) -> None:
        """Fill the area between the low and the high values of (x, low, high) points."""
        corners = [(x, high) for x, _, high in points] + [(x, low) for x, low, _ in reversed(points)]
        pixels = [(self.x_pixel(x), self.y_pixel(y)) for x, y in corners]
        self.elements.append(svg.path("band", f"M{svg.join_points(pixels)}Z"))

    def dot(self, x: float, y: float, colour: Colour, tip: str, radius: float = 4) -> None:
        """Draw a dot that shows `tip` under the pointer."""
        left, top = self.x_pixel(x), self.y_pixel(y)
        self.elements.append(svg.dot(left, top, colour, tip, radius))
        self.occupied_boxes.append((left - radius, top - radius, left + radius, top + radius))

    def label(self, x: float, y: float, text: str) -> None:
        """Write a label at (x, y), where it overlaps least and stays inside the frame.

        If there is no room, the label is left out: the tip of the dot has the same text.
        """
        left, top, width = self.x_pixel(x), self.y_pixel(y), LETTER_WIDTH * len(text)
        positions = [
            (left + dx if anchor == "start" else left - dx if anchor == "end" else left, top + dy, anchor)
            for distance in (0, 14, 28)
            for dx, dy, anchor in (
                (8, 4, "start"), (8, 4, "end"), (0, -9 - distance, "middle"), (0, 18 + distance, "middle"),
                (7, -6 - distance, "start"), (7, 15 + distance, "start"),
                (7, -6 - distance, "end"), (7, 15 + distance, "end"),
            )
        ]  # fmt: skip
        boxes = [_label_box(*position, width) for position in positions]
        best = min(range(len(boxes)), key=lambda k: (self._overlap_area(boxes[k]), k))
        if self._is_outside(boxes[best]) or any(_overlap(boxes[best], box) > 2 for box in self.label_boxes):
            return
        self.occupied_boxes.append(boxes[best])
        self.label_boxes.append(boxes[best])
        self.elements.append(svg.text(*positions[best][:2], text, "label", positions[best][2]))

    def end_labels(self, labels: Sequence[tuple[float, str]], gap: int = 14) -> None:
        """Write labels (y, text) right of the frame, each close to its y but `gap` apart from the next."""
        right = MARGIN_LEFT + self.plot_size[0]
        targets = [self.y_pixel(y) for y, _ in labels]
        order = sorted(range(len(labels)), key=targets.__getitem__)
        first_limit = MARGIN_TOP + self.plot_size[1] - gap * len(labels)
        # Each pushes down the labels below it, but leaves room for all of them.
        top = float(MARGIN_TOP)
        for position, row in enumerate(order):
            top = max(top, min(targets[row], first_limit + gap * (position + 1)))
            self.elements.append(svg.path("grid", f"M{right + 4} {targets[row]:.1f}L{right + 20} {top:.1f}"))
            self.elements.append(svg.text(right + 24, top + 4, labels[row][1], "label", "start"))
            top += gap

    def svg(self, name: str) -> Markup:
        """Return the chart; screen readers read `name`."""
        return svg.svg_element(self.width, self.height, name, self.elements)

    def _draw_axes(self) -> None:
        right, bottom = MARGIN_LEFT + self.plot_size[0], MARGIN_TOP + self.plot_size[1]
        ticks = [(self.x_pixel(tick), self.x.tick_label(tick)) for tick in self.x.ticks]
        self.elements += [svg.path("grid", f"M{left:.1f} {MARGIN_TOP}V{bottom}") for left, _ in ticks]
        self.elements += tick_labels(ticks, bottom + 17)
        for tick in self.y.ticks:
            top = self.y_pixel(tick)
            self.elements.append(svg.path("grid", f"M{MARGIN_LEFT} {top:.1f}H{right}"))
            self.elements.append(svg.text(MARGIN_LEFT - 8, top + 4, self.y.tick_label(tick), "tick", "end"))
        centre = MARGIN_LEFT + self.plot_size[0] / 2, MARGIN_TOP + self.plot_size[1] / 2
        middle = min(centre[0], self.width - LETTER_WIDTH / 2 * max(map(len, self.name_lines)))
        self.elements += axis_name(self.name_lines, middle, self.height - 8)
        upwards = {"transform": f"rotate(-90 14 {centre[1]:.1f})"}
        self.elements.append(svg.text(14, centre[1], self.y.name, "axis", "middle", upwards))

    def _overlap_area(self, box: Box) -> float:
        """Return the area that a label shares with marks and labels, plus a penalty outside the frame."""
        overlap = sum(_overlap(box, occupied) for occupied in self.occupied_boxes)
        return overlap + OUTSIDE_PENALTY * self._is_outside(box)

    def _is_outside(self, box: Box) -> bool:
        left, top, right, bottom = box
        return (
            left < MARGIN_LEFT
            or right > self.width - 2
            or top < MARGIN_TOP
            or bottom > MARGIN_TOP + self.plot_size[1]
        )


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _label_box(x: float, y: float, anchor: str, width: float) -> Box:
    left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
    return left, y - 10, left + width, y + 3


def wrap_text(text: str, width: float) -> list[str]:
    """Return the lines of a text that is at most `width` pixels wide."""
    return textwrap.wrap(text, max(1, int(width / LETTER_WIDTH))) or [""]


def axis_name(lines: Sequence[str], middle: float, bottom: float) -> list[Markup]:
    """Return the SVG text of an axis name whose lines end at `bottom`."""
    top = bottom - LINE_HEIGHT * (len(lines) - 1)
    return [svg.text(middle, top + LINE_HEIGHT * k, line, "axis", "middle") for k, line in enumerate(lines)]


def tick_labels(ticks: Sequence[tuple[float, str]], top: float) -> list[Markup]:
    """Return the labels of ticks (x, text); a label that would touch the previous label is left out."""
    labels, free = [], -math.inf
    for left, text in ticks:
        half = LETTER_WIDTH * len(text) / 2
        if left - half >= free:
            labels.append(svg.text(left, top, text, "tick", "middle"))
            free = left + half + 6
    return labels
