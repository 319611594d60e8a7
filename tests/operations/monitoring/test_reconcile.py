"""Six planted faults, each of which is named first; and a clean log, of which none is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from operations.monitoring import logged_slates
from operations.monitoring.__main__ import main
from operations.monitoring.reconcile.command import diagnose, read_shop
from operations.monitoring.reconcile.verdict import Diagnosis
from serving import Checkout, Recommender
from tests.data.shop import DAY
from tests.operations.monitoring import live


def judged(recommender: Recommender, folder: Path) -> Diagnosis:
    windows = logged_slates.attribution_windows(recommender.bundle.manifest)
    with logged_slates.open_duckdb() as con:
        end = logged_slates.log_end(con, folder / "events")
        table, orders, profiles = read_shop(con, folder, end)
        seen = logged_slates.read_attributed_log(con, folder / "events", table, windows, 0, end)
    return diagnose(seen, orders, profiles, recommender, windows, end, n_requests=200)


def first(verdict: Diagnosis) -> tuple[str, str]:
    cause = verdict.causes[0]
    assert cause.is_significant, verdict.summary()
    return cause.name, cause.evidence


def dear(one: Checkout, _: Checkout | None) -> Checkout:
    """Prices in cents."""
    return replace(one, basket=[replace(line, price=100 * (line.price or 0)) for line in one.basket])


def mute(one: Checkout, _: Checkout | None) -> Checkout:
    return replace(one, context={})


def test_a_clean_log_replays_as_logged_and_names_nothing(seldom: Recommender, clean_shop: Path) -> None:
    verdict = judged(seldom, clean_shop)
    assert verdict.match_rate == 1.0
    assert not any(cause.is_significant for cause in verdict.causes)
    assert verdict.summary() == "Offline and online agree: 100% of 200 requests replay as logged."
    seen, said, _ = verdict.observed_rates["clicks"]
    assert seen == pytest.approx(said, rel=0.08)


@pytest.mark.parametrize(
    ("sent", "name", "because"),
    [
        (dear, "skewed feature", "basket prices times 100 explains 100% of that"),
        (mute, "skewed feature", "device missing explains 100% of that"),
        (lambda one, _: live.aged(one, 10), "stale cache", "a history that is 10 days old explains 100%"),
        (lambda one, last: last or one, "stale cache", "the answer to the user's last checkout explains"),
    ],
    ids=["prices", "device", "store", "slates"],
)
def test_what_was_sent_otherwise_is_found(
    seldom: Recommender, tables: live.Tables, tmp_path: Path, name: str, because: str,
    sent: Callable[[Checkout, Checkout | None], Checkout],
) -> None:  # fmt: skip
    found = first(judged(seldom, live.write(tmp_path, live.live(seldom, tables, sent))))
    assert found[0] == name
    assert because in found[1]


def test_a_leaked_label_is_named_first(seldom: Recommender, clean: live.Life, tmp_path: Path) -> None:
    name, said = first(judged(seldom, live.write(tmp_path, live.leaking(clean))))
    assert name == "leaked label"
    assert "AUC of purchases" in said


def test_late_labels_are_named_first(seldom: Recommender, clean: live.Life, tmp_path: Path) -> None:
    """Feedback that comes after its window, and feedback that has not come."""
    name, said = first(judged(seldom, live.write(tmp_path / "slow", live.slower(clean, 6))))
    assert (name, said.partition("clicks ")[2]) == ("late labels", "came after their window")
    until = live.SINCE + (live.LIVE - 10) * DAY
    name, said = first(judged(seldom, live.write(tmp_path / "cut", clean, until)))
    assert name == "late labels"
    assert "newest quarter" in said


def test_a_position_effect_is_named_first(seldom: Recommender, tables: live.Tables, tmp_path: Path) -> None:
    life = live.live(seldom, tables, examined=lambda position: position**-0.7)
    name, said = first(judged(seldom, live.write(tmp_path, life)))
    assert name == "position effect"
    assert said.startswith("clicks over predicted by position, the first as 1: 1.00, 0.")


def test_a_changed_mix_is_named_first(seldom: Recommender, tables: live.Tables, tmp_path: Path) -> None:
    life = live.live(seldom, live.newcomers(tables, 0.6))
    name, said = first(judged(seldom, live.write(tmp_path, life)))
    assert name == "changed traffic mix"
    assert said.startswith("tenure: ")


def test_the_command_prints_writes_and_gates(
    seldom: Recommender, clean: live.Life, clean_shop: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asks = ["reconcile", "--bundle", str(seldom.bundle.folder), "--sample", "100"]
    out = ["--out", str(tmp_path / "why.html"), "--json", str(tmp_path / "why.json")]
    shop = live.write(tmp_path / "shop", live.slower(clean, 6))
    assert main([*asks, "--events", str(shop / "events"), "--shop", str(shop), *out]) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("late labels")
    assert printed.splitlines()[-1].startswith("Most likely: late labels.")
    assert "Most likely: late labels." in (tmp_path / "why.html").read_text()
    assert json.loads((tmp_path / "why.json").read_text())["causes"][0]["name"] == "late labels"
    assert main([*asks, "--events", str(clean_shop / "events"), "--shop", str(clean_shop)]) == 0


def test_what_cannot_be_judged_is_said(
    version: Path, seldom: Recommender, clean_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log of another version, and no log."""
    asks = ["reconcile", "--bundle", str(version), "--shop", str(clean_shop), "--events"]
    assert main([*asks, str(clean_shop / "events")]) == 2
    assert "0 requests can be replayed" in capsys.readouterr().err
    assert main([*asks, str(tmp_path)]) == 2
    assert "no Parquet files are there" in capsys.readouterr().err
