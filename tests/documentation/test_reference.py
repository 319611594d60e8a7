"""The generated reference lacks nothing that the source has."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

import serving
from data.tables.contract import TABLES
from documentation.markdown import CODE
from documentation.reference.commands import all_commands, option_fields, option_name
from documentation.reference.config_comments import read_config_file
from documentation.reference.config_keys import WHOLE_CONFIG, group_of, value_range
from documentation.reference.http_routes import openapi_document
from documentation.reference.pages import CONTENT, REFERENCE_PAGES, reference_table
from documentation.reference.tables import cell
from serving.cli import COMMANDS
from serving.http.metrics import ServiceMetrics
from tests.end_to_end.commands import ROOT
from training.config_files import CONFIG_DIR

BAR = "\0"  # stands for a bar inside code


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: generate() for name, generate in REFERENCE_PAGES.items()}


def table_rows(page: str) -> dict[str, list[str]]:
    """First cell → the other cells of every row of a page's tables."""
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    rows = [CODE.sub(lambda span: span[0].replace("|", BAR), line).strip("| ").split(" | ") for line in lines]
    return {row[0].strip("`"): [each.replace(BAR, "|") for each in row[1:]] for row in rows}


def leaf_paths(values: Any, path: str = "") -> list[str]:
    if not isinstance(values, dict) or not values:
        return [path]
    return [leaf for key, value in values.items() for leaf in leaf_paths(value, f"{path}.{key}".strip("."))]


def config_paths(file: Path) -> list[str]:
    """The keys of a config file as the command line has them, read by another way than the page's."""
    values = {k: v for k, v in yaml.safe_load(file.read_text()).items() if k not in ("defaults", "hydra")}
    package = next(
        (line.split()[-1] for line in file.read_text().splitlines() if line.startswith("# @package")), None
    )
    prefix = group_of(file) if package is None else "" if package == WHOLE_CONFIG else package
    return [f"{prefix}.{leaf}".strip(".") for leaf in leaf_paths(values) if leaf]


@pytest.mark.parametrize("file", sorted(CONFIG_DIR.rglob("*.yaml")), ids=lambda file: str(file.stem))
def test_every_config_key_has_a_row_with_a_meaning(pages: dict[str, str], file: Path) -> None:
    rows = table_rows(pages["config"])
    paths = config_paths(file)
    assert [path for path in paths if path not in rows] == []
    assert [path for path in paths if not rows[path][1].strip()] == []
    assert [path for path in paths if not rows[path][2].strip()] == [], "without a type"


def test_the_range_of_a_key_is_that_which_training_checks(pages: dict[str, str]) -> None:
    assert value_range("ranker.train.epochs") == "1 to 10000"
    assert value_range("data.organic.share") == "0 to 0.9"
    assert "`val_ndcg6`" in value_range("ranker.train.monitor")
    assert table_rows(pages["config"])["ranker.train.epochs"][2].startswith("int: 1 to 10000")


def test_every_option_of_every_command_has_a_row(pages: dict[str, str]) -> None:
    sections = dict(part.split("\n", 1) for part in pages["commands"].split("\n## ")[1:])
    names = {f"sextet {command.__name__.replace('_', '-')}" for command in COMMANDS}
    assert names <= set(sections)
    for command in all_commands():
        rows = table_rows(sections[command.call])
        for spec in option_fields(command.options):
            assert cell(spec.metadata["help"]) in " | ".join(rows[option_name(spec)]), command.call


def test_the_commands_of_the_other_rooms_are_found() -> None:
    calls = {command.call for command in all_commands()}
    assert {"python -m experimentation analyze", "python -m operations.monitoring daily"} <= calls
    assert {"python -m evaluation.leaderboard", "python -m storefront", "python demo.py"} <= calls


def test_every_route_and_type_has_a_section(pages: dict[str, str]) -> None:
    document = openapi_document()
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"\n## {method.upper()} {path}\n" in pages["http"]
    for name in document["components"]["schemas"]:
        assert f"\n### {name}\n" in pages["http"]


def test_every_metric_has_a_row(pages: dict[str, str]) -> None:
    rows = table_rows(pages["metrics"])
    exposed = generate_latest(ServiceMetrics().registry).decode()
    names = {line.split()[2] for line in exposed.splitlines() if line.startswith("# TYPE")}
    assert names == set(rows)
    assert rows["sextet_requests_total"][:2] == ["counter", "`route`, `status`"]


def test_every_column_has_a_row(pages: dict[str, str]) -> None:
    for name, columns in TABLES.items():
        section = pages["tables"].partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert list(table_rows(section)) == list(columns)


def test_every_public_name_has_a_section(pages: dict[str, str]) -> None:
    for name in serving.__all__:
        assert f"\n## {name}\n" in pages["python"]
    rows = table_rows(pages["python"].partition("\n## Checkout\n")[2].partition("\n## ")[0])
    assert {"user_id", "basket", "ts", "exclude"} <= set(rows)
    assert rows["user_id"][2].startswith("None for a guest")


def test_every_page_is_listed_and_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert set(CONTENT) == set(REFERENCE_PAGES)
    for name in REFERENCE_PAGES:
        assert f"reference/{name}.md" in navigation
        assert f"({name}.md)" in reference_table()


def test_comments_go_to_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(
        "# The head.\n# @package here.there\n"
        "one: 1        # the first,\n"
        "              # continued\n"
        "group:        # not of the keys\n"
        "  # above the key\n"
        "  two: [a, b]\n"
        "  three: {x: 1.0, y: null}  # of both\n"
        "empty: {}\n"
    )
    found = read_config_file(file)
    assert (found.head, found.package) == ("The head.", "here.there")
    assert [tuple(key) for key in found.keys] == [
        ("one", "1", "the first, continued"),
        ("group.two", "[a, b]", "above the key"),
        ("group.three.x", "1.0", "of both"),
        ("group.three.y", "null", "of both"),
        ("empty", "{}", ""),
    ]
