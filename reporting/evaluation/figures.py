"""The charts of the page, each from the rows of a report."""

from collections.abc import Sequence
from typing import Any

from reporting.charts import Axis, Chart, Interval, dot_plot, linear_axis, log_axis, stacked_bars
from reporting.tables import Row, aggregate_seeds, summarize_leaderboard

RATIO_AXIS = Axis(
    "predicted / observed (1 = right on average)", 0.5, 2.0, (0.5, 0.67, 0.8, 1, 1.25, 1.5, 2), True
)
HALF_WIDTH = 470  # of a chart that stands beside another
LABELLED_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 1.0)  # revenue weights that the frontier names


def frontier_chart(report: Row, zoom: bool) -> str:
    """Purchases against revenue: a curve per learned system, a point per baseline; `near` skips far ones."""
    lines = aggregate_seeds(report["frontier"], ("system", "revenue_weight"))
    systems = list(dict.fromkeys(line["system"] for line in lines))
    points = [
        line
        for line in summarize_leaderboard(report["leaderboard"])
        if line["slice"] == "all" and line["system"] not in systems and not is_ideal_ranking(line)
    ]
    if zoom:
        floor = {metric: 0.9 * min(line[metric] for line in lines) for metric in ("ndcg6", "revenue6")}
        points = [point for point in points if all(point[metric] > least for metric, least in floor.items())]
    chart = Chart(
        linear_axis("NDCG@6", [p["ndcg6"] for p in lines + points]),
        linear_axis("revenue@6, spent on the six per checkout", [p["revenue6"] for p in lines + points]),
        width=HALF_WIDTH,
        height=380,
    )
    for system in systems:
        css = "ours" if system == report["system"] else "rival"
        mine = [line for line in lines if line["system"] == system]
        chart.line([(line["ndcg6"], line["revenue6"]) for line in mine], css)
        for line in mine:
            tip = f"{system}, weight {line['revenue_weight']:g}: {_metrics_text(line)}"
            chart.dot(line["ndcg6"], line["revenue6"], css, tip, 3)
    for point in points:
        chart.dot(
            point["ndcg6"], point["revenue6"], "other", f"{baseline_label(point)}: {_metrics_text(point)}"
        )
    for line in lines:
        if zoom and line["system"] == report["system"] and line["revenue_weight"] in LABELLED_WEIGHTS:
            chart.label(line["ndcg6"], line["revenue6"], f"w = {line['revenue_weight']:g}", "ours")
    for point in points:
        chart.label(point["ndcg6"], point["revenue6"], baseline_label(point))
    return chart.svg("Revenue at six against NDCG at six of every system")


def differences_chart(rows: Sequence[Row], metric: str, name: str) -> str:
    """This system minus the others by slice, with 95 % intervals, in the units of one metric."""
    mine = [row for row in rows if row["metric"] == metric]
    axis = linear_axis(name, [row[key] for row in mine for key in ("low", "high")] + [0.0])
    groups = []
    for other in dict.fromkeys(row["to"] for row in mine):
        places = [
            (SLICE_LABELS[row["slice"]], [_difference_interval(row)])
            for row in mine
            if row["to"] == other
        ]  # fmt: skip
        groups.append((f"against {other}", places))
    return dot_plot(groups, axis, 0.0, name, width=HALF_WIDTH, left=110)


def _difference_interval(row: Row) -> Interval:
    css = "ours" if row["low"] > 0 else "rival" if row["high"] < 0 else "other"
    tip = f"{row['difference']:+.4f}, 95 % from {row['low']:+.4f} to {row['high']:+.4f}"
    return Interval(row["difference"], row["low"], row["high"], css, tip)


def reliability_diagram(curves: Sequence[Row], head: str) -> str:
    """Observed against predicted share of one head, both logarithmic: most predictions are near zero."""
    mine = [row for row in curves if row["head"] == head]
    # A bin without positives has no place on a logarithmic scale.
    points = {
        row["slice"]: [(p, o) for p, o in zip(row["predicted"], row["observed"], strict=True) if p > 0 < o]
        for row in mine
    }
    values = [value for line in points.values() for point in line for value in point]
    chart = Chart(
        log_axis(f"predicted p({head}), mean of a bin", values),
        log_axis(f"share that had a {head}", values),
        width=HALF_WIDTH,
        height=360,
    )
    low = max(chart.x.low, chart.y.low)
    chart.line([(low, low), (1.0, 1.0)], "other zero")
    for (name, line), css in zip(points.items(), ("other", "ours", "third"), strict=False):
        chart.line(line, css)
        for predicted, observed in line:
            chart.dot(
                predicted, observed, css, f"{name}: predicted {predicted:.4f}, observed {observed:.4f}", 3
            )
    return chart.svg(f"Reliability of the {head} head")


def calibration_ratio_chart(rows: Sequence[Row]) -> str:
    """Predicted over observed of click, purchase and value in every slice."""
    groups: dict[str, dict[str, list[Interval]]] = {}
    for row in rows:
        if row["ratio"] is None:
            continue
        css = {"click": "third", "purchase": "ours", "value": "rival"}[row["head"]]
        tip = f"{row['head']}: predicted {row['predicted']:.4g}, observed {row['observed']:.4g}"
        tip += f", {row['pairs']:,} candidates"
        dots = groups.setdefault(row["group"], {}).setdefault(row["slice"], [])
        dots.append(Interval(row["ratio"], row["ratio"], row["ratio"], css, tip))
    return dot_plot(
        [(name, list(some.items())) for name, some in groups.items()], RATIO_AXIS, 1.0, RATIO_AXIS.name
    )


def diversity_chart(report: Row, weight: float) -> str:
    """What caps and diversity cost in revenue (or purchases) for how many categories on the slate."""
    lines = [
        line
        for line in aggregate_seeds(report["slates"], ("revenue_weight", "category_cap", "diversity"))
        if line["revenue_weight"] == weight
    ]
    metric, name = ("revenue6", "revenue@6") if weight else ("ndcg6", "NDCG@6")
    chart = Chart(
        linear_axis("leaf categories on a slate of six, mean", [line["categories"] for line in lines]),
        linear_axis(name, [line[metric] for line in lines]),
        width=HALF_WIDTH,
        height=330,
    )
    plain = next(line for line in lines if line["category_cap"] is None and not line["diversity"])
    for css, mine in (
        ("ours", [plain] + [line for line in lines if line["category_cap"] is not None]),
        ("third", [plain] + [line for line in lines if line["diversity"]]),
    ):
        chart.line([(line["categories"], line[metric]) for line in mine], css)
        for line in mine:
            css_of = "other" if line is plain else css
            chart.dot(line["categories"], line[metric], css_of, policy_label(line))
    for line in lines:
        setting = line["diversity"] if line["category_cap"] is None else line["category_cap"]
        chart.label(line["categories"], line[metric], "no rule" if line is plain else f"{setting:g}")
    return chart.svg(f"{name} against the number of categories on a slate")


def gate_weights_chart(health: Row) -> str:
    """How each task divides its attention among the experts."""
    return stacked_bars(list(health["gates"].items()), "Share of each expert by task")


def gradient_cosine_chart(rows: Sequence[Row]) -> str:
    """Cosine of the tasks' gradients while training."""
    pairs = [key for key in rows[0] if key != "step"]
    values = [row[pair] for row in rows for pair in pairs if row.get(pair) is not None]
    chart = Chart(
        linear_axis("training step", [row["step"] for row in rows], from_zero=True),
        linear_axis("cosine of two tasks' gradients", [*values, 0.0]),
        height=280,
        right=150,
    )
    chart.line([(rows[0]["step"], 0.0), (rows[-1]["step"], 0.0)], "other zero")
    for pair, css in zip(pairs, ("ours", "rival", "third", "other", "other"), strict=False):
        line = [(row["step"], row[pair]) for row in rows if row.get(pair) is not None]
        chart.line(line, css)
        if line:
            chart.label(*line[-1], pair.replace("~", " – "))
    return chart.svg("Cosine of the tasks' gradients by training step")


SLICE_LABELS = {
    "all": "all checkouts",
    "discovery": "discovery",
    "cold_users": "cold users",
    "new_items": "new items",
}


def is_ideal_ranking(line: Row) -> bool:
    return line["system"].startswith("perfect order")


def system_label(report: Row, line: Row) -> str:
    """A system's name as people read it."""
    return line["system"].capitalize() if line["system"] == report["system"] else line["system"]


def order_label(report: Row, line: Row) -> str:
    """What a system's slates are sorted by: counts have only one order, models have two."""
    names = {"value": "expected value", "price": "count × price", "purchase": "–"}
    if line["system"] in {row["system"] for row in report["frontier"]}:
        names["purchase"] = "p(purchase)"
    return names[line["order"]]


def baseline_label(line: Row) -> str:
    """A baseline with its order where that is not the usual one."""
    return line["system"] + (" × price" if line["order"] == "price" else "")


def policy_label(line: Row) -> str:
    """`no rule`, `cap 2` or `diversity 0.1`."""
    if line["category_cap"] is not None:
        return f"cap {line['category_cap']:g}"
    return f"diversity {line['diversity']:g}" if line["diversity"] else "no rule"


def _metrics_text(line: dict[str, Any]) -> str:
    return f"NDCG@6 {line['ndcg6']:.4f}, revenue@6 {line['revenue6']:.2f}"
