"""The first screen of the evaluation page: the answer, key figures beside the best baseline, alarms."""

import math

from reporting.elements import Head, KeyFigure, notices, verdict
from reporting.evaluation import figures
from reporting.formatting import format_dates, format_interval, format_signed
from reporting.tables import Row, aggregate_seeds, format_metric, summarize_leaderboard

DIGITS = {"ndcg6": 4, "revenue6": 2}


def page_head(report: Row) -> Head:
    """Return the first screen of a report."""
    order = "value" if _best_baseline(report, "value", "all") else "purchase"
    row = _best_baseline(report, order, "all")
    status = "" if row is None else {"better": "good", "worse": "bad"}.get(_verdict(row), "")
    return Head(
        title=f"Evaluation: {report['system'].capitalize()} on the {report['split']} checkouts",
        answer=_answer(report, row),
        status=status,  # type: ignore[arg-type]
        notices=notices(alarms=page_alarms(report)),
        figures=_key_figures(report),
        source=_source(report),
    )


def page_alarms(report: Row) -> list[str]:
    """The alarms of the slates and of training, as texts."""
    alarms = [alarm["text"] for alarm in report.get("alarms", [])]
    return [*alarms, *((report["health"] or {}).get("alarms") or [])]


def _answer(report: Row, row: Row | None) -> str:
    name = report["system"].capitalize()
    if row is None:
        return f"{name} has no baseline to compare with on these checkouts."
    ours = _own_metric(report, row["order"], "all", row["metric"])
    digits = DIGITS[row["metric"]]
    values = f"{ours:,.{digits}f}", f"{ours - row['difference']:,.{digits}f}"
    if row["metric"] == "revenue6":
        levels = f"Users later spend {values[0]} per checkout on the six items of {name}, "
        levels += f"{values[1]} on those of {_quote(row['to'])}"
    else:
        levels = f"{name}'s NDCG@6 is {values[0]}, that of {_quote(row['to'])} is {values[1]}"
    interval = f"95% interval {format_interval(row['low'], row['high'], digits)}"
    if _verdict(row) == "not significant":
        return f"{levels}: no significant difference ({interval})."
    return f"{levels}: {name} is {_verdict(row)} by {abs(row['difference']):,.{digits}f} ({interval})."


def _quote(system: str) -> str:
    """Put the name of a counting baseline in quotation marks, because it is a description.

    Other names stay as they are.
    """
    return f"the baseline “{system}”" if " " in system else system


def _key_figures(report: Row) -> list[KeyFigure]:
    order, orders = report["objective"]["order"], {row["order"] for row in report["differences"]}
    compared = [
        ("value", "all", "Revenue@6 per checkout, in the shop's currency"),
        ("purchase", "all", "NDCG@6"),
        ("purchase", "discovery", "NDCG@6 of discovery (items never bought before)"),
    ]
    cards = [
        _compared_figure(report, *each)
        for each in compared
        if each[0] in orders and not math.isnan(_own_metric(report, *each[:2], "ndcg6"))
    ]
    if order not in orders:
        sorted_by = f"sorted by {figures.order_name(report, order)}"
        cards += [
            KeyFigure(f"NDCG@6, {sorted_by}", _own_text(report, order, "all", "ndcg6")),
            KeyFigure(f"Revenue@6, {sorted_by}", _own_text(report, order, "all", "revenue6")),
        ]
    return [*cards, *_recall_figure(report), *_calibration_figures(report)]


def _compared_figure(report: Row, order: str, part: str, name: str) -> KeyFigure:
    metric = "revenue6" if order == "value" else "ndcg6"
    name = f"{name}, sorted by {figures.order_name(report, order)}"
    value, row = _own_text(report, order, part, metric), _best_baseline(report, order, part)
    if row is None:
        return KeyFigure(name, value)
    digits = DIGITS[metric]
    baseline = _own_metric(report, order, part, metric) - row["difference"]
    interval = format_interval(row["low"], row["high"], digits)
    return KeyFigure(
        name,
        value,
        f"best baseline ({row['to']}): {baseline:,.{digits}f}",
        f"{format_signed(row['difference'], digits)} ({interval})",
        _verdict(row),
    )


def _recall_figure(report: Row) -> list[KeyFigure]:
    rows = {row["source"]: row for row in aggregate_seeds(report["recalls"], ("source",))}
    towers = rows.get("two towers alone")
    return [
        KeyFigure(
            "Recall@300 of all candidates, in the ranker's order",
            format_metric(rows["union"], "recall300"),
            f"two towers alone: {format_metric(towers, 'recall300')}" if towers else "",
        )
    ]


def _calibration_figures(report: Row) -> list[KeyFigure]:
    quality = {
        (row["system"], row["task"]): row
        for row in aggregate_seeds(report["task_metrics"], ("system", "task"))
    }
    cards = []
    for task in report["tasks"]:
        if task["kind"] != "binary":
            continue
        baselines = [
            f"{system}: {format_metric(row, 'ece')}"
            for (system, name), row in quality.items()
            if name == task["name"] and system != report["system"] and "ece" in row
        ]
        value = format_metric(quality[report["system"], task["name"]], "ece")
        label = f"Calibration error (ECE) of {figures.probability_label(task)}, lower is better"
        cards.append(KeyFigure(label, value, "; ".join(baselines)))
    return cards


def _best_baseline(report: Row, order: str, part: str) -> Row | None:
    """The row of the strongest baseline: system minus baseline is smallest for it."""
    rows = [row for row in report["differences"] if (row["order"], row["slice"]) == (order, part)]
    return min(rows, key=lambda row: row["difference"], default=None)


def _verdict(row: Row) -> str:
    return verdict(row["low"], row["high"])


def _own_row(report: Row, order: str, part: str) -> Row:
    return next(
        (
            row
            for row in summarize_leaderboard(report["leaderboard"])
            if (row["system"], row["order"], row["slice"]) == (report["system"], order, part)
        ),
        {},
    )


def _own_metric(report: Row, order: str, part: str, metric: str) -> float:
    value = _own_row(report, order, part).get(metric)
    return math.nan if value is None else value


def _own_text(report: Row, order: str, part: str, metric: str) -> str:
    return format_metric(_own_row(report, order, part), metric, DIGITS[metric])


def _source(report: Row) -> list[tuple[str, str]]:
    runs = ", ".join(f"{run['run']} (seed {run['seed']})" for run in report["runs"])
    return [
        ("Data", report["data"]),
        ("Checkouts", f"{report['checkouts']:,}, {format_dates(report['from'], report['to'])}"),
        ("Runs", runs),
        ("All numbers", "report.json and leaderboard.json in the page's folder"),
    ]
