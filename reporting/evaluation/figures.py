"""The charts of the evaluation page, each from the rows of a report."""

from collections.abc import Sequence

from markupsafe import Markup

from reporting.charts import NARROW_WIDTH, Axis, Chart, linear_axis, log_axis
from reporting.dot_plot import Interval, dot_plot, stacked_bars
from reporting.formatting import format_interval, format_money, format_signed
from reporting.tables import SLATE_KEYS, Row, aggregate_seeds, summarize_leaderboard

RATIO_AXIS = Axis(
    "predicted / observed (1 = right on average)", 0.5, 2.0, (0.5, 0.67, 0.8, 1, 1.25, 1.5, 2), True
)
LABELLED_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 1.0)  # revenue weights that the frontier names
ZOOM_FLOOR = 0.9  # of the frontier's lowest point: the closer view leaves out baselines below
SLICE_LABELS = {
    "all": "all checkouts",
    "discovery": "discovery",
    "cold_users": "cold users",
    "new_items": "new items",
}
PURCHASE_COLOUR, SPEND_COLOUR = "blue", "orange"
TASK_COLOURS = ("green", "violet", "pink", "grey")  # of the further tasks, in their order
CURVE_COLOURS = ("grey", "blue", "green")  # all, bought before, never bought
PAIR_COLOURS = ("blue", "orange", "green", "grey", "grey")


def frontier_chart(report: Row, zoom: bool, width: int) -> Markup:
    """Draw revenue by NDCG: a curve per learned system, a dot per baseline."""
    curves = aggregate_seeds(report["frontier"], ("system", "revenue_weight"))
    systems = list(dict.fromkeys(point["system"] for point in curves))
    baselines = _frontier_baselines(report, curves, zoom)
    chart = Chart(
        linear_axis("NDCG@6", [point["ndcg6"] for point in curves + baselines]),
        linear_axis("revenue@6 per checkout", [point["revenue6"] for point in curves + baselines]),
        width=width,
        height=380,
    )
    for system in systems:
        colour = "blue" if system == report["system"] else "orange"
        curve = [point for point in curves if point["system"] == system]
        chart.line([(point["ndcg6"], point["revenue6"]) for point in curve], colour)
        for point in curve:
            tip = f"{system}, weight {point['revenue_weight']:g}: {_metrics_text(point)}"
            chart.dot(point["ndcg6"], point["revenue6"], colour, tip, 3)
    for point in baselines:
        tip = f"{baseline_label(point)}: {_metrics_text(point)}"
        chart.dot(point["ndcg6"], point["revenue6"], "grey", tip)
    for point in curves:
        if zoom and point["system"] == report["system"] and point["revenue_weight"] in LABELLED_WEIGHTS:
            chart.label(point["ndcg6"], point["revenue6"], f"w = {point['revenue_weight']:g}")
    for point in baselines:
        chart.label(point["ndcg6"], point["revenue6"], baseline_label(point))
    return chart.svg("Revenue at six against NDCG at six of every system")


def _frontier_baselines(report: Row, curves: Sequence[Row], zoom: bool) -> list[Row]:
    systems = {point["system"] for point in curves}
    baselines = [
        row
        for row in summarize_leaderboard(report["leaderboard"])
        if row["slice"] == "all" and row["system"] not in systems and not is_ideal_ranking(row)
    ]
    if not zoom:
        return baselines
    floors = {metric: ZOOM_FLOOR * min(point[metric] for point in curves) for metric in ("ndcg6", "revenue6")}
    return [row for row in baselines if all(row[metric] > floor for metric, floor in floors.items())]


def differences_chart(rows: Sequence[Row], metric: str, name: str, width: int) -> Markup:
    """Draw the differences to the baselines by slice in one metric, with 95 % intervals."""
    rows = [row for row in rows if row["metric"] == metric]
    axis = linear_axis(name, [row[end] for row in rows for end in ("low", "high")] + [0.0])
    groups = [
        (
            f"against {baseline}",
            [
                (SLICE_LABELS[row["slice"]], [_difference_interval(row)])
                for row in rows
                if row["to"] == baseline
            ],
        )
        for baseline in dict.fromkeys(row["to"] for row in rows)
    ]
    return dot_plot(groups, axis, 0.0, name, width=width, left=110)


def _difference_interval(row: Row) -> Interval:
    colour = "blue" if row["low"] > 0 else "orange" if row["high"] < 0 else "grey"
    tip = f"{format_signed(row['difference'], 4)}, 95% interval {format_interval(row['low'], row['high'], 4)}"
    return Interval(row["difference"], row["low"], row["high"], colour, tip)


def reliability_diagram(curves: Sequence[Row], task: Row, width: int) -> Markup:
    """Draw the observed share of a binary task by its predicted share.

    The axes are logarithmic, because most predictions are near 0.
    """
    # A bin without positives has no position on a logarithmic axis.
    points = {
        curve["slice"]: [
            (predicted, observed)
            for predicted, observed in zip(curve["predicted"], curve["observed"], strict=True)
            if predicted > 0 < observed
        ]
        for curve in curves
        if curve["task"] == task["name"]
    }
    values = [value for line in points.values() for point in line for value in point]
    chart = Chart(
        log_axis(f"predicted {probability_label(task)}, mean of a bin", values),
        log_axis(f"observed share with a {task['name']}", values),
        width=width,
        height=360,
    )
    low = max(chart.x.low, chart.y.low)
    chart.reference_line((low, low), (1.0, 1.0))
    for (name, line), colour in zip(points.items(), CURVE_COLOURS, strict=False):
        chart.line(line, colour)
        for predicted, observed in line:
            tip = f"{name}: predicted {predicted:.4f}, observed {observed:.4f}"
            chart.dot(predicted, observed, colour, tip, 3)
    return chart.svg(f"Reliability of {probability_label(task)}")


def calibration_ratio_chart(report: Row, width: int) -> Markup:
    """Draw predicted / observed of every task in every slice."""
    colours = task_colours(report)
    groups: dict[str, dict[str, list[Interval]]] = {}
    for row in report["calibration"]:
        if row["ratio"] is None:
            continue
        colour = colours[row["task"]]
        tip = f"{row['task']}: predicted {row['predicted']:.4g}, observed {row['observed']:.4g}"
        tip += f", {row['pairs']:,} candidates"
        dots = groups.setdefault(row["group"], {}).setdefault(slice_label(row), [])
        dots.append(Interval(row["ratio"], row["ratio"], row["ratio"], colour, tip))
    rows_by_group = [(name, list(slices.items())) for name, slices in groups.items()]
    return dot_plot(rows_by_group, RATIO_AXIS, 1.0, RATIO_AXIS.name, width)


def diversity_chart(report: Row, weight: float, width: int) -> Markup:
    """Draw revenue or NDCG by the number of categories on a slate, for category caps and diversity."""
    lines = [
        line
        for line in aggregate_seeds(report["slates"], SLATE_KEYS)
        if line["revenue_weight"] == weight and line["product_cap"] is None
    ]
    metric, name = slate_metric(report, weight)
    chart = Chart(
        linear_axis("leaf categories on a slate of six, mean", [line["categories"] for line in lines]),
        linear_axis(name, [line[metric] for line in lines]),
        width=width,
        height=330,
    )
    plain = next(filter(has_no_rule, lines))
    for colour, policies in (
        ("blue", [plain] + [line for line in lines if line["category_cap"] is not None]),
        ("green", [plain] + [line for line in lines if line["diversity"]]),
    ):
        chart.line([(line["categories"], line[metric]) for line in policies], colour)
        for line in policies:
            dot_colour = "grey" if line is plain else colour
            chart.dot(line["categories"], line[metric], dot_colour, policy_label(line))
    for line in lines:
        setting = line["diversity"] if line["category_cap"] is None else line["category_cap"]
        chart.label(line["categories"], line[metric], "no rule" if line is plain else f"{setting:g}")
    return chart.svg(f"{name} against the number of categories on a slate")


def gate_weights_chart(health: Row, width: int) -> Markup:
    """Draw the weight of every expert, by task."""
    return stacked_bars(list(health["gates"].items()), "expert", "Weight of each expert by task", width)


def gradient_cosine_chart(rows: Sequence[Row], width: int) -> Markup:
    """Draw the cosine between the gradients of each pair of tasks, by training step."""
    pairs = [key for key in rows[0] if key != "step"]
    values = [row[pair] for row in rows for pair in pairs if row.get(pair) is not None]
    chart = Chart(
        linear_axis("training step", [row["step"] for row in rows], from_zero=True),
        linear_axis("cosine of two tasks' gradients", [*values, 0.0]),
        width=width,
        height=280,
        right=150 if width > NARROW_WIDTH else 20,
    )
    chart.reference_line((rows[0]["step"], 0.0), (rows[-1]["step"], 0.0))
    for pair, colour in zip(pairs, PAIR_COLOURS, strict=False):
        line = [(row["step"], row[pair]) for row in rows if row.get(pair) is not None]
        chart.line(line, colour)
        if line:
            chart.label(*line[-1], pair.replace("~", " – "))
    return chart.svg("Cosine of the tasks' gradients by training step")


def is_ideal_ranking(row: Row) -> bool:
    return row["system"].startswith("perfect order")


def system_label(report: Row, row: Row) -> str:
    """Return a system's name; that of the trained system is capitalized."""
    return row["system"].capitalize() if row["system"] == report["system"] else row["system"]


def order_label(report: Row, row: Row) -> str:
    """The score that sorts a slate. Counting baselines have one order; models have several."""
    is_model = row["system"] in {metrics["system"] for metrics in report["task_metrics"]}
    return order_name(report, row["order"]) if is_model or row["order"] != "purchase" else "–"


def order_name(report: Row, order: str) -> str:
    """An order in words: `p(purchase)`, `expected value`, or the objective itself."""
    return {
        "value": "expected value",
        "price": "count × price",
        "purchase": f"p({report['purchase_task']})",
        "objective": report["objective"]["expression"],
    }[order]


def weight_label(report: Row, weight: float) -> str:
    """The name of the score that sorts slates at a revenue weight of 0 or 1."""
    order = report["objective"]["order"]
    if weight or order == "purchase":
        return order_name(report, order)
    return order_name(report, "purchase") if order == "value" else "the objective without amounts"


def slate_metric(report: Row, weight: float) -> tuple[str, str]:
    """Return the metric that slates maximize at this revenue weight, and its name on the page."""
    has_frontier = any(row["system"] == report["system"] for row in report["frontier"])
    return ("revenue6", "revenue@6") if weight and has_frontier else ("ndcg6", "NDCG@6")


def task_colours(report: Row) -> dict[str, str]:
    """Return task → colour, in the order of the tasks. The colours of purchase and spend are fixed."""
    further, colours = iter(TASK_COLOURS), {}
    for task in report["tasks"]:
        if task["name"] == report["purchase_task"]:
            colours[task["name"]] = PURCHASE_COLOUR
        elif task["label"] == "spend" and SPEND_COLOUR not in colours.values():
            colours[task["name"]] = SPEND_COLOUR
        else:
            colours[task["name"]] = next(further, TASK_COLOURS[-1])
    return colours


def is_conditional(task: Row) -> bool:
    """Whether the task is predicted and measured only if the parent's event happened."""
    return task["given"] is not None and not (task["kind"] == "binary" and task["joint"])


def probability_label(task: Row) -> str:
    """Return `p(click)`, or `p(return | purchase)` for a conditional task."""
    return f"p({task['name']} | {task['given']})" if is_conditional(task) else f"p({task['name']})"


def baseline_label(row: Row) -> str:
    """Return a baseline's name. An order by price is added to the name."""
    return row["system"] + (" × price" if row["order"] == "price" else "")


def has_no_rule(row: Row) -> bool:
    """Whether a row of `slates` describes slates without caps and diversity."""
    return row["product_cap"] is None and row["category_cap"] is None and not row["diversity"]


def policy_label(row: Row) -> str:
    """Return the policy's name: `no rule`, `product cap 1`, `cap 2` or `diversity 0.1`."""
    if row["product_cap"] is not None:
        return f"product cap {row['product_cap']:g}"
    if row["category_cap"] is not None:
        return f"cap {row['category_cap']:g}"
    return f"diversity {row['diversity']:g}" if row["diversity"] else "no rule"


def slice_label(row: Row) -> str:
    """The name of a slice, with prices in two digits after the point and sources in words."""
    if row["group"] == "price":
        return " – ".join(_price(part) for part in row["slice"].split(" – "))
    return row["slice"].replace("_", " ")


def _price(text: str) -> str:
    try:
        return format_money(float(text))
    except ValueError:
        return text


def _metrics_text(row: Row) -> str:
    return f"NDCG@6 {row['ndcg6']:.4f}, revenue@6 {format_money(row['revenue6'])}"
