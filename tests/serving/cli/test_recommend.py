"""`sextet recommend` prints a slate, or one line about what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving.cli import main

ROOT = Path(__file__).parents[3]


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


def test_unknown_ids_are_reported(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--bundle", str(version.parent), "--user", "nobody", "--items", "nothing"]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "note: item nothing is unknown",
        "note: user nobody has no events in the store: answered as a new user",
    ]
    assert printed.out.startswith("user nobody, 1 line paid, ")
    assert "history" not in printed.out, "the reasons are those of the basket"


def test_a_bundle_or_store_that_cannot_serve_exits_with_1(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "--bundle", str(tmp_path)]) == 1
    assert "no bundle here" in capsys.readouterr().err
    assert main(["recommend", "--bundle", str(version), "--store", str(tmp_path / "none.arrow")]) == 1
    assert "no such event store" in capsys.readouterr().err
    (tmp_path / "bad.arrow").write_text("text")
    assert main(["recommend", "--bundle", str(version), "--store", str(tmp_path / "bad.arrow")]) == 1
    assert "is not an Arrow file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--revenue-weight", "2"], ["--ts", "-5"], ["--context", "device"], ["--ts", "now"], ["--user", ""]],
)
def test_wrong_arguments_exit_with_2(
    options: list[str], version: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_error:
        main(["recommend", "--bundle", str(version), *options])
    assert exit_error.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_help_shows_the_name_of_the_call(capsys: pytest.CaptureFixture[str]) -> None:
    for prog in ("sextet", "python -m serving"):
        for command in ("recommend", "batch", "load", "serve"):
            with pytest.raises(SystemExit):
                main([command, "--help"], prog=prog)
            help_text = capsys.readouterr().out
            assert help_text.startswith(f"usage: {prog} {command}")
            assert f"example: {prog} {command} --" in help_text


def test_the_old_name_of_serve_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http", "--bundle", "bundle"], prog="python -m serving") == 2
    assert capsys.readouterr().err == "error: `http` is now `serve`: python -m serving serve\n"


def test_the_module_is_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "serving", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("usage: python -m serving ")
    for command in ("recommend", "batch", "load", "serve", "rollback"):
        assert f"\n    {command}" in run.stdout


def test_fcntl_and_optional_packages_are_imported_where_they_are_used() -> None:
    """`import serving` and the stores need neither POSIX locks nor a client nor the HTTP packages."""
    script = """
import sys
import faiss, pyarrow.parquet, torch
names = "fcntl", "fastapi", "redis", "uvicorn"
for name in names:
    sys.modules.pop(name, None)
import serving, serving.stores, serving.stores.uri, serving.stores.loading, serving.storage.versions
assert not sys.modules.keys() & {*names}, sys.modules.keys() & {*names}
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
