"""The page in a real headless browser, against the real command: what a shopper sees, and what is written."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from serving import open_store
from serving.checkout import HISTORY_KINDS
from serving.storage.bundle import read_arrow
from tests.serving.events.logs import logged
from tests.serving.http.services import Command
from tests.storefront.browser import CHROMIUM, DRIVER, Browser, shop

pytestmark = pytest.mark.skipif(
    not CHROMIUM or not DRIVER, reason="no browser on the PATH: apt install chromium chromium-driver"
)
MARKUP = "<img src=/shop/none onerror=alert(1)>"  # in titles: it is shown as it stands


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(started: Browser) -> Iterator[Browser]:
    yield started
    assert started.complaints() == []


def orders(opened: Command, user_id: str) -> list[list[str]]:
    """The titles of a household's past orders."""
    found = json.loads(opened.ask("GET", f"/shop/orders?user_id={user_id}&limit=4")[1])
    return [[line["title"] for line in order["lines"]] for order in found]


def chance(text: str) -> float | None:
    return None if text == "–" else float(text.removesuffix("%")) / 100


def test_a_household_pays_clicks_and_buys(version: Path, tmp_path: Path, browser: Browser) -> None:
    with shop(browser, version.parent, tmp_path) as opened:
        browser.reads("#today", "2024 here")
        browser.choose("#household", "u003", "Household u003")
        browser.reads("#customer", "Household u003")
        past = orders(opened, "u003")
        browser.reads("#orders li", *(titles[0] for titles in past))
        browser.click("#orders button", 1)
        browser.choose("#item", "apple 11", "Apple No 11")
        basket = list(dict.fromkeys([*past[1], "Apple No 11"]))
        browser.reads("#lines .title", *basket)
        total = float(browser.texts("#total")[0])
        browser.click("[aria-label='One more of Apple No 11']")
        browser.until(lambda: float(browser.texts("#total")[0]) > total)
        total = float(browser.texts("#total")[0])
        before = len(open_store(tmp_path / "store.db").get("u003").item_id)
        browser.click("#pay")

        browser.reads("#thanks-title", "Thank you, household u003")
        assert browser.run("return document.activeElement.id") == "thanks-title"
        browser.reads("#receipt .title", *basket)
        assert float(browser.texts("#paid-total")[0]) == total
        cards = browser.six()
        second = cards[1]
        assert len({card["top"] for card in cards}) == 1  # one row
        assert all(card["price"] > 0 and all(card["why"]) for card in cards)
        told = dict(zip(browser.texts("#facts dt"), browser.texts("#facts dd"), strict=True))
        assert told["bundle"] == version.name
        assert len(browser.texts("#bar span")) == len(browser.texts("#stages dd")) >= 2

        browser.click("#slate .open", 1)
        browser.reads("#product-title", second["title"])
        browser.reads("#log li", f"click of {second['title']}")
        browser.click("#product .close")
        browser.click("#slate .open", 1)  # counts once
        browser.click("#product .add")
        browser.reads("#log li", f"click of {second['title']}", f"purchase of {second['title']}")
        browser.reads("#receipt .title", *basket, second["title"])
        assert float(browser.texts("#paid-total")[0]) == pytest.approx(total + second["price"], abs=0.011)
        assert browser.texts("#slate .add").count("In your order ✓") == 1

        browser.click("#back")
        browser.reads("#orders li", second["title"], basket[0], past[0][0], past[1][0])
        assert orders(opened, "u003") == [[second["title"]], basket, past[0], past[1]]
        known = open_store(tmp_path / "store.db").get("u003")
        assert len(known.item_id) == before + len(basket) + 2  # what was clicked, and then bought
        assert [HISTORY_KINDS[kind] for kind in known.kind[-2:]] == ["click", "purchase"]
        opened.stop()
    rows = logged(tmp_path / "events")
    assert {(row["request_id"], row["user_id"]) for row in rows} == {(told["request"], "u003")}
    slate, rest = rows[:6], rows[6:]
    for row, card in zip(slate, cards, strict=True):
        assert (row["kind"], row["item_id"]) == ("impression", card["item"])
        assert (row["tier"], row["sources"]) == (card["tier"], card["sources"])
        for said, predicted in zip(card["odds"], [row["p_click"], row["p_purchase"]], strict=False):
            assert chance(said) == (None if predicted is None else pytest.approx(predicted, rel=0.06))
    assert [(row["kind"], row["item_id"]) for row in rest] == [
        ("click", second["item"]), ("purchase", second["item"])
    ]  # fmt: skip
    assert rest[1]["value"] == pytest.approx(second["price"], abs=0.006)
    assert slate[0]["ts"] <= rest[0]["ts"] <= rest[1]["ts"]


@pytest.fixture
def marked(version: Path, tmp_path: Path) -> Path:
    """A bundle whose titles are markup."""
    from exporting.bundle import write_arrow  # late, as in tests/conftest.py
    from tests.exporting.bundles import reseal

    folder = Path(shutil.copytree(version, tmp_path / "bundle" / version.name))
    shutil.copy(version.parent / "store.arrow", folder.parent)
    items = read_arrow(str(folder / "items.arrow"))
    titles = pa.array([f"{title} {MARKUP}" for title in items["title"].to_pylist()])
    changed = items.set_column(items.column_names.index("title"), "title", titles)
    write_arrow(changed.combine_chunks(), tmp_path / "items.arrow")
    shutil.move(tmp_path / "items.arrow", folder / "items.arrow")
    reseal(folder)
    return folder


def test_a_guest_on_a_phone_and_titles_that_are_markup(
    marked: Path, tmp_path: Path, browser: Browser
) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    with shop(browser, marked, tmp_path / "shop") as opened:
        browser.choose("#household", "u00", "Household u004")
        browser.click("#guest")
        browser.reads("#customer", "A guest")
        assert browser.texts("#pay:disabled") == ["Pay"]
        browser.click("#popular button", 0)
        browser.reads("#lines .title", MARKUP)
        browser.click("#lines .remove")
        browser.choose("#item", "milk 8", f"Milk No 8 {MARKUP}")
        browser.click("#pay")
        browser.until(lambda: browser.texts("#thanks-title") == ["Thank you"])
        cards = browser.six()
        assert all(card["title"].endswith(MARKUP) for card in cards)
        assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        assert len({card["left"] for card in cards}) == 2  # columns
        browser.click("#slate .add", 5)
        browser.reads("#log li", MARKUP)
        assert browser.run("return document.querySelectorAll('main img, dialog img').length") == 0
        opened.stop()
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    rows = logged(tmp_path / "shop" / "events")
    assert [row["kind"] for row in rows] == ["impression"] * 6 + ["purchase"]
    assert {row["user_id"] for row in rows} == {None}


def test_a_withheld_slot_leaves_no_trace(version: Path, tmp_path: Path, browser: Browser) -> None:
    experiments = tmp_path / "experiments.toml"
    experiments.write_text('salt = "test"\nwithhold = 0.999999')
    with shop(browser, version.parent, tmp_path / "shop", "--experiments", str(experiments)) as opened:
        browser.choose("#item", "milk 8", "Milk No 8")
        browser.click("#pay")
        browser.reads("#thanks-title", "Thank you")
        browser.until(lambda: browser.run("return document.querySelector('#more').hidden"))
        assert browser.texts("#more *") == browser.texts("#how *") == []
        browser.reads("#receipt .title", "Milk No 8")
        opened.stop()
    rows = logged(tmp_path / "shop" / "events")
    assert [(row["kind"], row["withhold"]) for row in rows] == [("ghost", 0.999999)] * 6


def test_what_the_service_refuses_is_told(version: Path, tmp_path: Path, browser: Browser) -> None:
    store = tmp_path / "store.db"
    with shop(browser, version.parent, tmp_path) as opened:
        browser.choose("#household", "u003", "Household u003")
        before = len(open_store(store).get("u003").item_id)
        browser.choose("#item", "milk 8", "Milk No 8")
        with closing(sqlite3.connect(store)) as other:
            other.execute("BEGIN IMMEDIATE")  # another process writes, for longer than the store waits
            browser.click("#pay")
            browser.reads("#problem strong", "Service Unavailable (503)")
            browser.reads("#problem [data-text=detail]", "the store did not record the checkout")
            assert ["503" in said for said in browser.complaints()] == [True]
            browser.reads("#lines .title", "Milk No 8")
            other.rollback()
        browser.click("#pay")
        browser.reads("#thanks-title", "Thank you, household u003")
        browser.reads("#problem strong")  # it is gone
        browser.six()
        assert len(open_store(store).get("u003").item_id) == before + 1

        browser.click("#back")
        browser.click("#guest")
        browser.choose("#item", "milk 8", "Milk No 8")
        opened.stop()
        browser.click("#pay")
        browser.reads("#problem strong", "The shop does not answer")
        browser.reads("#slate-status", "Your order is safe.")
        browser.reads("#again", "Try again")
        assert ["ERR_CONNECTION_REFUSED" in said for said in browser.complaints()] == [True]
        browser.click("#problem button")
        browser.reads("#problem strong")
