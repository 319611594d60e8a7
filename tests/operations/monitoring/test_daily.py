"""Quiet days raise no alarm, planted shifts are named; the command writes a page and metrics, and gates."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.simulated_live_log import DAY, DayConfig, LiveShop, write_log
from operations.monitoring import daily, daily_metrics, logged_slates, past_checkouts, prometheus_file
from operations.monitoring.__main__ import main
from operations.monitoring.formatting import format_date, report_summary
from serving import Recommender, open_store
from serving.http.metrics import ServiceMetrics
from serving.stores.loading import bulk_load

BEFORE, QUIET, PER_DAY = 28 + 14 + 28, 4, 150
LOUD = DayConfig(
    price_factor=1.2, extra_lines=4.0, single_category_share=0.5, phone_share=0.8, new_user_share=0.6, unknown_item_share=0.1, unknown_value_share=0.25,
    click_logit_shift=1.0, fallback_share=0.1, single_category_slate_share=0.7,
)  # fmt: skip


class Lived(NamedTuple):
    """A folder of orders and events, and its first day."""

    folder: Path
    first: int

    def read(
        self, recommender: Recommender, day: int
    ) -> tuple[logged_slates.AttributedLog, past_checkouts.OrderHistory, logged_slates.AttributionWindows]:
        windows, end = logged_slates.attribution_windows(recommender.bundle.manifest), (day + 1) * DAY
        with logged_slates.open_duckdb() as con:
            table = logged_slates.read_orders(con, self.folder / "orders.parquet", end)
            seen = logged_slates.read_attributed_log(con, self.folder / "events", table, windows, 0, end)
            return seen, past_checkouts.read_order_history(con, table), windows


@pytest.fixture(scope="module")
def quiet(shared: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    first = int(shared.bundle.manifest["data"]["window"]["end"]) // DAY + 1
    days = BEFORE + QUIET
    folder = tmp_path_factory.mktemp("quiet")
    return Lived(write_log(LiveShop(shared.bundle, PER_DAY), folder, first, days, days, DayConfig()), first)


@pytest.fixture(scope="module")
def loud(shared: Recommender, quiet: Lived, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """The same until its last day."""
    folder = tmp_path_factory.mktemp("loud")
    return Lived(
        write_log(LiveShop(shared.bundle, PER_DAY), folder, quiet.first, BEFORE + 1, BEFORE, LOUD),
        quiet.first,
    )


def test_quiet_days_raise_no_alarm(shared: Recommender, quiet: Lived) -> None:
    seen, shop, windows = quiet.read(shared, quiet.first + BEFORE + QUIET - 1)
    for day in range(quiet.first + BEFORE, quiet.first + BEFORE + QUIET):
        report = daily.daily_report(seen, shop, shared, windows, day, max_bundle_age=1e9)
        assert not report.alarms
        assert report.exit_code == 0
        assert not report.untested
        assert {one.group for one in report.statistics} == {"inputs", "scores", "slates", "outcomes"}
        assert report.bundle_versions == (shared.bundle.version,)


def test_every_planted_shift_is_named(shared: Recommender, loud: Lived) -> None:
    day = loud.first + BEFORE
    seen, shop, windows = loud.read(shared, day)
    report = daily.daily_report(seen, shop, shared, windows, day, max_bundle_age=1e9)
    names = {one.name for one in report.alarms}
    assert names >= {
        "price over usual price", "basket size", "category of basket", "device", "new users",
        "unknown items in baskets", "unknown context words", "p(click)", "fallback tiers",
        "categories in a slate",
    }  # fmt: skip
    assert not names & {"hour of day", "checkouts", "slates", "click rate", "purchase rate"}
    assert report.exit_code == 1
    assert "device" in report_summary(report)


def test_outcomes_are_judged_on_the_day_on_which_they_are_in(shared: Recommender, quiet: Lived) -> None:
    """A click rate that falls for a day is seen a day later; the last day cannot know."""
    day = quiet.first + BEFORE
    seen, _, windows = quiet.read(shared, day)
    yesterday = (seen.slates.ts // DAY == day - 1)[seen.impressions.slate_row]
    lost = yesterday & (np.random.default_rng(0).random(len(yesterday)) < 0.5)
    fewer = np.where(lost, np.nan, seen.impressions.click_delay)
    worse = seen._replace(impressions=seen.impressions._replace(click_delay=fewer))
    report = daily.daily_report(worse, None, shared, windows, day, max_bundle_age=1e9)
    assert {one.name for one in report.alarms} == {"click rate", "clicks over predicted"}
    assert report.untested == ["inputs, index recall: no --orders"]


def test_ages_the_store_and_the_index_have_limits(shared: Recommender, quiet: Lived, tmp_path: Path) -> None:
    day = quiet.first + BEFORE
    seen, shop, windows = quiet.read(shared, day)
    store = open_store(tmp_path / "store.db")

    def over(**settings: Any) -> set[str]:
        report = daily.daily_report(seen, shop, shared, windows, day, **settings)
        return {one.name for one in report.threshold_checks if one.alarm}

    assert over(max_bundle_age=1e9, store=store) == {"buyers missing in the store"}
    bulk_load(store, quiet.folder, lambda done, of: None)
    assert over(max_bundle_age=1e9, store=store) == set()
    assert over() == {"age of the bundle's data"}
    assert over(max_bundle_age=1e9, max_event_age=0.0) == {"age of the newest slate", "age of the newest click"}
    worse = daily.ThresholdCheck("index recall", 0.9, 0.95, is_upper_bound=False)
    assert worse.alarm
    assert not worse._replace(value=0.96).alarm


def test_gini() -> None:
    available = np.array([False, True, True, True, True])
    assert daily_metrics.gini(np.array([1, 2, 3, 4]), available) == 0
    assert daily_metrics.gini(np.array([1, 1, 1, 1]), available) == pytest.approx(0.75)
    assert np.isnan(daily_metrics.gini(np.zeros(0, np.int64), available))


def test_the_command_gates(
    shared: Recommender, quiet: Lived, loud: Lived, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(lived: Lived, day: int, *more: str) -> int:
        return main([
            "daily", "--bundle", str(shared.bundle.folder), "--events", str(lived.folder / "events"),
            "--orders", str(lived.folder / "orders.parquet"), "--day", format_date(day), "--bundle-age",
            "9999",
            *more,
        ])  # fmt: skip

    day = quiet.first + BEFORE
    assert run(quiet, day) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{format_date(day)}: No alarm: 3")
    page, prom = tmp_path / "day.html", tmp_path / "day.prom"
    assert run(loud, day, "--out", str(page), "--metrics", str(prom)) == 1
    printed = capsys.readouterr().out
    assert "ALARM" in printed
    assert "fallback tiers" in printed.splitlines()[-1]
    written = page.read_text()
    assert "fallback tiers" in written
    assert "<script" not in written
    assert "http" not in written.replace("http://www.w3.org", "")
    families = {family.name: family for family in text_string_to_metric_families(prom.read_text())}
    raised = {s.labels["figure"]: s.value for s in families["sextet_monitoring_alarm"].samples}
    assert raised["fallback tiers"] == 1
    assert raised["hour of day"] == 0
    assert families["sextet_monitoring_exit_code"].samples[0].value == 1
    assert families["sextet_monitoring_day_seconds"].samples[0].value == (day + 1) * DAY
    assert run(quiet, quiet.first + 3) == 2
    assert "fewer than 3 earlier days of its weekday" in capsys.readouterr().out
    assert run(quiet, day + 1000) == 2
    assert "no slate was logged" in capsys.readouterr().err


def test_alert_rules_name_metrics_that_exist(shared: Recommender, loud: Lived) -> None:
    """Every metric of a rule is one that the service or the daily report exposes; so is every label."""
    day = loud.first + BEFORE
    seen, _, windows = loud.read(shared, day)
    report = daily.daily_report(seen, None, shared, windows, day)
    known: dict[str, set[str]] = {}
    for registry in (ServiceMetrics().registry, prometheus_file.build_registry(report, [])):
        for collector in list(registry._collector_to_names):
            names = registry._collector_to_names[collector]
            known |= {name: set(collector._labelnames) | {"le"} for name in names}  # type: ignore[attr-defined]
    rules = [
        rule
        for group in yaml.safe_load(Path("operations/monitoring/alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10
    for rule in rules:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        used = re.findall(r"(sextet_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert used
        for name, selectors in used:
            assert name in known, f"{rule['alert']}: no metric {name}"
            assert set(re.findall(r"(\w+)\s*[=!]", selectors)) <= known[name]
        assert rule["expr"].count("(") == rule["expr"].count(")")
