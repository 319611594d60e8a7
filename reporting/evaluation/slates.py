"""The two sections of the page about slates: what variety costs, and real examples."""

from collections.abc import Callable
from datetime import UTC, datetime
from html import escape

from reporting.evaluation import figures
from reporting.markup import Column, figure, legend, paragraph, section, table
from reporting.tables import Row, aggregate_seeds
from reporting.tables import format_metric as number

SELECTION_RULE = (
    "Chosen by a fixed rule: of the checkouts with one to eight paid lines that were followed by a purchase, "
    "in an order that only a hash of the order id decides, the first that fits each heading, each of another "
    "user. Slates are in the order of expected value. Prices are the items' usual ones at the time."
)


def diversity_section(report: Row) -> str:
    """What category caps and diversity cost."""
    lines = aggregate_seeds(report["slates"], ("revenue_weight", "category_cap", "diversity"))
    plain = {
        line["revenue_weight"]: line
        for line in lines
        if line["category_cap"] is None and not line["diversity"]
    }

    def change(metric: str) -> Callable[[Row], str]:
        def cell(line: Row) -> str:
            base = plain[line["revenue_weight"]][metric]
            return (
                "" if line is plain[line["revenue_weight"]] or not base else f"{line[metric] / base - 1:+.1%}"
            )

        return cell

    columns = [
        Column("order", lambda r: "expected value" if r["revenue_weight"] else "p(purchase)", numeric=False),
        Column("rule", figures.policy_label,
               "cap n: at most n items of a leaf category; diversity d: maximal marginal relevance", False),
        Column("NDCG@6", lambda r: number(r, "ndcg6")),
        Column("change", change("ndcg6")),
        Column("revenue@6", lambda r: number(r, "revenue6", 2)),
        Column("change", change("revenue6")),
        Column("categories", lambda r: number(r, "categories", 2),
               "different leaf categories among the six, mean"),
        Column("likeness", lambda r: number(r, "cosine", 3),
               "cosine of two items' vectors on a slate, mean; 1 is alike"),
    ]  # fmt: skip
    start = plain[1.0]
    one = next(line for line in lines if line["revenue_weight"] and line["category_cap"] == 1)
    charts = [
        figure(figures.diversity_chart(report, weight), "", f"<h3>In the order of {name}</h3>")
        for weight, name in ((1.0, "expected value"), (0.0, "p(purchase)"))
    ]
    return section(
        "variety",
        "What does variety cost?",
        f"Without a rule a slate by expected value holds {start['categories']:.2f} leaf categories; six "
        f"different ones cost {1 - one['revenue6'] / (start['revenue6'] or 1):.1%} of revenue@6.",
        paragraph(
            "Two rules can keep a slate from showing six of a kind: bundle.slate.category_cap and "
            "bundle.slate.diversity. Further right is more variety, further down is what it costs.",
            "soft",
        ),
        legend(
            ("other", "no rule"), ("ours", "category cap of 1, 2, 3"), ("third", "diversity of 0.02 to 0.3")
        ),
        f'<div class="pair">{"".join(charts)}</div>',
        table(columns, lines),
    )


def examples_section(report: Row) -> str:
    """Real checkouts, what would have been shown, and what was bought."""
    shown = [item for example in report["examples"] for item in example["shown"]]
    bought = sum(item["bought"] for item in shown)
    return section(
        "slates",
        "What do the slates look like?",
        f"{bought} of the {len(shown)} items below were bought within the horizon that followed.",
        paragraph(SELECTION_RULE, "soft"),
        *(_example(example) for example in report["examples"]),
    )


def _example(example: Row) -> str:
    when = datetime.fromtimestamp(example["ts"], UTC).strftime("%-d %B %Y, %H:%M UTC")
    paid = "; ".join(
        f"{line['quantity']:g} × {line['title']} ({line['price']:.2f})" for line in example["paid"]
    )
    columns = [
        Column("shown", lambda r: r["title"], numeric=False),
        Column("price", lambda r: f"{r['price']:.2f}" if r["price"] else "–"),
        Column("p(click)", lambda r: f"{r['click']:.3f}"),
        Column("p(purchase)", lambda r: f"{r['purchase']:.3f}"),
        Column("expected value", lambda r: f"{r['value']:.2f}"),
        Column("proposed by", lambda r: ", ".join(r["sources"]).replace("_", " "), numeric=False),
        Column("then", lambda r: f"bought for {r['spent']:.2f}" if r["bought"] else "", numeric=False),
    ]
    missed = [
        f"{line['title']} ({line['spent']:.2f}, "
        + (f"place {line['rank']})" if line["rank"] else "no candidate)")
        for line in example["missed"]
    ]
    more = f"; and {example['missed_more']} more" if example["missed_more"] else ""
    rest = f"Also bought, not shown: {'; '.join(missed)}{more}." if missed else "Nothing else was bought."
    count = example["earlier"]
    earlier = f"{count} earlier checkout{'s' * (count > 1)}" if count else "the first checkout"
    note = "What the user had bought before is kept off this slate." if example["fresh"] else ""
    return (
        f'<div class="example"><h3>{escape(example["kind"])}</h3>'
        + paragraph(f"User {example['user']}, {when}, {earlier}. {note}", "soft")
        + paragraph(f"Just paid: {paid}.")
        + table(columns, example["shown"], lambda r: "bought" if r["bought"] else "")
        + paragraph(rest, "soft")
        + "</div>"
    )
