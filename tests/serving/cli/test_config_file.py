"""Options of `sextet serve` from a file, the environment and flags."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cli import main
from serving.cli.config_file import FILE_OPTION, FLAGS_ONLY, OptionValue, format_config, resolve_options
from serving.cli.serve import ServeOptions
from serving.command_line import OptionSpec, option_specs
from tests.serving.http.services import ROOT

SPECS = [s for s in option_specs(ServeOptions) if s.name not in (FILE_OPTION, *FLAGS_ONLY)]
BY_NAME = {spec.name: spec for spec in SPECS}


def sample(spec: OptionSpec) -> Any:
    """A value other than the default."""
    if spec.choices:
        return next(choice for choice in spec.choices if choice != spec.default)
    value = {bool: True, int: 3, float: 0.5}.get(spec.type, "somewhere")
    return [value] if spec.is_repeated else value


def values(flags: dict[str, Any], environment: dict[str, str]) -> dict[str, OptionValue]:
    return resolve_options(ServeOptions, flags, environment)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_option_has_every_source(spec: OptionSpec, tmp_path: Path) -> None:
    """Whatever options are added, each stands in the file, in the environment and as a flag."""
    file, value = tmp_path / "serve.toml", sample(spec)
    file.write_text(f"{spec.name} = {json.dumps(value)}\n")
    variable = f"SEXTET_{spec.name.upper()}"
    text = " ".join(json.dumps(part).strip('"') for part in (value if spec.is_repeated else [value]))
    by_file = values({"config": file}, {})[spec.field]
    by_variable = values({}, {variable: text})[spec.field]
    assert by_file.value == by_variable.value != spec.default
    assert (by_file.origin, by_variable.origin) == (f"file {file}", f"environment {variable}")
    assert isinstance(by_file.value[0] if spec.is_repeated else by_file.value, spec.type)
    assert values({}, {})[spec.field] == OptionValue(spec.default, "default", spec.default)


@given(
    st.dictionaries(
        st.sampled_from(["port", "workers", "max_body"]),
        st.lists(st.tuples(st.sampled_from("fev"), st.integers(1024, 9999)), min_size=1, max_size=3),
    )
)
def test_the_first_source_wins(tmp_path_factory: pytest.TempPathFactory, given_values: Any) -> None:
    """f: flag, e: environment, v: file; the last of a source counts."""
    by_origin: dict[str, dict[str, int]] = {"f": {}, "e": {}, "v": {}}
    for name, pairs in given_values.items():
        for source, number in pairs:
            by_origin[source][name] = number
    file = tmp_path_factory.mktemp("config") / "serve.toml"
    file.write_text("".join(f"{name} = {number}\n" for name, number in by_origin["v"].items()))
    environment = {f"SEXTET_{name.upper()}": str(number) for name, number in by_origin["e"].items()}
    combined = values({"config": file, **by_origin["f"]}, environment)
    for name in ("port", "workers", "max_body"):
        expected = by_origin["f"].get(name, by_origin["e"].get(name, by_origin["v"].get(name)))
        assert combined[name].value == (BY_NAME[name].default if expected is None else expected)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("deadline = 50", ("deadline is not an option", "did you mean deadline_ms?", "a number")),
        ("deadline-ms = 50", ("did you mean deadline_ms?",)),
        ("queue_limit = 5", ("did you mean limit?",)),  # the name of the flag counts
        ("zzz = 1", ("zzz is not an option", "expected one of bundle, store")),
        ("deadline_ms = '50'", ('deadline_ms is "50"', "expected a number", "milliseconds")),
        ("workers = 2.0", ("workers is 2.0", "expected an integer")),
        ("workers = true", ("workers is true", "expected an integer")),
        ("store = 5", ("store is 5", "expected a string")),
        ("workers = 1\nworkers = 2", ("Cannot overwrite a value",)),
        ("[serve]\nworkers = 1", ("serve is not a table",)),
        ("workers = ", ("not a TOML file",)),
        ("config = 'other.toml'", ("config is not allowed in the file",)),
        ("print_config = true", ("print_config is not allowed in the file", "--print-config")),
        ("log = 's3://bucket/log'", ("log: s3://bucket/log: expected a path of this machine",)),
        ("store = ['a']", ('store is ["a"]', "expected a string")),
    ],
)
def test_wrong_files_are_refused(
    content: str, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(content)
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--config", str(file)])
    error = capsys.readouterr().err
    for word in (str(file), *words):
        assert word in error


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 1
    assert f"error: --config {tmp_path / 'none.toml'}: No such file" in capsys.readouterr().err
    (tmp_path / "latin.toml").write_bytes(b"host = '\xe4'")
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--config", str(tmp_path / "latin.toml")])
    assert "latin.toml: not a TOML file of options" in capsys.readouterr().err


def test_variables_of_the_environment() -> None:
    for variable, text, words in (
        ("SEXTET_DEADLIN_MS", "5", "did you mean SEXTET_DEADLINE_MS? It expects a number"),
        ("SEXTET_WORKERS", "two", 'SEXTET_WORKERS is "two": expected an integer'),
        ("SEXTET_PRINT_CONFIG", "true", "give the flag --print-config"),
        ("SEXTET_PORT", "tcp", "expected an integer"),
    ):
        with pytest.raises(ValueError, match=r".") as raised:
            values({}, {variable: text})
        assert words in str(raised.value)
    # Empty ones, other names, and what Kubernetes sets for a Service `sextet` or `sextet-store`.
    links = {
        "SEXTET_PORT": "tcp://10.0.0.1:80",
        "SEXTET_SERVICE_HOST": "10.0.0.1",
        "SEXTET_SERVICE_PORT": "80",
        "SEXTET_SERVICE_PORT_HTTP": "80",
        "SEXTET_PORT_80_TCP_ADDR": "10.0.0.1",
        "SEXTET_STORE_PORT": "tcp://10.0.0.2:6379",
    }
    combined = values({}, {"SEXTET_LOG": "", "SEXTET_IMAGE_DIGEST": "sha256:1", **links})
    assert {given.origin for given in combined.values()} == {"default"}


def test_an_error_of_a_flag_names_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("deadline_ms = 0")
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--config", str(file)])
    assert f"--deadline-ms comes from file {file}" in capsys.readouterr().err


def test_print_config_masks_passwords_and_can_be_read_again(tmp_path: Path) -> None:
    file, again = tmp_path / "serve.toml", tmp_path / "again.toml"
    file.write_text('store = "redis://shop:p@ss@localhost/0?password=hidden"\nworkers = 2\n')
    command = [
        sys.executable,
        "-m",
        "serving",
        "serve",
        "--config",
        str(file),
        "--port",
        "9000",
        "--print-config",
    ]
    environment = {"SEXTET_DEADLINE_MS": "80", "SEXTET_API_KEY_FILE": "", "PATH": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = {line.split(" = ")[0]: line for line in done.stdout.splitlines()}
    assert lines["store"].startswith('store = "redis://***@localhost/0"')
    assert lines["port"].split() == ["port", "=", "9000", "#", "flag"]
    assert lines["deadline_ms"].split()[2:] == ["80.0", "#", "environment", "SEXTET_DEADLINE_MS"]
    assert lines["workers"].endswith(f"# file {file}")
    assert lines["host"].endswith("# default")
    assert "p@ss" not in done.stdout
    assert "hidden" not in done.stdout
    again.write_text(done.stdout)
    assert values({"config": again}, {})["deadline_ms"].value == 80.0


@pytest.mark.parametrize(
    "flag", ["--api-key-file", "--admin-key-file", "--trust", "--experiments", "--rules", "--messages"]
)
def test_a_missing_file_is_named_with_its_option(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = ["--log", str(tmp_path / "log")]
    assert main(["serve", flag, str(tmp_path / "none"), *log, "--print-config"]) == 1
    assert capsys.readouterr().err == f"error: {flag} {tmp_path / 'none'}: No such file or directory\n"


def test_a_repeated_option_is_a_list() -> None:
    """`serve` has none today."""
    spec = BY_NAME["host"]._replace(is_repeated=True)
    assert format_config({"host": OptionValue(("a", "b"), "flag", ("a", "b"))}, [spec]) == [
        'host = ["a", "b"]                              # flag'
    ]
