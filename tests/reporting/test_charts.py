"""Charts put marks where the values are, and labels where they can be read."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reporting.charts import Axis, Chart, linear_axis, log_axis
from reporting.dot_plot import Interval, dot_plot, stacked_bars

VALUES = st.lists(st.floats(-1e6, 1e6).map(lambda v: round(v, 3)), min_size=1, max_size=20)


@given(VALUES)
def test_every_value_is_on_its_axis(values):
    axis = linear_axis("money", values)
    assert all(0 <= axis.normalize(value) <= 1 for value in values)
    assert 2 <= len(axis.ticks) <= 8
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)


@given(st.lists(st.floats(1e-6, 1.0), max_size=20))
def test_probabilities_are_on_a_logarithmic_axis(values):
    axis = log_axis("p", values)
    assert all(-1e-9 <= axis.normalize(value) <= 1 + 1e-9 for value in values)
    assert axis.normalize(axis.low * 10) - axis.normalize(axis.low) == pytest.approx(
        axis.normalize(1.0) - axis.normalize(0.1)
    )


def test_tick_labels_are_plain_numbers():
    axis = linear_axis("step", [0, 2_500_000], from_zero=True)
    assert [axis.tick_label(tick) for tick in axis.ticks[:3]] == ["0", "500,000", "1,000,000"]
    tenths = linear_axis("change", [-0.1, 0.3], signed=True)
    labels = [tenths.tick_label(tick) for tick in tenths.ticks]
    assert {"−0.1", "0", "+0.3"} <= set(labels)


def test_marks_are_where_the_values_are():
    chart = Chart(Axis("x", 0, 10, (0, 5, 10)), Axis("y", 0, 1, (0, 1)), width=182, height=160, right=20)
    assert chart.plot_size == (100, 100)
    chart.dot(5, 0.25, "blue", "tip <1>")
    assert '<circle class="blue" cx="112.0" cy="89.0" r="4"><title>tip &lt;1&gt;</title>' in chart.svg(
        "a chart"
    )


def test_labels_keep_apart():
    chart = Chart(Axis("x", 0, 1, ()), Axis("y", 0, 1, ()))
    for k in range(4):
        chart.dot(0.5 + 0.005 * k, 0.5, "grey", "")
        chart.label(0.5 + 0.005 * k, 0.5, f"system {k}")
    boxes = chart.occupied_boxes[1::2]
    for k, (left, top, right, bottom) in enumerate(boxes):
        for earlier in boxes[:k]:
            assert right <= earlier[0] or earlier[2] <= left or bottom <= earlier[1] or earlier[3] <= top


def test_intervals_and_shares():
    axis = Axis("difference", -1, 1, (-1, 0, 1))
    svg = dot_plot(
        [("against", [("all", [Interval(0.5, 0.25, 0.75, "blue", "+0.5")])])], axis, 0.0, "plot", 430, 190
    )
    inner, left = 430 - 190 - 24, 190
    low, high = (left + inner * share for share in (0.625, 0.875))
    assert f"M{low:.1f}" in svg
    assert f"H{high:.1f}" in svg
    bars = [
        float(w)
        for w in re.findall(r'width="([\d.]+)" height', stacked_bars([("a", [0.5, 0.5])], "expert", "gates"))
    ]
    assert bars[0] == pytest.approx(bars[1], abs=0.11)


def test_a_value_that_is_nan_has_no_dot():
    nan = float("nan")
    rows = [
        ("known", [Interval(0.5, 0.25, 0.75, "blue", "")]),
        ("unknown", [Interval(nan, nan, nan, "grey", "")]),
    ]
    svg = dot_plot([("", rows)], Axis("difference", -1, 1, (-1, 0, 1)), 0.0, "plot")
    assert svg.count("<circle") == 1
    assert "nan" not in svg


def test_text_is_escaped():
    chart = Chart(Axis("<x>", 0, 1, (0,)), Axis("y", 0, 1, ()))
    chart.dot(0, 0, "blue", "a < b")
    svg = chart.svg('a "chart"')
    assert "<x>" not in svg
    assert "&lt;x&gt;" in svg
    assert "a &lt; b" in svg
    assert 'aria-label="a &#34;chart&#34;"' in svg


def test_a_band_lies_between_low_and_high():
    chart = Chart(Axis("x", 0, 10, ()), Axis("y", 0, 1, ()), width=182, height=160, right=20)
    chart.band([(0, 0.25, 0.75), (10, 0.5, 1.0)])
    corners = "M62.0 39.0L162.0 14.0L162.0 64.0L62.0 89.0Z"  # high from left to right, low back
    assert f'<path class="band" d="{corners}"/>' in chart.svg("a chart")


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20))
def test_labels_at_the_end_are_in_order_and_inside(values):
    chart = Chart(Axis("x", 0, 1, ()), Axis("y", 0, 100, ()), height=360)
    chart.end_labels([(value, f"v{value}") for value in values])
    label = r'<text class="label" x="[\d.]+" y="([\d.]+)" text-anchor="start">v(\d+)<'
    matches = re.findall(label, chart.svg("a chart"))
    tops = [float(top) for top, _ in matches]
    assert [int(value) for _, value in matches] == sorted(values, reverse=True)
    assert all(below - above >= 13.8 for above, below in pairwise(tops))
    assert tops[0] > 0
    assert tops[-1] < 360
