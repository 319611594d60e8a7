"""`python -m experimentation` on a shop's log, with the arms that the service deals."""

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


def analyzed(shop: Path, out: Path, *more: str) -> int:
    events, experiments = str(shop / "events"), str(shop / "experiments.toml")
    return main(["analyze", "--events", events, "--experiments", experiments, "--experiment", "weight",
                 "--start", START, "--end", END, "--out", str(out), *more])  # fmt: skip


def test_a_test_is_planned(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.html"
    events, orders = str(shop / "events"), str(shop / "orders.csv")
    assert main(["plan", "--events", events, "--orders", orders, "--uplift", "0.6", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    table = [line.split() for line in said.splitlines()[:9]]
    assert [line[0] for line in table] == ["weeks", *"12345678"]
    users, plain, cuped = ([line[place].rstrip("%") for line in table[1:]] for place in (1, 6, 7))
    assert users == sorted(users, key=lambda text: int(text.replace(",", "")))
    assert all(float(b) < float(a) for a, b in zip(plain, cuped, strict=True)), "CUPED finds smaller uplifts"
    assert float(plain[-1]) < float(plain[0])
    found = re.search(
        r"To find 60.0% more revenue per session takes ([\d,]+) users in two arms, with CUPED, and (\d)", said
    )
    assert found, said
    row = table[int(found.group(2))]
    assert found.group(1) == row[5]
    assert int(row[1].replace(",", "")) >= int(row[5].replace(",", ""))
    assert found.group(0).split(" takes")[0] in out.read_text()
    few = ["--share", "0.02", "--metric", "ctr", "--purchase-days", "65"]
    assert main(["plan", "--events", events, *few, "--out", str(out)]) == 0
    assert "and more than the log's 3 weeks" in capsys.readouterr().out


def test_a_test_is_read(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "test.html"
    assert analyzed(shop, out, "--items", str(shop / "items.csv"), "--orders", str(shop / "orders.csv"),
                    "--margin", "returns=0.5") == 0  # fmt: skip
    said = capsys.readouterr().out
    assert re.match(r"(Ship half|Keep the control|Not enough data)", said)
    for name in ("revenue per session", "CTR", "conversion", "p99 latency, ms", "leaf categories per slate"):
        assert name in said
        assert name in out.read_text()
    assert "not measured" not in said
    assert "14 days in which purchases count are not over yet" in said
    assert analyzed(shop, out) == 0
    assert capsys.readouterr().out.count("not measured") >= 2


@pytest.mark.parametrize(
    ("more", "code", "reason"),
    [
        (["--experiment", "wait"], 1, "there is no experiment 'wait'; there are weight"),
        (["--events", "nowhere"], 1, "nowhere has no Parquet files"),
        (["--start", "2027-01-01", "--end", "2027-01-02"], 1, "no user has a session in this time"),
        (["--start", "2026-04-01"], 2, "--end lies before --start"),
        (["--start", "March"], 2, "March: expected a day such as 2026-11-02"),
        (["--margin", "speed=1"], 2, "--margin speed=1: expected one of these"),
        (["--alpha", "5"], 2, "--alpha is 5.0: expected a share"),
        (["--items", "nowhere.csv"], 1, "nowhere.csv: there is no such file"),
        (["--events", "pyproject.toml"], 1, "pyproject.toml"),  # no Parquet file
    ],
)
def test_what_cannot_be_read_is_said(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, reason: str
) -> None:
    try:
        found = analyzed(shop, tmp_path / "out.html", *more)
    except SystemExit as left:
        found = int(str(left.code))
    assert found == code
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize(
    ("more", "code", "reason"),
    [
        (["--uplift", "0"], 2, "--uplift is 0.0: expected more than 0"),
        (["--share", "2"], 2, "--share is 2.0"),
        (["--purchase-days", "90"], 1, "a week is needed, and the 90 days in which purchases count"),
        (["--events", "nowhere"], 1, "nowhere has no Parquet files"),
    ],
)
def test_what_cannot_be_planned_is_said(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, reason: str
) -> None:
    try:
        found = main(["plan", "--events", str(shop / "events"), "--out", str(tmp_path / "plan.html"), *more])
    except SystemExit as left:
        found = int(str(left.code))
    assert found == code
    assert reason in capsys.readouterr().err
