"""Charts of measurements, from the data files in docs/results/data (documentation/pictures/chart_data.py)."""

from documentation.pictures.chart_data import read_data
from documentation.pictures.drawing import Box, Drawing
from documentation.pictures.plot import Axis, Plot, legend, note

DEADLINE_MS = 100
LONG_OFFSET = 40  # pixels down to a label, above which a line leads to it
FRAME_LEFT, FRAME_WIDTH = 52, 372
SYSTEMS = {  # colour, place of the label beside the last point, anchor
    "Sextet, 8-bit lists": ("mark", (-6, 22), "start"),
    "Sextet, 16-bit lists": ("mark", (-6, 44), "start"),
    "hnswlib": ("second", (10, 5), "start"),
    "usearch": ("third", (0, 30), "end"),
    "voyager": ("line", (0, 28), "end"),
}


def draw_latency() -> Drawing:
    """Draw latency over HTTP and the share of slates from the ranker, by load."""
    data = read_data("latency")
    rows = data["rows"]
    d = Drawing(
        482,
        "Latency stays under the deadline under overload, while fewer slates come from the ranker",
        "Latency under load",
    )
    ticks = [row["requests_per_second"] for row in rows]
    x = Axis(90, 2800, ticks, is_log=True)
    plot = Plot(d, Box(FRAME_LEFT, 74, FRAME_WIDTH, 170), x, Axis(0, 110, range(0, 101, 20)), "", "ms")
    for column, kind in (("p99_ms", "second"), ("p50_ms", "mark")):
        plot.line([(row["requests_per_second"], row[column]) for row in rows], kind)
    plot.line([(90, DEADLINE_MS), (2800, DEADLINE_MS)], "dashed", has_dots=False)
    plot.label(90, DEADLINE_MS, "deadline", (8, 18))
    legend(d, 44, (("mark", "p50"), ("second", "p99")), 160)
    shares = Axis(0, 1, (0, 0.5, 1), ("0 %", "50 %", "100 %"))
    below = Plot(d, Box(FRAME_LEFT, 310, FRAME_WIDTH, 110), x, shares, "requests per second", "ranked slates")
    for row in rows:
        left, top = below.pixel(row["requests_per_second"], row["ranked_share"])
        d.bar(Box(left - 12, top, 24, below.pixel(x.low, 0)[1] - top))
    note(d, data)
    return d


def draw_index_recall() -> Drawing:
    """Draw recall and time of the retrieval index and of other libraries."""
    data = read_data("index_recall")
    d = Drawing(
        346,
        "The retrieval index finds more neighbours in less time and memory than the other libraries",
        "Recall of 300 neighbours against time",
    )
    x = Axis(0.3, 3.0, (0.3, 0.5, 1, 2, 3), is_log=True)
    y = Axis(0.93, 1.003, (0.94, 0.96, 0.98, 1.0), ("0.94", "0.96", "0.98", "1.00"))
    plot = Plot(d, Box(FRAME_LEFT, 70, FRAME_WIDTH, 220), x, y, "ms per query (median)", "recall")
    for system in dict.fromkeys(row["system"] for row in data["rows"]):
        points = [row for row in data["rows"] if row["system"] == system]
        kind, offset, anchor = SYSTEMS[system]
        plot.line([(row["p50_ms"], row["recall"]) for row in points], kind)
        name = f"{system}: {points[-1]['bytes_per_vector']} bytes"
        if offset[1] > LONG_OFFSET:
            left, top = plot.pixel(points[-1]["p50_ms"], points[-1]["recall"])
            d.line((left, top + 6), (left, top + offset[1] - 14))
        plot.label(points[-1]["p50_ms"], points[-1]["recall"], name, offset, anchor)
    note(d, data)
    return d


def draw_deadline() -> Drawing:
    """Draw the stages of a median request one after the other, and their sum relative to the deadline."""
    data = read_data("deadline")
    total = sum(row["ms"] for row in data["rows"])
    d = Drawing(
        320,
        f"Stages of a request: {total:.2f} ms of the {DEADLINE_MS} ms that the deadline allows",
        f"A median request: {total:.2f} ms in its stages",
    )
    left, scale, y, elapsed = 112, 48.0, 40.0, 0.0  # scale: pixels of a millisecond
    for row in data["rows"]:
        d.text(left - 10, y + 14, row["stage"], anchor="end")
        d.bar(Box(left + elapsed * scale, y, max(row["ms"] * scale, 2), 18))
        d.text(left + (elapsed + row["ms"]) * scale + 8, y + 14, f"{row['ms']:g}", "soft")
        elapsed += row["ms"]
        y += 27
    d.line((left, y + 4), (left + 6 * scale, y + 4))
    for tick in range(7):
        d.line((left + tick * scale, y + 4), (left + tick * scale, y + 10))
        d.text(left + tick * scale, y + 26, str(tick), "soft", "middle")
    d.text(left - 10, y + 26, "ms", "soft", "end")
    y += 50
    width = 6 * scale
    d.text(left - 10, y + 16, "deadline", anchor="end")
    d.box(Box(left, y, width, 22), kind="plain")
    d.bar(Box(left, y, width * total / DEADLINE_MS, 22))
    d.text(left + width * total / DEADLINE_MS + 8, y + 16, "left for load and faults", "soft")
    d.text(left + width, y + 40, f"{DEADLINE_MS} ms", "soft", "end")
    d.height = int(y) + 66
    note(d, data)
    return d
