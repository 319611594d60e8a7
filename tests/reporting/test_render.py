"""Templates escape values, refuse missing names, and load nothing."""

import re

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from reporting.charts import NARROW_WIDTH
from reporting.elements import Column, Figure, Head, KeyFigure, Table, notices
from reporting.provenance import command
from reporting.render import ROOT, render

FIGURE = Figure(
    lambda width: Markup(f'<svg width="{width}"></svg>'), "caption", [("blue", "a < b")], "heading"
)
TABLE = Table(
    [
        Column("name", lambda row: row["name"], "who <it> is", numeric=False),
        Column("share", lambda row: f"{row['share']:.0%}", bar_share=lambda row: row["share"]),
    ],
    [{"name": "Bread <b>", "share": 0.25}, {"name": "Tea & milk", "share": 0.75}],
    lambda row: "highlight" if row["share"] > 0.5 else "",
)


HEAD = Head(
    "Plan",
    "10 <users>",
    "good",
    notices(alarms=["<b>lost</b> users"], warnings=["Warning: few days"]),
    [KeyFigure("CTR", "3%", "control: 2%", "+1% (+0.1% to +1.9%)", "better")],
    [("Log", "events & orders")],
)


def plan(**values):
    return render(
        "ab_plan.html",
        **{"head": HEAD, "effects": FIGURE, "table": TABLE, **values},
    )


def test_values_are_escaped_and_markup_is_not():
    page = plan()
    assert "10 &lt;users&gt;" in page
    assert "<b>lost" not in page
    assert "events &amp; orders" in page
    assert '<div class="chart wide"><svg width="600"></svg></div>' in page
    assert f'<div class="chart narrow"><svg width="{NARROW_WIDTH}"></svg></div>' in page
    assert "a &lt; b" in page


def test_a_table_has_classes_bars_and_explanations():
    page = plan()
    assert '<th scope="row" class="text">Bread &lt;b&gt;</th>' in page
    assert '<td class="number bar" style="--share:25%">25%</td>' in page
    assert '<tr class="highlight">' in page
    assert "<dt>name</dt><dd>who &lt;it&gt; is</dd>" in page
    assert page.count("<dt>who") + page.count("<dd>who") == 1


def test_the_first_screen_has_answer_alarms_and_baseline():
    page = plan()
    head = page[: page.index("</header>")]
    texts = (
        '<p class="answer good">', '<p class="notice alarm"><b>Alarm:</b> &lt;b&gt;lost&lt;/b&gt; users</p>',
        '<p class="notice warning"><b>Warning:</b> few days</p>', "<b>3%</b>", "<span>control: 2%</span>",
        '<span class="better">+1% (+0.1% to +1.9%): better</span>',
    )  # fmt: skip
    positions = [head.index(text) for text in texts]
    assert positions == sorted(positions)


def test_the_footer_has_the_source_command_version_and_date():
    footer = plan().split("<footer>")[1]
    assert "<dt>Log</dt><dd>events &amp; orders</dd>" in footer
    assert "<dt>Command</dt><dd><code>" in footer
    assert re.search(r"<dt>Sextet</dt><dd>.*(version|commit) [\w.]+", footer)
    assert re.search(r"<dt>Written</dt><dd>\d+ [A-Z][a-z]+ \d{4}, \d\d:\d\d UTC</dd>", footer)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["/env/bin/python3", "-m", "evaluation.leaderboard", "a run"],
            "python -m evaluation.leaderboard 'a run'",
        ),
        (["/env/bin/python", "/env/bin/sextet", "serve"], "sextet serve"),
        (["/env/bin/python", "train.py", "x=https://me:secret@host/a"], "python train.py x=https://…@host/a"),
    ],
)
def test_the_command_is_as_a_person_types_it(arguments, line):
    assert command(arguments) == line


def test_a_missing_name_is_an_error():
    with pytest.raises(UndefinedError, match="effects"):
        render("ab_plan.html", HEAD, table=TABLE)


def test_pages_have_the_style_sheet_and_load_nothing():
    page = plan()
    assert (ROOT / "style.css").read_text() in page
    assert not re.search(r"https?:|url\(|@import|<script|<link|<img", page)


@pytest.mark.parametrize("template", [file.name for file in sorted((ROOT / "templates").glob("*.html"))])
def test_templates_have_no_unsafe_filter(template):
    source = (ROOT / "templates" / template).read_text()
    assert "| safe" not in source
    assert "autoescape" not in source
