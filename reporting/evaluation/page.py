"""The report as one HTML page that loads nothing else: sections, each under the question that it answers."""

from datetime import UTC, datetime
from html import escape

from reporting.evaluation import figures
from reporting.evaluation.heads import calibration_section
from reporting.evaluation.slates import diversity_section, examples_section
from reporting.evaluation.systems import (
    differences_section,
    frontier_section,
    leaderboard_section,
    recall_section,
)
from reporting.markup import document, figure, paragraph, section
from reporting.tables import Row, aggregate_seeds, summarize_leaderboard
from reporting.tables import format_metric as number

CLICK_LABEL_TEXTS = {
    "logged": "Clicks are those that the shop logged.",
    "leaf_category_proxy": "There are no click logs: “click” stands for having bought something of the "
    "item's leaf category within the horizon.",
}


def report_page(report: Row) -> str:
    """The whole page from `report.json` (evaluation/leaderboard.py); missing parts leave their sections "
    "out."""
    title = f"{report['system'].capitalize()} on the {report['split']} checkouts"
    sections = {
        "Leaderboard": leaderboard_section(report),
        "Differences": differences_section(report),
        "Purchases or revenue": frontier_section(report),
        "Variety": diversity_section(report),
        "Calibration": calibration_section(report),
        "Recall": recall_section(report),
        "Training": training_section(report) if report["health"] else "",
        "Slates": examples_section(report) if report["examples"] else "",
    }
    links = "".join(
        f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name, content in sections.items() if content
    )
    above = f"{_introduction(report)}{_metric_cards(report)}<nav>{links}</nav>"
    return document(title, above, *sections.values(), _provenance(report))


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _introduction(report: Row) -> str:
    seeds = len(report["runs"])
    first, last = (datetime.fromtimestamp(report[end], UTC).strftime("%-d %B %Y") for end in ("from", "to"))
    days = report["horizon"].removesuffix("d")
    horizon = "in the user's next order" if days == "next_order" else f"within {days} days after it"
    return paragraph(
        f"After each checkout six of {report['items']:,} items are shown. This page judges them on "
        f"{report['judged']:,} checkouts from {first} to {last} (of {report['checkouts']:,}; the others were "
        f"followed by no purchase) by what was bought {horizon}. {CLICK_LABEL_TEXTS[report['click']]}"
    ) + paragraph(
        f"Figures are means over {seeds} trained models (seeds), ± their standard deviation; curves and "
        "examples are those of the first."
        if seeds > 1
        else "Figures are of one trained model (one seed).",
        "soft",
    )  # fmt: skip


def _metric_cards(report: Row) -> str:
    rows = {(r["system"], r["order"], r["slice"]): r for r in summarize_leaderboard(report["leaderboard"])}
    ours = report["system"]
    heads = {
        row["head"]: row
        for row in aggregate_seeds(report["heads"], ("system", "head"))
        if row["system"] == ours
    }
    union = next(row for row in aggregate_seeds(report["recalls"], ("source",)) if row["source"] == "union")
    cards = [
        (number(rows[ours, "purchase", "all"], "ndcg6"), "NDCG@6 in the order of p(purchase)"),
        (number(rows[ours, "value", "all"], "revenue6", 2), "revenue@6 in the order of expected value"),
        (
            number(rows[ours, "purchase", "discovery"], "ndcg6"),
            "NDCG@6 of discovery (never bought before), in the order of p(purchase)",
        ),
        (number(union, "recall300"), "recall@300 of all candidates, in the ranker's order"),
        (number(heads["click"], "ece"), "calibration error (ECE) of p(click)"),
        (number(heads["purchase"], "ece"), "calibration error (ECE) of p(purchase)"),
    ]
    made = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in cards
    )
    return f'<div class="cards">{made}</div>'


def training_section(report: Row) -> str:
    """What training noted of itself: gates, gradients, alarms."""
    found = report["health"]
    alarms = found.get("alarms") or []
    parts = []
    if found.get("gates"):
        caption = (
            "Mean weight of each expert over the validation candidates; bars of one shade are one expert."
        )
        parts.append(
            figure(
                figures.gate_weights_chart(found),
                caption,
                "<h3>How much each task listens to each expert</h3>",
            )
        )
    if found.get("gradient_cosine"):
        caption = "Above 0 two tasks pull the shared layers the same way, below 0 against each other."
        chart = figures.gradient_cosine_chart(found["gradient_cosine"])
        parts.append(figure(chart, caption, "<h3>Do the tasks pull together?</h3>"))
    listed = "".join(f'<p class="alarm">{escape(alarm)}</p>' for alarm in alarms)
    finding = f"Alarms raised: {len(alarms)}." if alarms else "No alarm was raised."
    return section("training", "Was training healthy?", finding, listed, *parts)


def _provenance(report: Row) -> str:
    runs = ", ".join(f"{run['run']} (seed {run['seed']})" for run in report["runs"])
    return "<h2>Where this comes from</h2>" + paragraph(
        f"Data: {report['data']}; runs: {runs}. Made by python -m evaluation.leaderboard; report.json beside "
        "this page holds every figure, leaderboard.json the rows of the first tables.",
        "soft",
    )
