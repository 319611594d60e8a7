"""Charts as inline SVG: pure functions of numbers, coloured by the classes of style.css."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup

from reporting.formatting import format_number

MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM = 62, 14, 46  # for tick labels and axis names
HALF_WIDTH = 470  # of a chart in a pair, or on a phone
LETTER_WIDTH = 6.3  # of a label, to keep labels apart
OUTSIDE_PENALTY = 1e4  # of a label outside the frame, in square pixels of overlap
DOT_ROW_HEIGHT, DOT_GROUP_HEIGHT, DOT_AXIS_HEIGHT = 19, 26, 44
BAR_LEFT, BAR_ROW_HEIGHT, BAR_WIDTH = 110, 30, 600

Box = tuple[float, float, float, float]  # left, top, right, bottom
Colour = str  # blue, orange, grey, green, violet or pink


class Axis(NamedTuple):
    """A scale with its name; `log` for ratios and probabilities."""

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
    """An axis around all values with about five round ticks; `from_zero` makes it include 0."""
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
        self.plot_size = width - MARGIN_LEFT - right, height - MARGIN_TOP - MARGIN_BOTTOM
        self.elements: list[Markup] = []
        self.occupied_boxes: list[Box] = []  # of marks and labels
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
        self.elements.append(_path(f"line {colour}", f"M{_join_points(pixels)}"))
        for (x, y), (next_x, next_y) in pairwise(pixels):  # labels avoid lines too
            for step in range(20):
                left, top = x + (next_x - x) * step / 20, y + (next_y - y) * step / 20
                self.occupied_boxes.append((left - 1, top - 1, left + 1, top + 1))

    def reference_line(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw a dashed line between two (x, y) values."""
        pixels = [(self.x_pixel(x), self.y_pixel(y)) for x, y in (start, end)]
        self.elements.append(_path("reference", f"M{_join_points(pixels)}"))

    def band(self, points: Sequence[tuple[float, float, float]]) -> None:
        """Fill the area between low and high of (x, low, high) values."""
        corners = [(x, high) for x, _, high in points] + [(x, low) for x, low, _ in reversed(points)]
        pixels = [(self.x_pixel(x), self.y_pixel(y)) for x, y in corners]
        self.elements.append(_path("band", f"M{_join_points(pixels)}Z"))

    def dot(self, x: float, y: float, colour: Colour, tip: str, radius: float = 4) -> None:
        """Draw a dot that shows `tip` under the pointer."""
        left, top = self.x_pixel(x), self.y_pixel(y)
        self.elements.append(_dot(left, top, colour, tip, radius))
        self.occupied_boxes.append((left - radius, top - radius, left + radius, top + radius))

    def label(self, x: float, y: float, text: str) -> None:
        """Write a label at (x, y), where it overlaps least and stays inside the frame."""
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
        self.occupied_boxes.append(boxes[best])
        self.elements.append(_text(*positions[best][:2], text, "label", positions[best][2]))

    def end_labels(self, labels: Sequence[tuple[float, str]], gap: int = 14) -> None:
        """Write labels (y, text) right of the frame, as close to y as `gap` between them allows."""
        right = MARGIN_LEFT + self.plot_size[0]
        targets = [self.y_pixel(y) for y, _ in labels]
        order = sorted(range(len(labels)), key=targets.__getitem__)
        first_limit = MARGIN_TOP + self.plot_size[1] - gap * len(labels)
        # Each pushes down the labels below it, but leaves room for all of them.
        top = float(MARGIN_TOP)
        for position, row in enumerate(order):
            top = max(top, min(targets[row], first_limit + gap * (position + 1)))
            self.elements.append(_path("grid", f"M{right + 4} {targets[row]:.1f}L{right + 20} {top:.1f}"))
            self.elements.append(_text(right + 24, top + 4, labels[row][1], "label", "start"))
            top += gap

    def svg(self, name: str) -> Markup:
        """Return the chart; screen readers read `name`."""
        return _svg(self.width, self.height, name, self.elements)

    def _draw_axes(self) -> None:
        right, bottom = MARGIN_LEFT + self.plot_size[0], MARGIN_TOP + self.plot_size[1]
        for tick in self.x.ticks:
            left = self.x_pixel(tick)
            self.elements.append(_path("grid", f"M{left:.1f} {MARGIN_TOP}V{bottom}"))
            self.elements.append(_text(left, bottom + 17, self.x.tick_label(tick), "tick", "middle"))
        for tick in self.y.ticks:
            top = self.y_pixel(tick)
            self.elements.append(_path("grid", f"M{MARGIN_LEFT} {top:.1f}H{right}"))
            self.elements.append(_text(MARGIN_LEFT - 8, top + 4, self.y.tick_label(tick), "tick", "end"))
        centre = MARGIN_LEFT + self.plot_size[0] / 2, MARGIN_TOP + self.plot_size[1] / 2
        self.elements.append(_text(centre[0], self.height - 8, self.x.name, "axis", "middle"))
        upwards = {"transform": f"rotate(-90 14 {centre[1]:.1f})"}
        self.elements.append(_text(14, centre[1], self.y.name, "axis", "middle", upwards))

    def _overlap_area(self, box: Box) -> float:
        """Area that a label shares with marks and labels, plus a penalty outside the frame."""
        left, top, right, bottom = box
        overlap = sum(
            max(0.0, min(right, r) - max(left, l)) * max(0.0, min(bottom, b) - max(top, t))
            for l, t, r, b in self.occupied_boxes  # noqa: E741
        )
        outside = (
            left < MARGIN_LEFT
            or right > self.width - 2
            or top < MARGIN_TOP
            or bottom > MARGIN_TOP + self.plot_size[1]
        )
        return overlap + OUTSIDE_PENALTY * outside


class Interval(NamedTuple):
    """A dot of a dot plot with its interval, if low < high; a NaN value is not drawn."""

    value: float
    low: float
    high: float
    colour: Colour
    tip: str


DotRow = tuple[str, Sequence[Interval]]  # name, dots


def dot_plot(
    groups: Sequence[tuple[str, Sequence[DotRow]]],
    axis: Axis,
    reference: float,
    name: str,
    width: int = 600,
    left: int = 190,
) -> Markup:
    """Named rows of dots below a heading per group, and a dashed line at `reference`."""
    inner = width - left - 24
    bottom = sum(_group_height(heading) + DOT_ROW_HEIGHT * len(rows) for heading, rows in groups)

    def x_pixel(value: float) -> float:
        return left + min(max(axis.normalize(value), 0.0), 1.0) * inner

    elements = [_path("grid", f"M{x_pixel(tick):.1f} 4V{bottom}") for tick in axis.ticks]
    elements += [
        _text(x_pixel(tick), bottom + 17, axis.tick_label(tick), "tick", "middle") for tick in axis.ticks
    ]
    elements.append(_path("reference", f"M{x_pixel(reference):.1f} 4V{bottom}"))
    elements.append(_text(left + inner / 2, bottom + DOT_AXIS_HEIGHT - 6, axis.name, "axis", "middle"))
    top = 4.0
    for heading, rows in groups:
        if heading:
            elements.append(_text(4, top + 17, heading, "group", "start"))
        top += _group_height(heading)
        for label, dots in rows:
            middle = top + DOT_ROW_HEIGHT / 2
            elements.append(_text(left - 10, middle + 4, label, "tick", "end"))
            for dot in dots:
                if math.isnan(dot.value):
                    continue
                if dot.low < dot.high:
                    ends = f"M{x_pixel(dot.low):.1f} {middle:.1f}H{x_pixel(dot.high):.1f}"
                    elements.append(_path(f"line {dot.colour}", ends))
                elements.append(_dot(x_pixel(dot.value), middle, dot.colour, dot.tip, 4))
            top += DOT_ROW_HEIGHT
    return _svg(width, bottom + DOT_AXIS_HEIGHT, name, elements)


def _group_height(heading: str) -> int:
    return DOT_GROUP_HEIGHT if heading else 0


def stacked_bars(rows: Sequence[tuple[str, Sequence[float]]], part: str, name: str) -> Markup:
    """A bar per row, divided into the row's shares; the shade of a share stands for its position.

    Tips call the shares `<part> 1`, `<part> 2`, ….
    """
    inner = BAR_WIDTH - BAR_LEFT - 16
    elements = []
    for k, (heading, shares) in enumerate(rows):
        top, left = k * BAR_ROW_HEIGHT + 4, float(BAR_LEFT)
        elements.append(_text(BAR_LEFT - 10, top + 16, heading, "tick", "end"))
        for position, share in enumerate(shares):
            width = share / (sum(shares) or 1.0) * inner
            attributes = {
                "class": "share", "style": f"--shade:{1 - 0.75 * position / max(1, len(shares)):.2f}",
                "x": left, "y": top, "width": max(0.0, width - 1.5), "height": BAR_ROW_HEIGHT - 8,
            }  # fmt: skip
            tip = _tag("title", {}, f"{heading}: {part} {position + 1} {share:.1%}")
            elements.append(_tag("rect", attributes, tip))
            if width > 34:
                elements.append(_text(left + width / 2, top + 15, f"{share:.0%}", "inside", "middle"))
            left += width
    return _svg(BAR_WIDTH, BAR_ROW_HEIGHT * len(rows) + 8, name, elements)


def _svg(width: int, height: int, name: str, elements: Iterable[Markup]) -> Markup:
    attributes = {
        "viewBox": f"0 0 {width} {height}", "style": f"--width:{width}px", "role": "img", "aria-label": name
    }  # fmt: skip
    return _tag("svg", attributes, Markup("").join(elements))


def _dot(x: float, y: float, colour: Colour, tip: str, radius: float) -> Markup:
    return _tag("circle", {"class": colour, "cx": x, "cy": y, "r": f"{radius:g}"}, _tag("title", {}, tip))


def _path(css_class: str, d: str) -> Markup:
    return _tag("path", {"class": css_class, "d": d})


def _text(
    x: float, y: float, text: str, css_class: str, anchor: str, attributes: Mapping[str, str] | None = None
) -> Markup:
    place = {"class": css_class, "x": float(x), "y": float(y), "text-anchor": anchor}
    return _tag("text", place | dict(attributes or {}), text)


def _tag(name: str, attributes: Mapping[str, object], content: str = "") -> Markup:
    """An element with escaped attributes and content; floats have one digit."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key, f"{value:.1f}" if isinstance(value, float) else value)
        for key, value in attributes.items()
    )
    if not content:
        return Markup("<{}{}/>").format(name, pairs)
    return Markup("<{0}{1}>{2}</{0}>").format(name, pairs, content)


def _join_points(pixels: Iterable[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in pixels)


def _label_box(x: float, y: float, anchor: str, width: float) -> Box:
    left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
    return left, y - 10, left + width, y + 3
