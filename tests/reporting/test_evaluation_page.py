"""The evaluation page of a small report."""

import re
from html.parser import HTMLParser

from reporting.evaluation.page import report_page


def row(system="sextet", order="value", part="all", seed=0, ndcg6=0.5, revenue6=20.0):
    return {
        "system": system, "order": order, "slice": part, "seed": seed, "ndcg6": ndcg6, "hit6": 0.8,
        "precision6": 0.4, "revenue6": revenue6, "filled": 1.0, "checkouts": 6149,
    }  # fmt: skip


SLICES = ("all", "discovery", "cold_users", "new_items")
ITEM = {
    "title": "Bread <b>", "price": 2.5, "predictions": {"click": 0.5, "purchase": 0.25, "value": 3.0},
    "value": 0.75, "sources": ["ann"], "bought": True, "spent": 3.0,
}  # fmt: skip
TASKS = [
    {"name": "click", "kind": "binary", "label": "click", "given": None, "joint": True},
    {"name": "purchase", "kind": "binary", "label": "purchase", "given": "click", "joint": True},
    {"name": "value", "kind": "amount", "label": "spend", "given": "purchase", "joint": True},
]
BINS = {"predicted": [0.01, 0.1, 0.5], "observed": [0.02, 0.1, 0.4], "pairs": [10, 10, 10]}


def make_report(seeds=(0,)):
    """A small report as evaluation/leaderboard.py writes it."""

    def curve(system, seed):
        return [
            {"system": system, "seed": seed, "revenue_weight": w / 10, "ndcg6": 0.5 - w / 100,
             "revenue6": 20 + w}
            for w in range(11)
        ]  # fmt: skip

    orders = [("sextet", "purchase"), ("sextet", "value"), ("LightGBM", "purchase")]
    orders += [("own & decayed", "purchase"), ("perfect order of these candidates", "purchase")]
    policies = [(None, None, 0.0), (1, None, 0.0), (None, 1, 0.0), (None, None, 0.2)]
    return {
        "split": "test", "data": "tables", "click": "logged", "horizon": "14d", "from": 1.6e9, "to": 1.61e9,
        "checkouts": 100, "judged": 90, "items": 1000, "system": "sextet",
        "runs": [{"run": f"ranker-{s}", "seed": s} for s in seeds],
        "leaderboard": [row(s, o, p, k, 0.4 + k / 10) for k in seeds for s, o in orders for p in SLICES],
        "tasks": TASKS, "purchase_task": "purchase",
        "objective": {"expression": "purchase * value", "order": "value"},
        "task_metrics": [
            {"system": "sextet", "seed": k, "task": t, "kind": "binary", "pairs": 100, "positives": 7,
             "auc": 0.8, "ece": 0.004 + k / 1000, "log_loss": 0.1,
             "predicted_over_observed": 1.0}
            for k in seeds for t in ("click", "purchase")
        ],
        "recalls": [
            {"seed": k, "source": s, "candidates": 90.0, "recall100": 0.3, "recall300": 0.4,
             "recall500": 0.4, "recall": 0.41}
            for k in seeds for s in ("ann", "union")
        ],
        "frontier": [line for k in seeds for s in ("sextet", "LightGBM") for line in curve(s, k)],
        "slates": [
            {"seed": k, "system": "sextet", "revenue_weight": w, "product_cap": p, "category_cap": c,
             "diversity": d, "ndcg6": 0.4, "revenue6": 20.0 - d, "categories": 5.0 + d, "products": 5.5,
             "cosine": 0.4}
            for k in seeds for w in (0.0, 1.0) for p, c, d in policies
        ],
        "calibration": [
            {"task": t, "group": g, "slice": "all", "pairs": 5000, "predicted": 0.1, "observed": 0.1,
             "ratio": r, "ece": 0.01}
            for t in ("click", "purchase") for g, r in (("all", 1.0), ("price", 1.2), ("source", None))
        ],
        "curves": [{"task": t, "slice": s, **BINS} for t in ("click", "purchase") for s in ("all", "never")],
        "differences": [
            {"to": "LightGBM", "order": o, "metric": m, "slice": s, "difference": 0.01, "low": -0.01,
             "high": 0.03}
            for o, m in (("purchase", "ndcg6"), ("value", "revenue6")) for s in SLICES
        ],
        "health": None,
        "examples": [
            {"kind": "Typical", "fresh": False, "user": "u1", "ts": 1.6e9, "earlier": 3,
             "paid": [{"title": "Milk", "quantity": 2, "price": 1.0}], "shown": [ITEM],
             "missed": [{"title": "Eggs", "spent": 1.0, "rank": None},
                        {"title": "Tea", "spent": 2.0, "rank": 9}],
             "missed_more": 4}
        ],
    }  # fmt: skip


class Outline(HTMLParser):
    """Checks that every tag is closed by its own, and keeps the headings."""

    VOID = ("meta",)

    def __init__(self, text):
        super().__init__()
        self.open, self.titles = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        assert not {"src", "href"} & {name for name, value in attrs if not (value or "").startswith("#")}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h2", "h3"):
            self.titles.append(data)


def test_the_page_loads_nothing_and_is_well_formed():
    text = report_page(make_report())
    titles = Outline(text).titles
    assert not re.search(r"https?:|url\(|@import|<script|<link|<img", text)
    assert "Which system recommends what users buy?" in titles
    assert "Was training healthy?" not in titles
    assert "Bread &lt;b&gt;" in text
    assert "own &amp; decayed" in text
    assert "<b>&gt;" not in text
    assert "bought for 3.00" in text
    assert "Eggs (1.00, no candidate); Tea (2.00, rank 9); and 4 more" in text
    assert "NDCG@6 +0.0100 against LightGBM (−0.0100 to +0.0300: not significant)" in text
    assert "±" not in text.split("</nav>")[1]
    assert not re.search(r"\bnan\b", text)


def test_the_page_over_seeds_shows_the_spread():
    text = report_page(make_report((0, 1, 2)))
    assert "0.5000 ± 0.1000" in text  # NDCG of 0.4, 0.5, 0.6
    assert "0.0050 ± 0.0010" in text  # calibration error
    assert "means ± standard deviations over 3 trained models" in text
    assert text.count('class="line orange"') == 4  # LightGBM's frontier, far and near, wide and narrow


def test_the_page_shows_what_training_noted():
    health = {
        "gates": {"click": [0.75, 0.25], "value": [0.1, 0.9]},
        "gradient_cosine": [{"step": 10, "click~value": 0.5}, {"step": 20, "click~value": -0.25}],
        "alarms": ["a head collapsed"],
    }
    text = report_page(make_report() | {"health": health})
    assert "Was training healthy?" in Outline(text).titles
    assert "1 alarm. See the top of the page." in text
    assert "a head collapsed" in text
    assert "click: expert 1 75.0%" in text
    assert "click – value" in text
    quiet = report_page(make_report() | {"health": {"gates": {}, "gradient_cosine": [], "alarms": []}})
    assert "No alarm." in quiet


def test_a_slice_without_checkouts_has_no_table():
    report = make_report()
    empty = [
        r | {"checkouts": 0, "ndcg6": None, "revenue6": None} if r["slice"] == "cold_users" else r
        for r in report["leaderboard"]
    ]
    assert "Cold users" not in Outline(report_page(report | {"leaderboard": empty})).titles


FOUR_TASKS = [
    *TASKS[:2],
    {"name": "return", "kind": "binary", "label": "return", "given": "purchase", "joint": False},
    {"name": "units", "kind": "count", "label": "quantity", "given": "purchase", "joint": True},
]


def test_the_page_reads_the_tasks_of_the_report():
    report = make_report()
    item = ITEM | {
        "predictions": {"click": 0.5, "purchase": 0.25, "return": 0.125, "units": 1.5},
        "value": None,
    }
    further = {"system": "sextet", "seed": 0, "kind": "binary", "pairs": 9, "positives": 0}
    counts = {"positives": 9, "predicted_over_observed": 1.07, "correlation": 0.25}
    text = report_page(
        report
        | {
            "tasks": FOUR_TASKS,
            "objective": {"expression": "purchase * (1 - return)", "order": "objective"},
            "frontier": [],
            "leaderboard": [
                row | {"order": "objective" if row["order"] == "value" else row["order"]}
                for row in report["leaderboard"]
            ],
            "differences": report["differences"][:4],
            "task_metrics": [
                *report["task_metrics"],
                further | {"task": "return"},
                further | {"task": "units", "kind": "count"} | counts,
            ],
            "examples": [row | {"shown": [item]} for row in report["examples"]],
        }
    )
    assert "What does revenue cost in purchases?" not in Outline(text).titles
    assert "p(return | purchase)" in text
    assert "none in this split" in text
    assert "No candidate of this split has a return." in text
    assert "Slates are sorted by purchase * (1 - return)" in text
    assert re.search(r"NDCG@6, sorted by\s+purchase \* \(1 - return\)", text)
    assert "return is measured where a purchase happened" in text
    assert "expected value" not in text.split('id="slates"')[1]
    assert not re.search(r"\bnan\b|None", text)


def test_the_page_of_one_task():
    report = make_report()
    text = report_page(
        report
        | {
            "tasks": [
                {"name": "purchase", "kind": "binary", "label": "purchase", "given": None, "joint": True}
            ],
            "objective": {"expression": "purchase", "order": "purchase"},
            "frontier": [],
            "slates": [row for row in report["slates"] if row["revenue_weight"]],
            "leaderboard": [row for row in report["leaderboard"] if row["order"] != "value"],
            "differences": [row for row in report["differences"] if row["order"] != "value"],
            **{
                key: [row for row in report[key] if row["task"] != "click"]
                for key in ("task_metrics", "calibration", "curves")
            },
            "examples": [],
        }
    )
    assert "revenue@6, sorted by" not in text
    assert "Sorted by p(purchase)" in text
    assert "p(click)" not in text
