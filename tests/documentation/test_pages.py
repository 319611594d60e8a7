"""The commands and snippets of every page run, in a clone with the tutorial's shop; the README's promises."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.documentation.blocks import page_blocks, page_name, tracked_pages
from tests.documentation.clone import clone, install_wheel, page_environment
from tests.documentation.runner import PageRunner, restore
from tests.documentation.shop import SHOP_PAGE, build_shop
from tests.end_to_end.commands import ROOT

AB_TEST_PAGE = ROOT / "docs" / "tutorials" / "ab_test.md"


def runs_something(page: Path) -> bool:
    """Whether a page has a command or a snippet that is run."""
    return any(
        block.is_run and (block.language == "bash" or (block.language == "python" and block.path is None))
        for block in page_blocks(page)
    )


RUN_PAGES = [page for page in tracked_pages() if runs_something(page)]


class ShopState(NamedTuple):
    """A clone with the tutorial's shop, trained and exported, as each page finds it."""

    saved: Path
    bare: Path  # the clone before the tutorial
    folder: Path  # where it was made and pages run: files may hold absolute paths
    variables: dict[str, str]
    binaries: Path  # of an environment with the wheel


@pytest.fixture(scope="session")
def shop_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopState]:
    root = tmp_path_factory.mktemp("pages")
    binaries = install_wheel(root / "wheel")
    variables = page_environment(root / "home", binaries)
    state = ShopState(root / "saved", root / "bare", root / "clone", variables, binaries)
    clone(state.folder)
    restore(state.folder, state.bare)
    build_shop(PageRunner(state.folder, variables, binaries))
    restore(state.folder, state.saved)
    yield state
    shutil.rmtree(root)


@pytest.fixture
def runner(shop_state: ShopState, request: pytest.FixtureRequest) -> Iterator[PageRunner]:
    """A runner in a clone; the page of the shop starts from nothing."""
    page = request.node.callspec.params["page"]
    restore(shop_state.bare if page == SHOP_PAGE else shop_state.saved, shop_state.folder)
    runner = PageRunner(shop_state.folder, shop_state.variables, shop_state.binaries)
    yield runner
    runner.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_PAGES, ids=page_name)
def test_a_page_runs(page: Path, runner: PageRunner) -> None:
    runner.run(page)
    if page == SHOP_PAGE:
        assert (runner.folder / "bundle" / "current").is_dir()
    if page == AB_TEST_PAGE:  # the simulated log is the same everywhere
        outputs = [block.text for block in page_blocks(page) if block.language == "text"]
        assert len(outputs) > 1
        assert [text for text in outputs if text.strip() not in runner.output] == []
        assert (runner.folder / "reports" / "experiment.html").is_file()


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
