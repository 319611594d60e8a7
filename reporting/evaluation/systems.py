"""The sections of the page about systems: leaderboard, differences, the frontier, recall."""

from collections.abc import Callable
from functools import partial
from html import escape
from operator import itemgetter

from reporting.evaluation import figures
from reporting.markup import Column, figure, legend, paragraph, section, table
from reporting.tables import Row, aggregate_seeds, summarize_leaderboard
from reporting.tables import format_metric as number

SLICE_TEXTS = {
    "all": ("All checkouts", "Every checkout after which something was bought; every purchase counts."),
    "discovery": (
        "Discovery: what the user never bought before",
        "Only items that are new to the user count, and those it had are kept off the slate.",
    ),
    "cold_users": ("Cold users", "Users with fewer than 5 earlier checkouts."),
    "new_items": ("New items", "Only items that were first sold in the 28 days before the checkout count."),
}


def leaderboard_section(report: Row) -> str:
    """A table per slice, the best first."""
    parts = []
    for part, (heading, meaning) in SLICE_TEXTS.items():
        lines = [line for line in summarize_leaderboard(report["leaderboard"]) if line["slice"] == part]
        if not lines or not lines[0]["checkouts"]:
            continue
        count = f"{meaning} {lines[0]['checkouts']:,} checkouts."
        parts.append(
            f"<h3>{escape(heading)}</h3>" + paragraph(count, "soft") + _leaderboard_table(report, lines, part)
        )
    return section("leaderboard", "Which system shows what is bought?", _leaderboard_finding(report), *parts)


def _leaderboard_finding(report: Row) -> str:
    lines = [
        r
        for r in summarize_leaderboard(report["leaderboard"])
        if r["slice"] == "all" and not figures.is_ideal_ranking(r)
    ]
    best = {metric: max(lines, key=lambda line: line[metric] or 0) for metric in ("ndcg6", "revenue6")}
    said = []
    for name, line in (("NDCG@6", best["ndcg6"]), ("revenue@6", best["revenue6"])):
        order = figures.order_label(report, line)
        by = "" if order == "–" else f" by {order}"
        said.append(f"he highest {name} is that of {figures.system_label(report, line)}{by}")
    return f"T{said[0]}, t{said[1]}."


def _leaderboard_table(report: Row, lines: list[Row], part: str) -> str:
    def share(metric: str) -> Callable[[Row], float | None]:
        top = max(line[metric] or 0 for line in lines if not figures.is_ideal_ranking(line))
        return lambda line: None if figures.is_ideal_ranking(line) else (line[metric] or 0) / (top or 1)

    explained = part == "all"
    columns = [
        Column("system", partial(figures.system_label, report), numeric=False),
        Column("order", partial(figures.order_label, report),
               "what the six are sorted by; expected value is p(purchase) × expected spend" * explained,
               numeric=False),
        Column("NDCG@6", lambda line: number(line, "ndcg6"),
               "1 if everything bought stands at the top of the six, 0 if none is shown" * explained,
               bar_share=share("ndcg6")),
        Column("hit@6", lambda line: number(line, "hit6", 3),
               "share of checkouts of which at least one of the six was bought" * explained),
        Column("precision@6", lambda line: number(line, "precision6", 3),
               "share of the six that was bought" * explained),
        Column("revenue@6", lambda line: number(line, "revenue6", 2),
               "spent on the six within the horizon, per checkout, in the shop's currency" * explained,
               bar_share=share("revenue6")),
    ]  # fmt: skip
    ordered = sorted(lines, key=lambda line: (figures.is_ideal_ranking(line), -(line["ndcg6"] or 0)))

    def css(line: Row) -> str:
        return (
            "ours"
            if line["system"] == report["system"]
            else "ceiling"
            if figures.is_ideal_ranking(line)
            else ""
        )

    return table(columns, ordered, css)


def differences_section(report: Row) -> str:
    """How far ahead of the strongest others, with intervals."""
    rows = report["differences"]
    said = []
    for row in rows:
        if row["slice"] == "all":
            verdict = "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "not told apart"
            metric, digits = ("NDCG@6", 4) if row["metric"] == "ndcg6" else ("revenue@6", 2)
            said.append(
                f"{metric} {row['difference']:+.{digits}f} against {row['to']}"
                f" ({row['low']:+.{digits}f} to {row['high']:+.{digits}f}: {verdict})"
            )
    charts = [
        figure(
            figures.differences_chart(rows, metric, f"this system minus the other: {name}"),
            "",
            f"<h3>{heading}</h3>",
        )
        for metric, name, heading in (
            ("ndcg6", "NDCG@6", "In the order of p(purchase)"),
            ("revenue6", "revenue@6", "In the order of expected value"),
        )
    ]
    return section(
        "differences",
        "Is it better by more than chance?",
        "; ".join(said) + ".",
        paragraph(
            "The same checkouts, one system minus the other. Lines are 95 % intervals of a bootstrap "
            "over users: where one crosses zero, these data cannot tell the two apart. The baseline "
            "without training is the best of its kind on this very metric.",
            "soft",
        ),
        legend(("ours", "better"), ("other", "not told apart"), ("rival", "worse")),
        f'<div class="pair">{"".join(charts)}</div>',
    )


def frontier_section(report: Row) -> str:
    """The trade between the two orders."""
    lines = [
        r
        for r in aggregate_seeds(report["frontier"], ("system", "revenue_weight"))
        if r["system"] == report["system"]
    ]
    most, least = lines[0], lines[-1]
    finding = (
        f"From most purchases (w = 0) to most revenue (w = 1): revenue@6 {most['revenue6']:.2f} → "
        f"{least['revenue6']:.2f}, NDCG@6 {most['ndcg6']:.4f} → {least['ndcg6']:.4f}."
    )
    colours = [("ours", report["system"].capitalize()), ("other", "baselines without training")]
    if any(row["system"] != report["system"] for row in report["frontier"]):
        colours.insert(1, ("rival", "LightGBM, same candidates"))
    return section(
        "purchases-or-revenue",
        "What does revenue cost in purchases?",
        finding,
        paragraph(
            "One trained model, ordered by p(purchase) × E[spend]^w. The setting is "
            "bundle.slate.revenue_weight; up and to the right is better.",
            "soft",
        ),
        legend(*colours),
        '<div class="pair">'
        + figure(figures.frontier_chart(report, zoom=False), header="<h3>All systems</h3>")
        + figure(figures.frontier_chart(report, zoom=True), header="<h3>The best of them, closer</h3>")
        + "</div>",
    )


def recall_section(report: Row) -> str:
    """Which source finds what is bought."""
    lines = aggregate_seeds(report["recalls"], ("source",))
    union = next(line for line in lines if line["source"] == "union")
    columns = [
        Column("source", lambda r: r["source"].replace("_", " "), numeric=False),
        Column("candidates", lambda r: number(r, "candidates", 0), "proposed per checkout, mean"),
        *(
            Column(f"recall@{k}", partial(number, name=f"recall{k}"), bar_share=itemgetter(f"recall{k}"))
            for k in (100, 300, 500)
        ),
        Column("recall", lambda r: number(r, "recall"), "of all that the source proposed",
               bar_share=itemgetter("recall")),
    ]  # fmt: skip
    return section(
        "recall",
        "Do the candidates hold what will be bought?",
        f"{union['recall']:.1%} of what was bought is among {union['candidates']:.0f} candidates per "
        "checkout.",
        paragraph(
            "Recall@k is the share of a checkout's purchases among the first k candidates of a source. "
            "The sources are in the order of the trained ranker, which is what a ranker with room for k "
            "would keep. “two towers alone” is exact search over the whole catalog in the order of the "
            "towers' own scores.",
            "soft",
        ),
        table(columns, lines),
    )
