"""Every page starts with its answer, is one file, and fits a phone and a desk in light and dark."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from documentation.page_browser import OVERFLOW, OVERLAPS, SMALL_TEXT, TEXT_OUTSIDE, PageBrowser, open_browser
from tests.reporting.pages import PAGES, daily
from tests.storefront.browser import CHROMIUM, DRIVER

MIN_FONT_PX = 11
MIN_CONTRAST = 4.5
VOID_TAGS = ("meta",)
CONTRASTS = """
const rgb = (text) => (text.match(/[\\d.]+/g) || []).slice(0, 4).map(Number);
const channel = (value) => value <= 10.31 ? value / 3294.6 : ((value / 255 + .055) / 1.055) ** 2.4;
const luminance = (c) => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
const background = (node) => {
  for (; node; node = node.parentElement) {
    const colour = rgb(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
};
const result = [];
for (const node of document.querySelectorAll("body *:not(svg, svg *)")) {
  const isText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!isText || !node.checkVisibility()) continue;
  const [a, b] = [rgb(getComputedStyle(node).color), background(node)].map(luminance);
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < arguments[0]) result.push(`${ratio.toFixed(1)}: ${node.textContent.trim().slice(0, 60)}`);
}
return result
"""


class Structure(HTMLParser):
    """The tags of a page with what encloses them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.classes: list[str] = []
        self.tags: list[tuple[str, dict[str, str], str]] = []  # tag, attributes, classes around it
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes, " ".join(self.classes)))
        if tag not in VOID_TAGS:
            self.open.append(tag)
            self.classes.append(attributes.get("class", ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.classes.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}, " ".join(self.classes)))

    def of(self, *names: str) -> list[tuple[str, dict[str, str], str]]:
        return [tag for tag in self.tags if tag[0] in names]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: build() for name, build in PAGES.items()}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_one_file_whose_first_text_is_the_answer(name: str, pages: dict[str, str]) -> None:
    text, page = pages[name], Structure(pages[name])
    assert text.startswith("<!doctype html>")
    assert page.of("html")[0][1] == {"lang": "en"}
    viewport = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    assert viewport in [attributes for _, attributes, _ in page.of("meta")]
    assert not re.search(r"https?:|url\(|@import|<script|<link|<img|<iframe", text)
    assert all(
        attributes[key].startswith("#")
        for _, attributes, _ in page.tags
        for key in ("src", "href")
        if key in attributes
    )
    (title,) = re.findall(r"<title>(.+)</title>", text.split("</head>")[0])
    assert f"<h1>{title}</h1>" in text
    head = text[text.index("<h1>") : text.index("</header>")]
    (answer,) = re.findall(r'<p class="answer[^>]*>(.+)</p>', head)
    assert answer[-1] == "."
    assert len(answer) < 330
    words = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.S)
    words = re.sub(r"commit [0-9a-f]+", "", words)  # a hash may look like a number: 3e7
    assert not re.search(r"\bnan\b|None|[-+]?\d+e[-+]?\d+", words)


@pytest.mark.parametrize("name", PAGES)
def test_headings_are_in_order_and_tables_have_captions(name: str, pages: dict[str, str]) -> None:
    page = Structure(pages[name])
    levels = [int(tag[1]) for tag, *_ in page.of("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    assert all("scroll" in around for _, _, around in page.of("table"))
    assert len(page.of("caption")) == len(page.of("table"))
    assert "<caption></caption>" not in pages[name]
    assert all(attributes["scope"] in ("col", "row") for _, attributes, _ in page.of("th"))
    names = [attributes["aria-label"] for _, attributes, _ in page.of("svg")]
    assert all(names)
    ids = [attributes["id"] for _, attributes, _ in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_a_log_of_another_bundle_is_a_notice() -> None:
    assert "<b>Warning:</b> Bundle 20260215T000000Z-cd answered slates of this day" in daily()
    assert "Warning:" not in daily(further_version="20260201T000000Z-ab")


def test_alarms_come_first_in_words_and_colour() -> None:
    head = daily().split("</header>")[0]
    assert '<p class="answer bad">3 alarms: age of the bundle&#39;s data, ' in head
    assert head.count('<p class="notice alarm"><b>Alarm:</b>') >= 3


@pytest.fixture(scope="module")
def browser() -> Iterator[PageBrowser]:
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium with its driver")
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone_and_a_desk(
    name: str, pages: dict[str, str], browser: PageBrowser, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(pages[name])
    for width, height in ((390, 844), (1280, 800)):
        browser.open(f"file://{file}", width, height)
        browser.evaluate("document.querySelectorAll('details').forEach((fold) => fold.open = true)")
        assert browser.evaluate(OVERFLOW) <= 0, width
        assert (browser.evaluate(SMALL_TEXT) or MIN_FONT_PX) >= MIN_FONT_PX, width
        assert browser.evaluate(TEXT_OUTSIDE) == [], width
        assert browser.evaluate(OVERLAPS) == [], width
        answer = "return document.querySelector('.answer').getBoundingClientRect().bottom"
        assert browser.evaluate(answer) < height / 2, width


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["daily", "evaluation", "experiment", "shop_check"])
def test_text_has_contrast(
    name: str, is_dark: bool, pages: dict[str, str], browser: PageBrowser, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(pages[name])
    browser.open(f"file://{file}", 1280, 800, is_dark)
    assert browser.evaluate(CONTRASTS, MIN_CONTRAST) == []
    paper = browser.evaluate("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") != is_dark
