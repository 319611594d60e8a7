"""The sections of the page about slates: the cost of variety, and examples."""

from collections.abc import Callable
from functools import partial
from typing import Any

from reporting.charts import HALF_WIDTH
from reporting.elements import Column, Figure, Table
from reporting.evaluation import figures
from reporting.formatting import MISSING, format_money, format_number, format_signed_percent
from reporting.tables import SLATE_KEYS, Row, aggregate_seeds, format_metric


def diversity_section(report: Row) -> dict[str, Any]:
    """The section with metrics under category caps and diversity, compared with slates without a rule."""
    lines = aggregate_seeds(report["slates"], SLATE_KEYS)
    plain = {line["revenue_weight"]: line for line in lines if figures.has_no_rule(line)}
    start = plain[1.0]
    metric, name = figures.slate_metric(report, 1.0)

    def cost(cap: str) -> float:
        capped = next(line for line in lines if line["revenue_weight"] and line[cap] == 1)
        return 1 - capped[metric] / (start[metric] or 1)

    charts = [
        Figure(
            partial(figures.diversity_chart, report, weight),
            heading=f"Sorted by {figures.weight_label(report, weight)}",
            width=HALF_WIDTH,
        )
        for weight in sorted(plain, reverse=True)
    ]
    return {
        "finding": f"Without a rule, a slate by {figures.weight_label(report, 1.0)} has "
        f"{start['categories']:.2f} leaf categories and {start['products']:.2f} products. Six different"
        f" products cost {cost('product_cap'):.1%} of {name}, six different categories"
        f" {cost('category_cap'):.1%}.",
        "figures": charts,
        "table": _diversity_table(report, lines, plain),
    }


def _diversity_table(report: Row, lines: list[Row], plain: dict[float, Row]) -> Table:
    def change(metric: str) -> Callable[[Row], str]:
        def cell(line: Row) -> str:
            base = plain[line["revenue_weight"]]
            return (
                ""
                if line is base or not base[metric]
                else format_signed_percent(line[metric] / base[metric] - 1)
            )

        return cell

    columns = [
        Column("order", lambda row: figures.weight_label(report, row["revenue_weight"]), numeric=False),
        Column("rule", figures.policy_label,
               "product cap n: at most n items whose titles differ in the pack's size alone; cap n: at most n"
               " items of a leaf category; diversity d: maximal marginal relevance", False),
        Column("NDCG@6", partial(format_metric, name="ndcg6")),
        Column("change", change("ndcg6")),
        Column("revenue@6", partial(format_metric, name="revenue6", digits=2)),
        Column("change", change("revenue6")),
        Column("categories", partial(format_metric, name="categories", digits=2),
               "different leaf categories among the six, mean"),
        Column("products", partial(format_metric, name="products", digits=2),
               "different products among the six, mean"),
        Column("similarity", partial(format_metric, name="cosine", digits=3),
               "mean cosine of two items' vectors on a slate"),
    ]  # fmt: skip
    return Table(columns, lines)


def examples_section(report: Row) -> dict[str, Any]:
    """The section with real checkouts, their slates, and the items bought."""
    items = [item for example in report["examples"] for item in example["shown"]]
    bought = sum(item["bought"] for item in items)
    return {
        "finding": f"{bought} of the {len(items)} items below were bought within the horizon.",
        "examples": [_example(report, example) for example in report["examples"]],
    }


def _prediction_columns(report: Row) -> list[Column]:
    """Return the columns of predictions.

    There is one per binary task, one for the expected value, and one per other task except spend.
    """
    tasks = report["tasks"]
    binary = [task for task in tasks if task["kind"] == "binary"]
    further = [task for task in tasks if task["kind"] != "binary" and task["label"] != "spend"]
    has_value = any(item["value"] is not None for row in report["examples"] for item in row["shown"])
    return [
        *(
            Column(figures.probability_label(task), partial(_prediction, name=task["name"], digits=3))
            for task in binary
        ),
        *([Column("expected value", lambda row: format_money(row["value"]))] if has_value else []),
        *(Column(task["name"], partial(_prediction, name=task["name"], digits=2)) for task in further),
    ]


def _prediction(row: Row, name: str, digits: int) -> str:
    return f"{row['predictions'][name]:,.{digits}f}"


def _example(report: Row, example: Row) -> dict[str, Any]:
    columns = [
        Column("item", lambda row: row["title"], numeric=False),
        Column("price", lambda row: format_money(row["price"]) if row["price"] else MISSING),
        *_prediction_columns(report),
        Column("sources", lambda row: ", ".join(row["sources"]).replace("_", " "), numeric=False),
        Column("outcome", lambda row: f"bought for {format_money(row['spent'])}" if row["bought"] else "",
               numeric=False),
    ]  # fmt: skip
    missed = [
        f"{line['title']} ({format_money(line['spent'])}, "
        + (f"rank {line['rank']})" if line["rank"] else "no candidate)")
        for line in example["missed"]
    ]
    if example["missed_more"]:
        missed.append(f"and {example['missed_more']} more")
    count = example["earlier"]
    return {
        "kind": example["kind"],
        "user": example["user"],
        "timestamp": example["ts"],
        "earlier": f"{count} earlier checkout{'s' * (count > 1)}" if count else "the first checkout",
        "leaves_out_bought": example["fresh"],
        "paid": "; ".join(
            f"{format_number(line['quantity'])} × {line['title']} ({format_money(line['price'])})"
            for line in example["paid"]
        ),
        "table": Table(columns, example["shown"], lambda row: "good" if row["bought"] else ""),
        "missed": "; ".join(missed),
    }
