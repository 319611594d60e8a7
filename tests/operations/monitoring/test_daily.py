"""Quiet days raise no alarm, planted shifts do; the command writes a page and metrics."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.simulated_live_log import DayConfig, LiveShop, LogDays, write_log
from data.tables.reader import open_file
from operations.monitoring import daily_metrics, logged_slates, past_checkouts, prometheus_file
from operations.monitoring.__main__ import main
from operations.monitoring.daily import DailyReportConfig, ThresholdCheck, daily_report
from operations.monitoring.formatting import format_date, report_summary
from serving import Recommender, open_store
from serving.checkout import SECONDS_PER_DAY as DAY
from serving.http.metrics import ServiceMetrics
from serving.stores.base import Store
from serving.stores.loading import bulk_load
from tests.serving.http.test_metrics import METRICS_OF_THE_PARENT

WARM_UP_DAYS, QUIET_DAYS, ORDERS_PER_DAY = 28 + 14 + 28, 4, 150
NO_BUNDLE_LIMIT = DailyReportConfig(max_bundle_age_days=1e9)
SHIFTED = DayConfig(
    price_factor=1.2, extra_lines=4.0, single_category_share=0.5, phone_share=0.8, new_user_share=0.6,
    unknown_item_share=0.1, unknown_value_share=0.25,
    click_logit_shift=1.0, fallback_share=0.1, single_category_slate_share=0.7,
)  # fmt: skip


class LiveLog(NamedTuple):
    """A folder of orders and events, and its first day."""

    folder: Path
    first: int

    def read(
        self, recommender: Recommender, day: int
    ) -> tuple[logged_slates.AttributedLog, past_checkouts.OrderHistory, logged_slates.AttributionWindows]:
        windows, end = logged_slates.attribution_windows(recommender.bundle.manifest), (day + 1) * DAY
        with logged_slates.open_duckdb() as con:
            order_lines = logged_slates.read_orders(con, open_file(self.folder / "orders.parquet"), end)
            log = logged_slates.read_attributed_log(con, self.folder / "events", order_lines, windows, 0, end)
            return log, past_checkouts.read_order_history(con, order_lines), windows


@pytest.fixture(scope="module")
def quiet(shared: Recommender, tmp_path_factory: pytest.TempPathFactory) -> LiveLog:
    first = int(shared.bundle.manifest["data"]["window"]["end"]) // DAY + 1
    days = WARM_UP_DAYS + QUIET_DAYS
    folder = tmp_path_factory.mktemp("quiet")
    shop, log_days = LiveShop(shared.bundle, ORDERS_PER_DAY), LogDays(first, days, days)
    return LiveLog(write_log(shop, folder, log_days, DayConfig()), first)


@pytest.fixture(scope="module")
def shifted(shared: Recommender, quiet: LiveLog, tmp_path_factory: pytest.TempPathFactory) -> LiveLog:
    """The same log with shifts on its last day."""
    folder = tmp_path_factory.mktemp("shifted")
    shop, log_days = (
        LiveShop(shared.bundle, ORDERS_PER_DAY),
        LogDays(quiet.first, WARM_UP_DAYS + 1, WARM_UP_DAYS),
    )
    return LiveLog(write_log(shop, folder, log_days, SHIFTED), quiet.first)


def test_quiet_days_raise_no_alarm(shared: Recommender, quiet: LiveLog) -> None:
    log, orders, windows = quiet.read(shared, quiet.first + WARM_UP_DAYS + QUIET_DAYS - 1)
    for day in range(quiet.first + WARM_UP_DAYS, quiet.first + WARM_UP_DAYS + QUIET_DAYS):
        report = daily_report(log, orders, shared, windows, day, config=NO_BUNDLE_LIMIT)
        assert not report.alarms
        assert report.exit_code == 0
        assert not report.untested
        assert {statistic.group for statistic in report.statistics} == {
            "inputs",
            "scores",
            "slates",
            "outcomes",
        }
        assert report.bundle_versions == (shared.bundle.version,)


def test_every_planted_shift_raises_an_alarm(shared: Recommender, shifted: LiveLog) -> None:
    day = shifted.first + WARM_UP_DAYS
    log, orders, windows = shifted.read(shared, day)
    report = daily_report(log, orders, shared, windows, day, config=NO_BUNDLE_LIMIT)
    names = {statistic.name for statistic in report.alarms}
    assert names >= {
        "price ratio to catalog", "basket size", "category of basket", "device", "new users",
        "unknown items in baskets", "unknown context values", "p(click)", "fallback tiers",
        "categories in a slate",
    }  # fmt: skip
    assert not names & {"hour of day", "checkouts", "slates", "click rate", "purchase rate"}
    assert report.exit_code == 1
    assert "device" in report_summary(report)


def test_outcomes_are_tested_on_the_last_day_with_complete_outcomes(
    shared: Recommender, quiet: LiveLog
) -> None:
    """A click rate that falls for a day raises an alarm a day later."""
    day = quiet.first + WARM_UP_DAYS
    log, _, windows = quiet.read(shared, day)
    is_yesterday = (log.slates.ts // DAY == day - 1)[log.impressions.slate_row]
    is_lost = is_yesterday & (np.random.default_rng(0).random(len(is_yesterday)) < 0.5)
    click_delay = np.where(is_lost, np.nan, log.impressions.click_delay)
    worse = log._replace(impressions=log.impressions._replace(click_delay=click_delay))
    report = daily_report(worse, None, shared, windows, day, config=NO_BUNDLE_LIMIT)
    assert {statistic.name for statistic in report.alarms} == {"click rate", "click calibration ratio"}
    assert report.untested == ["inputs, index recall: no --orders"]


def test_further_tasks_are_tested_in_their_own_window(shared: Recommender, quiet: LiveLog) -> None:
    """A rate that falls for a day raises an alarm when the window has passed; a missing task raises none."""
    day = quiet.first + WARM_UP_DAYS
    log, _, windows = quiet.read(shared, day)
    windows = windows._replace(further=(logged_slates.FeedbackTask("wishlist", "wishlist", 2 * DAY),))
    is_tested = (log.slates.ts // DAY == day - 2)[log.impressions.slate_row]
    is_lost = is_tested & (np.random.default_rng(0).random(len(is_tested)) < 0.5)
    impressions = log.impressions._replace(
        further_predictions={"wishlist": log.impressions.p_click},
        further_delays={"wishlist": np.where(is_lost, np.nan, log.impressions.click_delay)},
        p_click=np.full(len(is_lost), np.nan),
    )
    report = daily_report(
        log._replace(impressions=impressions), None, shared, windows, day, config=NO_BUNDLE_LIMIT
    )
    assert {statistic.name for statistic in report.alarms} == {"wishlist rate", "wishlist calibration ratio"}
    names = {statistic.name for statistic in report.statistics}
    assert "prediction wishlist" in names
    assert not names & {"p(click)", "click calibration ratio"}
    assert report.untested == ["inputs, index recall: no --orders"]


def test_ages_store_and_index_have_limits(shared: Recommender, quiet: LiveLog, tmp_path: Path) -> None:
    day = quiet.first + WARM_UP_DAYS
    log, orders, windows = quiet.read(shared, day)
    store = open_store(tmp_path / "store.db")

    def alarms(store: Store | None = None, **limits: float) -> set[str]:
        config = DailyReportConfig(**limits)
        report = daily_report(log, orders, shared, windows, day, store, config)
        return {check.name for check in report.threshold_checks if check.alarm}

    assert alarms(store, max_bundle_age_days=1e9) == {"buyers missing from the store"}
    bulk_load(store, quiet.folder, lambda done, total: None)
    assert alarms(store, max_bundle_age_days=1e9) == set()
    assert alarms() == {"age of the bundle's data"}
    assert alarms(max_bundle_age_days=1e9, max_event_age_hours=0.0) == {
        "age of the newest slate",
        "age of the newest click",
    }
    recall = ThresholdCheck("index recall", 0.9, 0.95, is_upper_bound=False)
    assert recall.alarm
    assert not recall._replace(value=0.96).alarm


def test_gini() -> None:
    available = np.array([False, True, True, True, True])
    assert daily_metrics.gini(np.array([1, 2, 3, 4]), available) == 0
    assert daily_metrics.gini(np.array([1, 1, 1, 1]), available) == pytest.approx(0.75)
    assert np.isnan(daily_metrics.gini(np.zeros(0, np.int64), available))


def test_the_command_sets_exit_codes(
    shared: Recommender, quiet: LiveLog, shifted: LiveLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(live_log: LiveLog, day: int, *options: str) -> int:
        return main([
            "daily", "--bundle", str(shared.bundle.folder), "--events", str(live_log.folder / "events"),
            "--orders", str(live_log.folder / "orders.parquet"), "--day", format_date(day),
            "--max-bundle-age-days", "9999",
            *options,
        ])  # fmt: skip

    day = quiet.first + WARM_UP_DAYS
    assert run(quiet, day) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{format_date(day)}: No alarm: 3")
    page, prom = tmp_path / "day.html", tmp_path / "day.prom"
    assert run(shifted, day, "--out", str(page), "--metrics", str(prom)) == 1
    printed = capsys.readouterr().out
    assert "ALARM" in printed
    assert "fallback tiers" in printed.splitlines()[-1]
    written = page.read_text()
    assert "fallback tiers" in written
    assert "<script" not in written
    assert "http" not in written.replace("http://www.w3.org", "")
    families = {family.name: family for family in text_string_to_metric_families(prom.read_text())}
    raised = {s.labels["metric"]: s.value for s in families["sextet_monitoring_alarm"].samples}
    assert raised["fallback tiers"] == 1
    assert raised["hour of day"] == 0
    assert families["sextet_monitoring_exit_code"].samples[0].value == 1
    assert families["sextet_monitoring_day_end_timestamp_seconds"].samples[0].value == (day + 1) * DAY
    assert run(quiet, quiet.first + 3) == 2
    assert "fewer than 3 earlier days of its weekday" in capsys.readouterr().out
    assert run(quiet, day + 1000) == 2
    assert "no slate was logged" in capsys.readouterr().err


def test_alert_rules_name_metrics_that_exist(shared: Recommender, shifted: LiveLog) -> None:
    """The service or the daily report exposes every metric and label of a rule."""
    day = shifted.first + WARM_UP_DAYS
    log, _, windows = shifted.read(shared, day)
    report = daily_report(log, None, shared, windows, day)
    labels_by_metric: dict[str, set[str]] = {}
    for registry in (ServiceMetrics().registry, prometheus_file.build_registry(report, [])):
        for collector in list(registry._collector_to_names):
            names = registry._collector_to_names[collector]
            labels_by_metric |= {name: set(collector._labelnames) | {"le"} for name in names}  # type: ignore[attr-defined]
    rules = [
        rule
        for group in yaml.safe_load(Path("operations/monitoring/alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10
    for rule in rules:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        metrics = re.findall(r"(sextet_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert metrics
        for name, selectors in metrics:
            if name in METRICS_OF_THE_PARENT:
                continue
            assert name in labels_by_metric, f"{rule['alert']}: no metric {name}"
            assert set(re.findall(r"(\w+)\s*[=!]", selectors)) <= labels_by_metric[name]
        assert rule["expr"].count("(") == rule["expr"].count(")")
