"""Charts of named rows: dots with intervals, and bars of shares."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from reporting import svg
from reporting.charts import LINE_HEIGHT, NARROW_WIDTH, Axis, axis_name, tick_labels, wrap_text
from reporting.svg import LETTER_WIDTH, Colour

DOT_ROW_HEIGHT, DOT_GROUP_HEIGHT, DOT_AXIS_HEIGHT = 19, 26, 44
STACKED_ROW_HEIGHT = 34  # a name above its dots
BOLD_FACTOR = 1.12  # width of a bold letter over a plain one
BAR_LEFT, BAR_ROW_HEIGHT = 110, 30


class Interval(NamedTuple):
    """A dot of a dot plot, and its interval.

    The interval is drawn if low < high. A dot with a NaN value is not drawn.
    """

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
    """Draw named rows of dots below a heading per group, with a dashed line at `reference`.

    On a narrow chart, the name of a row is above its dots.
    """
    stacked = width <= NARROW_WIDTH
    left, row_height = (14, STACKED_ROW_HEIGHT) if stacked else (left, DOT_ROW_HEIGHT)
    inner = width - left - 24
    headings = [wrap_text(heading, (width - 8) / BOLD_FACTOR) for heading, _ in groups]
    bottom = sum(map(_group_height, headings)) + row_height * sum(len(rows) for _, rows in groups)
    name_lines = wrap_text(axis.name, width - 8)
    height = bottom + DOT_AXIS_HEIGHT + LINE_HEIGHT * (len(name_lines) - 1)

    def x_pixel(value: float) -> float:
        return left + min(max(axis.normalize(value), 0.0), 1.0) * inner

    ticks = [(x_pixel(tick), axis.tick_label(tick)) for tick in axis.ticks]
    middle = min(left + inner / 2, width - LETTER_WIDTH / 2 * max(map(len, name_lines)))
    elements = [svg.path("grid", f"M{x:.1f} 4V{bottom}") for x, _ in ticks]
    elements += tick_labels(ticks, bottom + 17)
    elements.append(svg.path("reference", f"M{x_pixel(reference):.1f} 4V{bottom}"))
    elements += axis_name(name_lines, middle, height - 6)
    top = 4.0
    for lines, (_, rows) in zip(headings, groups, strict=True):
        elements += [
            svg.text(4, top + 17 + LINE_HEIGHT * k, line, "group", "start")
            for k, line in enumerate(lines)
            if line
        ]
        top += _group_height(lines)
        for label, dots in rows:
            if stacked:
                elements.append(svg.text(4, top + 12, label, "label", "start"))
            else:
                elements.append(svg.text(left - 10, top + row_height / 2 + 4, label, "tick", "end"))
            centre = top + row_height - DOT_ROW_HEIGHT / 2 - 1 if stacked else top + row_height / 2
            elements += _dots(dots, x_pixel, centre)
            top += row_height
    return svg.svg_element(width, height, name, elements)


def _dots(dots: Sequence[Interval], x_pixel: Callable[[float], float], top: float) -> Iterator[Markup]:
    """The dots of a row and their intervals."""
    for dot in dots:
        if math.isnan(dot.value):
            continue
        if dot.low < dot.high:
            ends = f"M{x_pixel(dot.low):.1f} {top:.1f}H{x_pixel(dot.high):.1f}"
            yield svg.path(f"line {dot.colour}", ends)
        yield svg.dot(x_pixel(dot.value), top, dot.colour, dot.tip, 4)


def _group_height(lines: Sequence[str]) -> int:
    return DOT_GROUP_HEIGHT + LINE_HEIGHT * (len(lines) - 1) if any(lines) else 0


def stacked_bars(
    rows: Sequence[tuple[str, Sequence[float]]], part: str, name: str, width: int = 600
) -> Markup:
    """Draw a bar per row, divided into the row's shares; the shade shows the position of a share.

    The tips name the shares `<part> 1`, `<part> 2`, ….
    """
    inner = width - BAR_LEFT - 16
    elements = []
    for k, (heading, shares) in enumerate(rows):
        top, left = k * BAR_ROW_HEIGHT + 4, float(BAR_LEFT)
        elements.append(svg.text(BAR_LEFT - 10, top + 16, heading, "tick", "end"))
        for position, share in enumerate(shares):
            length = share / (sum(shares) or 1.0) * inner
            attributes = {
                "class": "share", "style": f"--shade:{1 - 0.75 * position / max(1, len(shares)):.2f}",
                "x": left, "y": top, "width": max(0.0, length - 1.5), "height": BAR_ROW_HEIGHT - 8,
            }  # fmt: skip
            tip = svg.tag("title", {}, f"{heading}: {part} {position + 1} {share:.1%}")
            elements.append(svg.tag("rect", attributes, tip))
            if length > 34:
                elements.append(svg.text(left + length / 2, top + 15, f"{share:.0%}", "inside", "middle"))
            left += length
    return svg.svg_element(width, BAR_ROW_HEIGHT * len(rows) + 8, name, elements)
