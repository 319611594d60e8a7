"""`python -m experimentation uplift` and the plan of withholding, on logs whose effect is known."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.withheld_checkouts import SOURCES, simulate_ghost_log
from experimentation.__main__ import main
from experimentation.uplift.incremental_revenue import (
    ALL_ORDERS,
    MIN_WITHHELD_SLOTS,
    OTHER_ITEMS,
    SLATE_ITEMS,
    estimate_uplift,
    uplift_sentence,
)
from experimentation.uplift.page import uplift_page
from serving.checkout import SECONDS_PER_DAY as DAY
from tests.experimentation.uplift.logs import click_row, slate_rows, write_log, write_orders

START_DAY, END_DAY = "2026-01-05", "2026-01-18"
START = 1_767_571_200


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 checkouts: a shown slate sells a fruit in half of them, and bread is bought with and without it."""
    folder, rng = tmp_path_factory.mktemp("ghosts"), np.random.default_rng(0)
    parts, lines = [], [("last", "nobody", "x", START + 60 * DAY, 1, 1)]
    for k in range(900):
        request, user, ts = f"r{k}", f"u{k % 300}", START + int(rng.integers(0, 13 * DAY))
        is_shown = rng.random() >= 0.3
        kind = "impression" if is_shown else "ghost"
        parts.append(slate_rows(request, user, ts, f"fruit{k}", f"bread{k}", kind=kind, withhold=0.3))
        parts[-1][0]["sources"] = ["ann"]
        parts[-1][1]["sources"] = ["buy again"]
        lines.append((f"o-{request}", user, "basket", ts, 1, 30))
        for item, p in ((f"fruit{k}", 0.5 * is_shown), (f"bread{k}", 0.6)):
            if rng.random() < p:
                lines.append((f"p{k}-{item}", user, item, ts + DAY, 1, round(rng.uniform(2, 4), 2)))
                if is_shown:
                    parts.append(click_row(request, item, ts + 60))
    write_log(folder / "events", *parts)
    write_orders(folder / "orders.csv", *lines)
    items = [f"{name}{k},food/{name}\n" for k in range(900) for name in ("fruit", "bread")]
    (folder / "items.csv").write_text("item_id,category\n" + "".join(items).replace("food/", ""))
    return folder


def run_uplift(shop: Path, out: Path, *options: str) -> int:
    return main(["uplift", "--events", str(shop / "events"), "--orders", str(shop / "orders.csv"), "--start",
                 START_DAY, "--end", END_DAY, "--out", str(out), *options])  # fmt: skip


def test_the_slot_earns_its_fruit_and_not_the_bread(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "uplift.html"
    assert run_uplift(shop, out, "--items", str(shop / "items.csv")) == 0
    printed = capsys.readouterr().out
    sentence = re.match(
        r"A slate adds (\S+) of revenue \(95% interval .* That is (\d+)% \((\d+)% to (\d+)%\) of", printed
    )
    assert sentence, printed
    assert float(sentence.group(1)) == pytest.approx(1.5, abs=0.3), "half of 3.00"
    low, high = int(sentence.group(3)), int(sentence.group(4))
    assert low < 100 * 1.5 / 3.3 < high, "a click credits the slot with 1.5 of fruit and 1.8 of bread"
    rows = {line.split("  ")[0]: line.split() for line in printed.splitlines()}
    for group, adds in (("fruit", True), ("bread", False), ("ann", True), ("buy again", False)):
        assert (float(rows[group][-3]) > 0) == adds, rows[group]
    for name in (SLATE_ITEMS, OTHER_ITEMS, ALL_ORDERS, "fruit", "buy again"):
        assert name in out.read_text()
    assert "Purchases count for 14d after a checkout" in printed
    assert run_uplift(shop, out, "--horizon", "next_order") == 0
    assert "Purchases count for next_order" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--horizon", "soon"], 2, "argument --horizon: soon: expected days such as 14d, or next_order"),
        (["--horizon", "0d"], 2, "expected days such as 14d"),
        (["--start", "2026-02-01"], 2, "--end lies before --start"),
        (["--start", "2026-01-20", "--end", "2026-01-25"], 1, "no ghost rows in this time: set withhold"),
        (["--orders", "nowhere.csv"], 1, "nowhere.csv: there is no such file"),
        (["--experiment", "other"], 1, "no ghost rows in this time"),
        (["--horizon", "90d"], 1, "horizon of 90d is over: 0 shown and 0 withheld"),
    ],
)
def test_unusable_input_is_refused(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, reason: str
) -> None:
    try:
        exit_code = run_uplift(shop, tmp_path / "out.html", *options)
    except SystemExit as exit_error:
        exit_code = int(str(exit_error.code))
    assert exit_code == code
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


def test_withholding_is_planned(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--events", str(shop / "events"), "--withhold", "0.1", "--uplift", "0.1"]
    assert main([*arguments, "--orders", str(shop / "orders.csv")]) == 0
    printed = capsys.readouterr().out
    assert "10.0% more" in printed
    assert "50% of the revenue after a click" in printed
    assert "Withholding 10% of the checkouts, power 80%, 5% false positives." in printed
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--withhold needs --orders" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--withhold", "1"])
    assert "1: expected a share between 0 and 1" in capsys.readouterr().err


def test_pages_of_all_outcomes() -> None:
    """More, less, no effect, substitution, and missing ghosts: the sentence leads the page."""
    log = simulate_ghost_log(0, users=3000, withhold=0.3).log
    added = 3.0 * log.assignment.is_shown
    more, rarer = log.slate_revenue + added, log.assignment._replace(withhold=log.assignment.withhold / 2)
    cases = {
        r"A slate adds \d": log._replace(slate_revenue=more, order_revenue=log.order_revenue + added),
        r"A slate costs \d": log._replace(slate_revenue=log.slate_revenue - added),
        r"Not enough data: a slate adds": simulate_ghost_log(1, users=300).log,
        r"Sample ratio mismatch: \d": log._replace(assignment=rarer),
    }
    for sentence, case in cases.items():
        result = estimate_uplift(case)
        assert re.match(sentence, uplift_sentence(result)), uplift_sentence(result)
        page = uplift_page(result, "about")
        assert uplift_sentence(result) in page
        assert "http" not in page.replace("http-equiv", "")
        assert "nan" not in page
        assert ("Which source adds revenue?" in page) == (not result.has_srm)
    replaced = estimate_uplift(log._replace(slate_revenue=more))
    (warning,) = replaced.warnings
    assert "with a slate users buy less of all other items" in warning
    assert "Go by all orders" in warning
    assert f"<b>Warning:</b> {warning.removeprefix('Warning: ')}" in uplift_page(replaced, "about")


def test_small_groups_are_left_out() -> None:
    log = simulate_ghost_log(2, users=200).log
    slots = log.groups["source"]
    few = slots._replace(group=np.where(slots.checkout < 3, 0, 1))
    result = estimate_uplift(log._replace(groups={"source": few}))
    assert [group.name for group in result.groups["source"]] == [SOURCES[1]]
    assert f"1 of 2 groups by source have fewer than {MIN_WITHHELD_SLOTS} withheld slots" in result.notes[-1]
