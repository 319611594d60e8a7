"""`python -m serving recommend` prints a slate, and says what is wrong when it cannot."""

import json
from pathlib import Path

import pytest

from serving.__main__ import main


def test_a_slate_for_people(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--bundle", str(version.parent), "--user", "u001", "--items", "i001,i002"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("user u001, 2 lines paid, 2024-")
    assert [line.split()[0] for line in lines[2:8]] == list("123456")
    assert "tier ranked" in lines[8]
    assert version.name in lines[8]
    assert "ranker" in lines[8]
    assert printed.err == ""


def test_a_slate_for_programs(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "recommend",
        "--bundle",
        str(version),
        "--items",
        "i001",
        "--revenue-weight",
        "0",
        "--ts",
        "1700000000",
        "--json",
    ]
    assert (
        main([*arguments, "--exclude", "i003,i004", "--context", "device=phone", "--deadline-ms", "10000"])
        == 0
    )
    slate = json.loads(capsys.readouterr().out)
    assert len(slate["items"]) == 6
    assert slate["bundle_version"] == version.name
    assert not {"i003", "i004"} & {item["item_id"] for item in slate["items"]}


def test_what_is_unknown_is_said(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--bundle", str(version.parent), "--user", "nobody", "--items", "nothing"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "note: item nothing is unknown",
        "note: user nobody has no events in the store: answered as a new user",
    ]


def test_what_cannot_serve_exits_with_1(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "--bundle", str(tmp_path)]) == 1
    assert "no bundle here" in capsys.readouterr().err
    assert main(["recommend", "--bundle", str(version), "--store", str(tmp_path / "none.arrow")]) == 1
    assert "no such event store" in capsys.readouterr().err
    (tmp_path / "bad.arrow").write_text("text")
    assert main(["recommend", "--bundle", str(version), "--store", str(tmp_path / "bad.arrow")]) == 1
    assert "is no Arrow file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [["--revenue-weight", "2"], ["--ts", "-5"], ["--context", "device"], ["--ts", "now"], ["--user", ""]],
)
def test_wrong_arguments_exit_with_2(
    wrong: list[str], version: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["recommend", "--bundle", str(version), *wrong])
    assert exited.value.code == 2
    assert "error: " in capsys.readouterr().err
