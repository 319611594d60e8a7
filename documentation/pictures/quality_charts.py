"""Charts of quality: purchases and revenue, calibration, the daily loop, drift."""

from collections.abc import Sequence

from documentation.pictures.chart_data import Row, read_data
from documentation.pictures.drawing import Box, Drawing
from documentation.pictures.plot import Axis, Plot, legend, linear_axis, note

FRAME_LEFT, FRAME_WIDTH = 56, 368
LABELS = {  # revenue weight → place of its label beside the point, anchor
    0.0: ((-10, 4.5), "end"),
    0.5: ((0, 24), "middle"),
    1.0: ((0, 24), "start"),
}
TASK_KINDS = {"click": "second", "purchase": "mark"}
POLICIES = (
    ("oracle", "line", "oracle"),
    ("revenue", "mark", "Sextet"),
    ("rule_policy", "third", "rules"),
    ("popularity", "second", "popularity"),
)


def draw_frontier() -> Drawing:
    """Draw revenue and NDCG by the weight of revenue."""
    data = read_data("frontier")
    curve = [row for row in data["rows"] if row["system"] == "Sextet"]
    baselines = [row for row in data["rows"] if row["system"] != "Sextet"]
    d = Drawing(
        352,
        "A higher revenue weight raises the revenue of a slate and lowers the number of purchases",
        "Purchases against revenue, by revenue_weight",
    )
    x = linear_axis([row["ndcg6"] for row in data["rows"]])
    y = linear_axis([row["revenue6"] for row in data["rows"]])
    frame = Box(FRAME_LEFT, 66, FRAME_WIDTH, 230)
    plot = Plot(d, frame, x, y, "NDCG@6: more purchases →", "revenue@6 per checkout")
    plot.line([(row["ndcg6"], row["revenue6"]) for row in curve], "mark")
    for row in curve:
        if row["weight"] in LABELS:
            plot.label(row["ndcg6"], row["revenue6"], f"weight {row['weight']:g}", *LABELS[row["weight"]])
    for row in baselines:
        d.dot(*plot.pixel(row["ndcg6"], row["revenue6"]), "second", 4)
        plot.label(row["ndcg6"], row["revenue6"], row["system"], (-9, 4.5), "end")
    note(d, data)
    return d


def draw_calibration() -> Drawing:
    """Draw observed rates by predicted probabilities, in bins of equal size."""
    data = read_data("calibration")
    rows = data["rows"]
    d = Drawing(
        388,
        "Predicted probabilities are close to the observed rates",
        "Calibration: predicted against observed",
    )
    values = [row[name] for row in rows for name in ("predicted", "observed") if row[name] > 0]
    ticks = [tick for tick in (0.0001, 0.001, 0.01, 0.1, 1) if min(values) * 0.8 <= tick]
    axis = Axis(min(values) * 0.8, 1, ticks, is_log=True)
    frame = Box(FRAME_LEFT, 92, FRAME_WIDTH, 240)
    plot = Plot(d, frame, axis, axis, "predicted probability", "observed rate")
    plot.line([(axis.low, axis.low), (1, 1)], "dashed", has_dots=False)
    for task, kind in TASK_KINDS.items():
        points = [(row["predicted"], row["observed"]) for row in rows if row["task"] == task]
        plot.line([point for point in points if min(point) > 0], kind)
    entries = [(kind, f"p({task})") for task, kind in TASK_KINDS.items()]
    legend(d, 48, [*entries, ("line", "perfect")], 330)
    note(d, data)
    return d


def draw_loop() -> Drawing:
    """Draw revenue per session by day, for Sextet and for other policies."""
    data = read_data("loop")
    rows = data["rows"]
    d = Drawing(
        392,
        "Revenue per session of Sextet lies between rules and oracle; shuffled labels are not published",
        "The daily loop in a simulated market",
    )
    top = max(row["oracle"] for row in rows)
    y = linear_axis([0, top], from_zero=True)
    plot = Plot(d, Box(FRAME_LEFT, 92, FRAME_WIDTH, 220), day_axis(rows), y, "day", "revenue per session")
    legend(d, 48, [(kind, name) for _, kind, name in POLICIES])
    for column, kind, _ in POLICIES:
        plot.line([(row["day"], row[column]) for row in rows], kind)
    for row in rows:
        if row["labels_shuffled"]:
            left = plot.marker(row["day"])
            d.text(left, 368, f"day {row['day']}: labels shuffled, {night(row)}", "soft", "middle")
    note(d, data)
    return d


def day_axis(rows: Sequence[Row]) -> Axis:
    """Return the axis of the days 1, 2, …, with a tick at day 1 and one per week."""
    ticks = [row["day"] for row in rows if row["day"] == 1 or row["day"] % 7 == 0]
    return Axis(0.5, len(rows) + 0.5, ticks)


def night(row: Row) -> str:
    """The decision of a night's retraining, in one or two words."""
    return "published" if row["decision"].startswith("published") else "not published"


def draw_drift() -> Drawing:
    """Draw the click rate by day, the band of rates that raise no alarm, and the alarms."""
    data = read_data("drift")
    rows = data["rows"]
    d = Drawing(
        368,
        "The click rate leaves its band on the day on which clicks fall; the band widens afterwards",
        "A monitored metric: the click rate by day",
    )
    ends = [row[name] for row in rows for name in ("low", "high", "value")]
    y = linear_axis(ends, percent=True)
    plot = Plot(d, Box(FRAME_LEFT, 92, FRAME_WIDTH, 220), day_axis(rows), y, "day", "click rate")
    legend(d, 48, (("mark", "no alarm"), ("second", "alarm"), ("band", "expected band")))
    plot.band([(row["day"], row["low"], row["high"]) for row in rows])
    plot.line([(row["day"], row["expected"]) for row in rows], "dashed", has_dots=False)
    for row in rows:
        d.dot(*plot.pixel(row["day"], row["value"]), "second" if row["alarm"] else "mark", 4.5)
    shifted = min(row["day"] for row in rows if row["shifted"])
    plot.marker(shifted - 0.5)
    d.text(430, plot.frame.y - 12, f"from day {shifted}: 20 % fewer clicks", "soft", "end")
    note(d, data)
    return d
