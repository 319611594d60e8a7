"""Charts as inline SVG: pure functions of rows to text, coloured by the classes of style.py."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM = 62, 14, 46  # room for the tick labels and the axis' name
LETTER_WIDTH = 6.3  # width of a letter of a mark's label, to keep labels apart


class Axis(NamedTuple):
    """A scale with its name; `log` for ratios and probabilities."""

    name: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False
    tick_format: str = "g"

    def normalize(self, value: float) -> float:
        """Where a value lies between low (0) and high (1)."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(name: str, values: Iterable[float], tick_format: str = "g", from_zero: bool = False) -> Axis:
    """An axis around all values with about five round ticks; `zero` makes it start there."""
    known = list(values)
    low, high = (min(0.0, *known) if from_zero else min(known)), max(known)
    margin = 0.06 * (high - low or abs(high) or 1.0)
    low, high = (low if from_zero and low == 0 else low - margin), high + margin
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step)
    ticks = tuple(k * step for k in range(first, math.floor(high / step) + 1))
    return Axis(name, low, high, ticks, tick_format=tick_format)


def log_axis(name: str, values: Iterable[float]) -> Axis:
    """A logarithmic axis of probabilities: ticks at powers of ten, up to 1."""
    low = min([value for value in values if value > 0], default=0.1)
    bottom = math.floor(math.log10(low))
    return Axis(name, low * 0.8, 1.0, tuple(10.0**k for k in range(bottom, 1) if 10.0**k >= low * 0.8), True)


class Chart:
    """A frame with two axes, into which marks are drawn."""

    def __init__(self, x: Axis, y: Axis, width: int = 600, height: int = 360, right: int = 20) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height
        self.plot_size = width - MARGIN_LEFT - right, height - MARGIN_TOP - MARGIN_BOTTOM
        self.elements: list[str] = []
        self.occupied_boxes: list[
            tuple[float, float, float, float]
        ] = []  # of marks and labels: left, top, right, bottom
        right_end, floor = MARGIN_LEFT + self.plot_size[0], MARGIN_TOP + self.plot_size[1]
        for tick in x.ticks:
            at = self.x_pixel(tick)
            self.elements.append(f'<path class="grid" d="M{at:.1f} {MARGIN_TOP}V{floor}"/>')
            self.elements.append(_text_element(at, floor + 17, format(tick, x.tick_format), "tick", "middle"))
        for tick in y.ticks:
            at = self.y_pixel(tick)
            self.elements.append(f'<path class="grid" d="M{MARGIN_LEFT} {at:.1f}H{right_end}"/>')
            self.elements.append(
                _text_element(MARGIN_LEFT - 8, at + 4, format(tick, y.tick_format), "tick", "end")
            )
        self.elements.append(
            _text_element(MARGIN_LEFT + self.plot_size[0] / 2, height - 8, x.name, "axis", "middle")
        )
        middle = MARGIN_TOP + self.plot_size[1] / 2
        turned = f' transform="rotate(-90 14 {middle:.1f})"'
        self.elements.append(_text_element(14, middle, y.name, "axis", "middle", turned))

    def x_pixel(self, value: float) -> float:
        return MARGIN_LEFT + self.x.normalize(value) * self.plot_size[0]

    def y_pixel(self, value: float) -> float:
        return MARGIN_TOP + (1 - self.y.normalize(value)) * self.plot_size[1]

    def line(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """A line through (x, y) values."""
        if points:
            path = "L".join(f"{self.x_pixel(x):.1f} {self.y_pixel(y):.1f}" for x, y in points)
            self.elements.append(f'<path class="line {css}" d="M{path}"/>')
            for (x, y), (to_x, to_y) in pairwise(points):  # labels keep away from lines too
                for step in range(20):
                    at = self.x_pixel(x) + (self.x_pixel(to_x) - self.x_pixel(x)) * step / 20
                    top = self.y_pixel(y) + (self.y_pixel(to_y) - self.y_pixel(y)) * step / 20
                    self.occupied_boxes.append((at - 1, top - 1, at + 1, top + 1))

    def band(self, points: Sequence[tuple[float, float, float]]) -> None:
        """What lies between low and high, of (x, low, high) values."""
        corners = [(x, high) for x, _, high in points] + [(x, low) for x, low, _ in reversed(points)]
        path = "L".join(f"{self.x_pixel(x):.1f} {self.y_pixel(y):.1f}" for x, y in corners)
        self.elements.append(f'<path class="band" d="M{path}Z"/>')

    def dot(self, x: float, y: float, css: str, tip: str, radius: float = 4) -> None:
        """A dot that says `tip` under the pointer, and keeps labels away."""
        at, top = self.x_pixel(x), self.y_pixel(y)
        self.elements.append(
            f'<circle class="{css}" cx="{at:.1f}" cy="{top:.1f}" r="{radius:g}">'
            f"<title>{escape(tip)}</title></circle>"
        )
        self.occupied_boxes.append((at - radius, top - radius, at + radius, top + radius))

    def label(self, x: float, y: float, text: str, css: str = "") -> None:
        """A label beside (x, y): the first of eight places where it covers nothing and stays inside."""
        at, top, wide = self.x_pixel(x), self.y_pixel(y), LETTER_WIDTH * len(text)
        places = [
            (at + dx if anchor == "start" else at - dx if anchor == "end" else at, top + dy, anchor)
            for distance in (0, 14, 28)
            for dx, dy, anchor in (
                (8, 4, "start"), (8, 4, "end"), (0, -9 - distance, "middle"), (0, 18 + distance, "middle"),
                (7, -6 - distance, "start"), (7, 15 + distance, "start"),
                (7, -6 - distance, "end"), (7, 15 + distance, "end"),
            )
        ]  # fmt: skip
        boxes = [self._label_box(*place, wide) for place in places]
        best = min(range(len(places)), key=lambda k: (self._overlap_area(boxes[k]), k))
        self.occupied_boxes.append(boxes[best])
        self.elements.append(_text_element(*places[best][:2], text, f"label {css}", places[best][2]))

    def end_labels(self, labels: Sequence[tuple[float, str]], gap: int = 14) -> None:
        """Labels (y, text) right of the frame, where lines end: as near to y as `gap` between them lets."""
        right = MARGIN_LEFT + self.plot_size[0]
        tops = [self.y_pixel(y) for y, _ in labels]
        order = sorted(range(len(labels)), key=tops.__getitem__)
        room = MARGIN_TOP + self.plot_size[1] - gap * len(labels)
        # Each pushes down those below it, but never so far that the rest finds no room.
        at = float(MARGIN_TOP)
        for place, one in enumerate(order):
            at = max(at, min(tops[one], room + gap * (place + 1)))
            self.elements.append(
                f'<path class="grid" d="M{right + 4} {tops[one]:.1f}L{right + 20} {at:.1f}"/>'
            )
            self.elements.append(_text_element(right + 24, at + 4, labels[one][1], "label", "start"))
            at += gap

    def _label_box(self, x: float, y: float, anchor: str, wide: float) -> tuple[float, float, float, float]:
        left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
        return left, y - 10, left + wide, y + 3

    def _overlap_area(self, box: tuple[float, float, float, float]) -> float:
        """Area that a label would share with others, and a penalty outside the frame."""
        left, top, right, bottom = box
        shared = sum(
            max(0.0, min(right, r) - max(left, l)) * max(0.0, min(bottom, b) - max(top, t))
            for l, t, r, b in self.occupied_boxes  # noqa: E741
        )
        outside = (
            left < MARGIN_LEFT
            or right > self.width - 2
            or top < MARGIN_TOP
            or bottom > MARGIN_TOP + self.plot_size[1]
        )
        return shared + 1e4 * outside

    def svg(self, name: str) -> str:
        """The chart; `name` says to those who cannot see it what it shows."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" style="max-width:{self.width}px" role="img" '
            f'aria-label="{escape(name)}">' + "".join(self.elements) + "</svg>"
        )


class Interval(NamedTuple):
    """A dot of a dot plot: a value and, where low < high, its interval."""

    value: float
    low: float
    high: float
    css: str
    tip: str


DotRow = tuple[str, Sequence[Interval]]  # name, dots


def dot_plot(
    groups: Sequence[tuple[str, Sequence[DotRow]]],
    axis: Axis,
    reference: float,
    name: str,
    width: int = 600,
    left: int = 190,
) -> str:
    """Named rows of dots below a heading per group, and a line at `mark` (no difference, no bias)."""
    row = 19
    inner = width - left - 24
    height = sum(26 + row * len(rows) for _, rows in groups) + 44
    floor = height - 44

    def px(value: float) -> float:
        return left + min(max(axis.normalize(value), 0.0), 1.0) * inner

    parts = [f'<path class="grid" d="M{px(tick):.1f} 4V{floor}"/>' for tick in axis.ticks]
    parts += [
        _text_element(px(tick), floor + 17, format(tick, axis.tick_format), "tick", "middle")
        for tick in axis.ticks
    ]
    parts.append(f'<path class="zero" d="M{px(reference):.1f} 4V{floor}"/>')
    parts.append(_text_element(left + inner / 2, height - 6, axis.name, "axis", "middle"))
    top = 4.0
    for heading, rows in groups:
        parts.append(_text_element(4, top + 17, heading, "group", "start"))
        top += 26
        for label, dots in rows:
            middle = top + row / 2
            parts.append(_text_element(left - 10, middle + 4, label, "tick", "end"))
            for dot in dots:
                if dot.low < dot.high:
                    reach = f"M{px(dot.low):.1f} {middle:.1f}H{px(dot.high):.1f}"
                    parts.append(f'<path class="line {dot.css}" d="{reach}"/>')
                parts.append(
                    f'<circle class="{dot.css}" cx="{px(dot.value):.1f}" cy="{middle:.1f}" r="4">'
                    f"<title>{escape(dot.tip)}</title></circle>"
                )
            top += row
    return (
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="{escape(name)}">' + "".join(parts) + "</svg>"
    )


def stacked_bars(rows: Sequence[tuple[str, Sequence[float]]], name: str) -> str:
    """Bars of shares that add up to 1, one per row; shades stand for the parts in their order."""
    left, row, width = 110, 30, 600
    inner = width - left - 16
    parts = []
    for at, (heading, shares) in enumerate(rows):
        top, start = at * row + 4, float(left)
        parts.append(_text_element(left - 10, top + 16, heading, "tick", "end"))
        for place, share in enumerate(shares):
            wide = share / (sum(shares) or 1.0) * inner
            parts.append(
                f'<rect class="share" style="--shade:{1 - 0.75 * place / max(1, len(shares)):.2f}" '
                f'x="{start:.1f}" y="{top}" width="{max(0.0, wide - 1.5):.1f}" height="{row - 8}">'
                f"<title>{escape(heading)}: expert {place + 1} {share:.1%}</title></rect>"
            )
            if wide > 34:
                parts.append(_text_element(start + wide / 2, top + 15, f"{share:.0%}", "inside", "middle"))
            start += wide
    return (
        f'<svg viewBox="0 0 {width} {row * len(rows) + 8}" style="max-width:{width}px" role="img" '
        f'aria-label="{escape(name)}">' + "".join(parts) + "</svg>"
    )


def _text_element(x: float, y: float, text: str, css: str, anchor: str, more: str = "") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
