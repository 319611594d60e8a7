"""Links of the pages lead to files and headings; code, configs and messages name pages that exist."""

from pathlib import Path

import pytest

from tests.documentation.blocks import page_name
from tests.documentation.links import (
    broken_links,
    broken_names,
    files_that_name_pages,
    malformed_links,
    relative_links,
)
from tests.end_to_end.commands import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_relative_link_resolves(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_to_other_sites_are_whole_urls(page: Path) -> None:
    assert malformed_links(page.read_text()) == []


def test_code_configs_and_messages_name_pages_that_exist() -> None:
    files = files_that_name_pages()
    assert len(files) > 500
    broken = {page_name(file): names for file in files if (names := list(broken_names(file)))}
    assert broken == {}


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        files = [
            (page.parent / link.partition("#")[0]).resolve() for link in relative_links(page.read_text())
        ]
        waiting += [file for file in files if file.suffix == ".md" and file.is_file()]
    assert [page_name(page) for page in PAGES if page not in reached] == []


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading, *twice*\n\n# A heading, twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#a-heading-twice) [b](gone.md) [c](other.md#gone) `[d](e.md)`"
        " [e](other.md#a-heading-twice-1)\n"
    )
    assert broken_links(page) == ["gone.md", "other.md#gone"]


def test_a_url_that_is_not_whole_is_named() -> None:
    text = "[a](https://a.b/c) [b](https:/a.b) [c](ftp://a.b) [d](https://a.b.) [e](http://localhost:8000)"
    assert malformed_links(text + " [f](g.md)") == [
        "https:/a.b",
        "ftp://a.b",
        "https://a.b.",
        "http://localhost:8000",
    ]


def test_a_name_of_no_page_is_found(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text('"""See docs/style.md, docs/gone.md, docs/style.md#names and docs/style.md#gone."""\n')
    assert list(broken_names(file)) == ["line 1: docs/gone.md", "line 1: docs/style.md#gone"]
