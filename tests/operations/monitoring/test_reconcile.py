"""Each of six planted faults ranks first; a clean log has no significant cause."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from operations.monitoring import logged_slates
from operations.monitoring.__main__ import main
from operations.monitoring.reconcile.command import diagnose, read_shop
from operations.monitoring.reconcile.logged_requests import RequestSources
from operations.monitoring.reconcile.verdict import Diagnosis
from serving import Checkout, Recommender
from tests.data.shop import DAY
from tests.operations.monitoring import live


def diagnose_shop(recommender: Recommender, folder: Path) -> Diagnosis:
    windows = logged_slates.attribution_windows(recommender.bundle.manifest)
    with logged_slates.open_duckdb() as con:
        end = logged_slates.log_end(con, folder / "events")
        order_lines, orders, profiles = read_shop(con, folder, end)
        log = logged_slates.read_attributed_log(con, folder / "events", order_lines, windows, 0, end)
    sources = RequestSources(orders, profiles)
    return diagnose(log, sources, recommender, windows, end, n_requests=200)


def first_cause(diagnosis: Diagnosis) -> tuple[str, str]:
    cause = diagnosis.causes[0]
    assert cause.is_significant, diagnosis.summary()
    return cause.name, cause.evidence


def prices_in_cents(checkout: Checkout, _: Checkout | None) -> Checkout:
    basket = [replace(line, price=100 * (line.price or 0)) for line in checkout.basket]
    return replace(checkout, basket=basket)


def without_context(checkout: Checkout, _: Checkout | None) -> Checkout:
    return replace(checkout, context={})


def test_a_clean_log_has_no_significant_cause(low_click: Recommender, clean_shop: Path) -> None:
    diagnosis = diagnose_shop(low_click, clean_shop)
    assert diagnosis.match_rate == 1.0
    assert not any(cause.is_significant for cause in diagnosis.causes)
    assert diagnosis.summary() == "Offline and online agree: 100% of 200 requests replay as logged."
    observed, predicted, _ = diagnosis.observed_rates["clicks"]
    assert observed == pytest.approx(predicted, rel=0.08)


@pytest.mark.parametrize(
    ("perturb", "name", "evidence"),
    [
        (prices_in_cents, "skewed feature", "basket prices times 100 explains 100% of that"),
        (without_context, "skewed feature", "device missing explains 100% of that"),
        (
            lambda checkout, _: live.with_stale_history(checkout, 10),
            "stale cache",
            "a history that is 10 days old explains 100%",
        ),
        (
            lambda checkout, previous: previous or checkout,
            "stale cache",
            "the answer to the user's last checkout explains",
        ),
    ],
    ids=["prices", "device", "store", "slates"],
)
def test_a_perturbed_input_ranks_first(
    low_click: Recommender, tables: live.Tables, tmp_path: Path, name: str, evidence: str,
    perturb: Callable[[Checkout, Checkout | None], Checkout],
) -> None:  # fmt: skip
    shop = live.write(tmp_path, live.simulate(low_click, tables, perturb))
    cause = first_cause(diagnose_shop(low_click, shop))
    assert cause[0] == name
    assert evidence in cause[1]


def test_a_leaked_label_ranks_first(low_click: Recommender, clean: live.LiveShop, tmp_path: Path) -> None:
    name, evidence = first_cause(
        diagnose_shop(low_click, live.write(tmp_path, live.with_leaked_labels(clean)))
    )
    assert name == "leaked label"
    assert "AUC of purchases" in evidence


def test_late_labels_rank_first(low_click: Recommender, clean: live.LiveShop, tmp_path: Path) -> None:
    """Feedback after its window, and missing feedback."""
    name, evidence = first_cause(
        diagnose_shop(low_click, live.write(tmp_path / "slow", live.with_slower_feedback(clean, 6)))
    )
    assert (name, evidence.partition("clicks ")[2]) == ("late labels", "came after their window")
    until = live.LIVE_START + (live.LIVE_DAYS - 10) * DAY
    name, evidence = first_cause(diagnose_shop(low_click, live.write(tmp_path / "cut", clean, until)))
    assert name == "late labels"
    assert "newest quarter" in evidence


def test_a_position_effect_ranks_first(low_click: Recommender, tables: live.Tables, tmp_path: Path) -> None:
    shop = live.simulate(low_click, tables, examination_probability=lambda position: position**-0.7)
    name, evidence = first_cause(diagnose_shop(low_click, live.write(tmp_path, shop)))
    assert name == "position effect"
    assert evidence.startswith("clicks over predicted by position, relative to the first: 1.00, 0.")


def test_a_changed_mix_ranks_first(low_click: Recommender, tables: live.Tables, tmp_path: Path) -> None:
    shop = live.simulate(low_click, live.with_new_users(tables, 0.6))
    name, evidence = first_cause(diagnose_shop(low_click, live.write(tmp_path, shop)))
    assert name == "changed traffic mix"
    assert evidence.startswith("tenure: ")


def test_the_command_prints_writes_and_sets_exit_codes(
    low_click: Recommender, clean: live.LiveShop, clean_shop: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ["reconcile", "--bundle", str(low_click.bundle.folder), "--sample", "100"]
    out = ["--out", str(tmp_path / "why.html"), "--json", str(tmp_path / "why.json")]
    shop = live.write(tmp_path / "shop", live.with_slower_feedback(clean, 6))
    assert main([*command, "--events", str(shop / "events"), "--shop", str(shop), *out]) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("late labels")
    assert printed.splitlines()[-1].startswith("Most likely: late labels.")
    assert "Most likely: late labels." in (tmp_path / "why.html").read_text()
    report = json.loads((tmp_path / "why.json").read_text())
    assert report["causes"][0]["name"] == "late labels"
    assert report["causes"][0]["is_significant"]
    assert main([*command, "--events", str(clean_shop / "events"), "--shop", str(clean_shop)]) == 0


def test_unusable_logs_are_refused(
    version: Path,
    low_click: Recommender,
    clean_shop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A log of another version, and no log."""
    command = ["reconcile", "--bundle", str(version), "--shop", str(clean_shop), "--events"]
    assert main([*command, str(clean_shop / "events")]) == 2
    assert "only 0 of the needed 30 requests can be replayed" in capsys.readouterr().err
    assert main([*command, str(tmp_path)]) == 2
    assert "it has no Parquet files" in capsys.readouterr().err
