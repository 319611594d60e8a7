"""Templates escape values, refuse missing names, and load nothing."""

import re

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from reporting.elements import Column, Figure, Table
from reporting.render import ROOT, render

FIGURE = Figure(Markup("<svg></svg>"), "caption", [("blue", "a < b")], "heading")
TABLE = Table(
    [
        Column("name", lambda row: row["name"], "who <it> is", numeric=False),
        Column("share", lambda row: f"{row['share']:.0%}", bar_share=lambda row: row["share"]),
    ],
    [{"name": "Bread <b>", "share": 0.25}, {"name": "Tea & milk", "share": 0.75}],
    lambda row: "highlight" if row["share"] > 0.5 else "",
)


def plan(**values):
    return render(
        "ab_plan.html",
        **{"title": "Plan", "finding": "10 users", "effects": FIGURE, "table": TABLE, **values},
    )


def test_values_are_escaped_and_markup_is_not():
    page = plan(about="<script>")
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "<svg></svg>" in page
    assert "a &lt; b" in page


def test_a_table_has_classes_bars_and_explanations():
    page = plan(about="")
    assert '<td class="text">Bread &lt;b&gt;</td>' in page
    assert '<td class="number bar" style="--share:25%">25%</td>' in page
    assert '<tr class="highlight">' in page
    assert "<dt>name</dt><dd>who &lt;it&gt; is</dd>" in page
    assert page.count("<dt>") == 1


def test_a_missing_name_is_an_error():
    with pytest.raises(UndefinedError, match="about"):
        plan()


def test_pages_have_the_style_sheet_and_load_nothing():
    page = plan(about="")
    assert (ROOT / "style.css").read_text() in page
    assert not re.search(r"https?:|url\(|@import|<script|<link|<img", page)


@pytest.mark.parametrize("template", [file.name for file in sorted((ROOT / "templates").glob("*.html"))])
def test_templates_have_no_unsafe_filter(template):
    source = (ROOT / "templates" / template).read_text()
    assert "| safe" not in source
    assert "autoescape" not in source
