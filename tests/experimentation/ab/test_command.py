"""`python -m experimentation` on a shop's log, with the arms that the service assigns."""

import re
from pathlib import Path

import pytest

from benchmarks.experiment_log import write_shop
from experimentation.__main__ import main

START, END = "2026-03-02", "2026-03-29"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder, users=1000)
    return folder


def run_analyze(shop: Path, out: Path, *options: str) -> int:
    events, experiments = str(shop / "events"), str(shop / "experiments.toml")
    return main(["analyze", "--events", events, "--experiments", experiments, "--experiment", "weight",
                 "--start", START, "--end", END, "--out", str(out), *options])  # fmt: skip


def test_a_test_is_planned(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.html"
    events, orders = str(shop / "events"), str(shop / "orders.csv")
    slot = ["--metric", "revenue_per_session", "--out", str(out)]
    assert main(["plan", "--events", events, "--orders", orders, "--uplift", "0.6", *slot]) == 0
    printed = capsys.readouterr().out
    table = [line.split() for line in printed.splitlines()[:9]]
    assert [line[0] for line in table] == ["weeks", *"12345678"]
    users, plain, cuped = ([line[column].rstrip("%") for line in table[1:]] for column in (1, 6, 7))
    assert users == sorted(users, key=lambda text: int(text.replace(",", "")))
    assert all(float(b) < float(a) for a, b in zip(plain, cuped, strict=True)), "CUPED finds smaller uplifts"
    assert float(plain[-1]) < float(plain[0])
    summary = re.search(
        r"To find 60.0% more revenue per session takes ([\d,]+) users in two arms, with CUPED, and (\d)",
        printed,
    )
    assert summary, printed
    row = table[int(summary.group(2))]
    assert summary.group(1) == row[5]
    assert int(row[1].replace(",", "")) >= int(row[5].replace(",", ""))
    assert summary.group(0).split(" takes")[0] in out.read_text()
    few_users = ["--metric", "ctr", "--share", "0.02", "--purchase-days", "65"]
    assert main(["plan", "--events", events, *few_users, "--out", str(out)]) == 0
    assert "and more than the log's 3 weeks" in capsys.readouterr().out
    assert main(["plan", "--events", events, "--orders", orders, *few_users[2:], "--out", str(out)]) == 0
    assert "more order revenue per user takes" in capsys.readouterr().out


def test_a_test_is_analyzed(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "test.html"
    assert run_analyze(shop, out, "--items", str(shop / "items.csv"), "--orders", str(shop / "orders.csv"),
                    "--margin", "returns=0.5") == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert re.match(r"(Ship half|Keep the control|Not enough data)", printed)
    assert "The deciding metric is order revenue per user." in out.read_text()
    assert "names no metric" not in printed
    for name in (
        "order revenue per user",
        "revenue per session",
        "CTR",
        "conversion",
        "p99 latency, ms",
        "leaf categories per slate",
    ):
        assert name in printed
        assert name in out.read_text()
    assert "not measured" not in printed
    assert "purchase window of 14 days is not over yet" in printed
    unnamed = tmp_path / "unnamed.toml"
    text = (shop / "experiments.toml").read_text()
    unnamed.write_text(text.replace('metric = "order_revenue_per_user"', ""))
    assert run_analyze(shop, out, "--experiments", str(unnamed)) == 0
    printed = capsys.readouterr().out
    assert "The file of experiments names no metric, so revenue per session decides." in printed
    assert printed.count("not measured") >= 2
    assert "order revenue per user" not in printed
    assert "It cannot distinguish purchases that the slot added from purchases that moved into it." in printed
    assert "The deciding metric is revenue per session." in out.read_text()


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        ([], 1, "order revenue per user decides, but no orders were given: give --orders"),
        (["--experiment", "wait"], 1, "unknown experiment 'wait'; expected weight"),
        (["--events", "nowhere"], 1, "nowhere has no Parquet files"),
        (["--start", "2027-01-01", "--end", "2027-01-02"], 1, "no user has a session in this time"),
        (["--start", "2026-04-01"], 2, "--end lies before --start"),
        (["--start", "March"], 2, "March: expected a day such as 2026-11-02"),
        (["--margin", "speed=1"], 2, "argument --margin: speed=1: expected one of these"),
        (["--alpha", "5"], 2, "argument --alpha: 5: expected a share"),
        (["--items", "nowhere.csv"], 1, "nowhere.csv: there is no such file"),
        (["--events", "pyproject.toml"], 1, "pyproject.toml"),  # no Parquet file
    ],
)
def test_unusable_input_of_analyze_is_refused(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, reason: str
) -> None:
    try:
        exit_code = run_analyze(shop, tmp_path / "out.html", *options)
    except SystemExit as exit_error:
        exit_code = int(str(exit_error.code))
    assert exit_code == code
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--uplift", "0"], 2, "argument --uplift: 0: expected more than 0"),
        (["--metric", "order_revenue_per_user"], 1, "no orders were given: give --orders"),
        (["--share", "2"], 2, "argument --share: 2: expected a share above 0, up to 1"),
        (["--purchase-days", "90"], 1, "A plan needs a week and the 90 days in which purchases count"),
        (["--events", "nowhere"], 1, "nowhere has no Parquet files"),
    ],
)
def test_unusable_input_of_plan_is_refused(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, reason: str
) -> None:
    try:
        out = str(tmp_path / "plan.html")
        exit_code = main(["plan", "--events", str(shop / "events"), "--out", out, *options])
    except SystemExit as exit_error:
        exit_code = int(str(exit_error.code))
    assert exit_code == code
    assert reason in capsys.readouterr().err
