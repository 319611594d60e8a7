"""A plot with two axes inside a drawing."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from documentation.pictures.drawing import WIDTH, Box, Drawing, Point

Values = Sequence[tuple[float, float]]
NOTE_LINE, NOTE_LETTERS, NOTE_GAP = 17, 50, 6  # pixels between lines, letters of a line, pixels above


class Axis(NamedTuple):
    """The scale of an axis. `labels` replace the numbers of `ticks`."""

    low: float
    high: float
    ticks: Sequence[float]
    labels: Sequence[str] | None = None
    is_log: bool = False

    def share(self, value: float) -> float:
        """Return the position of a value between low (0) and high (1)."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def tick_labels(self) -> Sequence[str]:
        return self.labels or [f"{tick:,g}" for tick in self.ticks]


def linear_axis(values: Iterable[float], from_zero: bool = False, percent: bool = False) -> Axis:
    """An axis around all values with three to six round ticks."""
    values = list(values)
    low, high = min(values), max(values)
    margin = 0.08 * (high - low)
    low, high = (0.0 if from_zero else low - margin), high + margin
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    digits = max(0, -math.floor(math.log10(step)))
    ticks = [round(k * step, digits) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    form = f".{max(0, digits - 2)}%" if percent else f",.{digits}f"
    return Axis(low, high, ticks, [format(tick, form).replace("%", " %") for tick in ticks])


class Plot:
    """A plot's two axes, drawn in `frame`. The y axis has its name above, the x axis below."""

    def __init__(self, drawing: Drawing, frame: Box, x: Axis, y: Axis, x_name: str, y_name: str) -> None:
        self.drawing, self.frame, self.x, self.y = drawing, frame, x, y
        bottom = frame.y + frame.height
        for tick, label in zip(y.ticks, y.tick_labels(), strict=True):
            _, top = self.pixel(x.low, tick)
            drawing.line((frame.x, top), (frame.x + frame.width, top), kind="grid")
            drawing.text(frame.x - 6, top + 4.5, label, "soft", "end")
        for tick, label in zip(x.ticks, x.tick_labels(), strict=True):
            left, _ = self.pixel(tick, y.low)
            drawing.line((left, bottom), (left, bottom + 4))
            drawing.text(left, bottom + 18, label, "soft", "middle")
        drawing.line((frame.x, bottom), (frame.x + frame.width, bottom))
        drawing.text(10, frame.y - 12, y_name, "soft")
        if x_name:
            drawing.text(frame.x + frame.width, bottom + 36, x_name, "soft", "end")

    def pixel(self, x: float, y: float) -> Point:
        """The position of the point (x, y) on the picture, in pixels."""
        frame = self.frame
        return frame.x + self.x.share(x) * frame.width, frame.y + (1 - self.y.share(y)) * frame.height

    def line(self, values: Values, kind: str, has_dots: bool = True) -> None:
        """Draw a line through the values; `kind` is a colour, or a colour and `dashed`."""
        points = [self.pixel(*value) for value in values]
        self.drawing.line(*points, kind=kind)
        for point in points if has_dots else ():
            self.drawing.dot(*point, kind.split()[0])

    def marker(self, x: float) -> float:
        """Draw a dashed vertical line at the value `x`; return its pixel."""
        left, bottom = self.pixel(x, self.y.low)
        self.drawing.line((left, self.frame.y), (left, bottom), kind="grid dashed")
        return left

    def band(self, values: Sequence[tuple[float, float, float]]) -> None:
        """Fill the area between the low and the high values of (x, low, high) points."""
        upper = [self.pixel(x, high) for x, _, high in values]
        self.drawing.area(upper + [self.pixel(x, low) for x, low, _ in reversed(values)])

    def label(self, x: float, y: float, text: str, offset: Point = (8.0, 4.5), anchor: str = "start") -> None:
        """Write a text beside a value."""
        left, top = self.pixel(x, y)
        self.drawing.text(left + offset[0], top + offset[1], text, "label", anchor)


def legend(drawing: Drawing, y: float, entries: Sequence[tuple[str, str]], width: float = WIDTH - 20) -> None:
    """Write (colour, name) entries in a row, each with a dot in its colour."""
    step = width / len(entries)
    for number, (kind, name) in enumerate(entries):
        drawing.dot(16 + step * number, y - 4.5, kind, 5)
        drawing.text(28 + step * number, y, name, "soft")


def note(drawing: Drawing, data: dict[str, Any]) -> None:
    """Write below the drawing how the figures were made; the drawing grows by these lines."""
    drawing.height += NOTE_GAP
    origin = f"Commit {data['commit']}; {data['machine']}; {data['size']}".rstrip("; ")
    for text in (data["command"], origin):
        for line in textwrap.wrap(text, NOTE_LETTERS, break_on_hyphens=False, break_long_words=False):
            drawing.text(10, drawing.height, line, "soft")
            drawing.height += NOTE_LINE
