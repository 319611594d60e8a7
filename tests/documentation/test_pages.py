"""The commands and snippets of the README and the tutorials."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.documentation.pages import (
    UNREAD_LANGUAGES,
    PageRunner,
    command_lines,
    page_blocks,
    page_runner,
)
from tests.end_to_end.commands import ROOT
from training.config import compose_config

TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = [ROOT / "README.md", *(TUTORIALS / f"{n}.md" for n in ("demo", "own_shop", "ab_test", "extension"))]
PROGRAMS = ("make", "curl", ".venv/bin/python")


def shell_lines() -> list[str]:
    return [
        line
        for page in PAGES
        for block in page_blocks(page)
        if block.language == "bash"
        for line in command_lines(block.text)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_a_command_a_file_a_snippet_or_output(page: Path) -> None:
    blocks = page_blocks(page)
    assert any(block.language == "bash" for block in blocks)
    for block in blocks:
        assert block.language in ("bash", "python", "yaml", "toml", *UNREAD_LANGUAGES), block.text
        if block.language == "python":
            ast.parse(block.text)
        if block.language in ("yaml", "toml"):
            assert block.path, block.text


def test_shell_lines_call_programs_of_the_repository() -> None:
    for line in shell_lines():
        assert shlex.split(line)[0] in PROGRAMS, line


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {line.split()[1] for line in shell_lines() if line.startswith("make ")}
    assert named
    assert named <= set(targets)


def test_overrides_of_every_page_are_accepted(tmp_path: Path) -> None:
    for page in PAGES:
        for block in page_blocks(page):
            if block.path and block.path.startswith("my_configs/"):
                (tmp_path / block.path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / block.path).write_text(block.text)
    for line in sorted(set(shell_lines())):
        words = shlex.split(line)
        if len(words) > 2 and words[1:2] in (["train.py"], ["export.py"]):
            folder = tmp_path / "my_configs" if "--config-dir" in words else None
            overrides = [word for word in words[2:] if "=" in word]
            compose_config(words[1].removesuffix(".py"), overrides, folder)


def test_the_readme_is_short_and_names_six_files() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 200
    named = re.findall(r"^\d\. \[`(.+?)`\]", text, re.MULTILINE)
    assert len(named) == 6
    assert all((ROOT / name).is_file() for name in named)


def test_figures_of_the_readme_stand_in_the_results() -> None:
    readme, results = ((ROOT / name).read_text() for name in ("README.md", "docs/results/index.md"))
    table = readme.partition("| system | order |")[2].partition("\n\n")[0]
    figures = re.findall(r"\d*\.\d+(?: ± \.\d+)?", table)
    assert len(figures) > 15
    assert [figure for figure in figures if figure not in results] == []


def test_yaml_files_of_the_pages_are_mappings() -> None:
    files = [block for page in PAGES for block in page_blocks(page) if block.language == "yaml"]
    assert files
    assert all(isinstance(yaml.safe_load(block.text), dict) for block in files)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[PageRunner]:
    yield from page_runner(tmp_path)


@pytest.mark.slow
def test_the_tutorials_run_one_after_the_other(runner: PageRunner) -> None:
    """The shop of `own_shop` is trained, served, tested and extended; README and demo use its tables."""
    for name in ("own_shop", "ab_test", "extension", "demo"):
        runner.run(TUTORIALS / f"{name}.md")
        if name == "ab_test":  # the simulated log is the same everywhere
            outputs = [
                block.text for block in page_blocks(TUTORIALS / "ab_test.md") if block.language == "text"
            ]
            assert len(outputs) == 2
            assert [text for text in outputs if text.strip() not in runner.output] == []
    runner.run(ROOT / "README.md")
    bundle = runner.folder / "bundle" / "current"
    assert bundle.is_dir()
    assert (runner.folder / "reports" / "experiment.html").is_file()


@pytest.mark.slow
def test_settings_of_the_common_commands_are_accepted() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text()
    lines = re.findall(r"^\.venv/bin/python ((?:train|export|retrain)\.py [^#\n]*)", text, re.MULTILINE)
    checked = 0
    for line in lines:
        script, *words = shlex.split(line)
        if not any(word in ("-m", "update") or "<" in word for word in words):
            compose_config(script.removesuffix(".py"), [word for word in words if "=" in word])
            checked += 1
    assert checked > 8
