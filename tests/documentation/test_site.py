"""The site: links, lists and pictures of a page, the navigation, and a whole build without a warning."""

import re
from pathlib import Path

import pytest
import yaml

from documentation.markdown import DOCS, ROOT, github_lists, inline_pictures, site_links, table_bars
from documentation.reference.pages import REFERENCE_PAGES
from tests.storefront.browser import CHROMIUM, DRIVER, Browser


def navigation_files() -> list[str]:
    """The files that mkdocs.yml names in its navigation."""
    text = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    return re.findall(r"([\w/]+\.md)$", text, re.MULTILINE)


def test_links_lead_to_pages_of_the_site_and_sources_become_code() -> None:
    page = "[a](slate.md#six) [b](../../README.md) [c](../extending) [d](../../serving/checkout.py) [e](https://x.y)"
    assert site_links(page, "docs/explanation/slot.md") == (
        "[a](slate.md#six) [b](../README.md) [c](../extending/index.md) d (`serving/checkout.py`) [e](https://x.y)"
    )
    assert site_links("[a](docs/how_to/bring_data.md) ![p](docs/pictures/shop.png)", "README.md") == (
        "[a](how_to/bring_data.md) ![p](pictures/shop.png)"
    )
    assert site_links("[`models/schema.py`](models/schema.py)", "README.md") == "`models/schema.py`"
    assert site_links("[![x](docs/a.svg)](LICENSE)", "README.md") == "![x](a.svg)"
    assert site_links("[up](../data.md)", "docs/extending/task.md") == "[up](../data.md)"


def test_fences_stay_as_they_are() -> None:
    page = "text\n- item\n```\ntext\n- no item [a](../x.py)\n```\n"
    changed = github_lists(site_links(page, "docs/a.md"))
    assert changed == "text\n\n- item\n```\ntext\n- no item [a](../x.py)\n```\n"


def test_nested_lists_have_four_spaces() -> None:
    assert github_lists("1. one\n   - two\n") == "1. one\n    - two\n"


def test_bars_of_code_in_tables_lose_their_backslash() -> None:
    assert table_bars("| `a \\| b` | c \\| d |\n`e \\| f`\n") == "| `a | b` | c \\| d |\n`e \\| f`\n"


def test_a_picture_follows_the_mode_of_the_site() -> None:
    page = inline_pictures("![The system](system.svg)", "docs/pictures/index.md")
    assert page.startswith('<figure class="picture"')
    assert '[data-md-color-scheme="slate"] .picture-svg {' in page
    assert "prefers-color-scheme" not in page
    assert "\n\n" not in page  # Markdown would end the HTML there


def test_the_navigation_names_files_that_exist() -> None:
    generated = {f"reference/{name}.md" for name in REFERENCE_PAGES}
    for name in navigation_files():
        assert name in generated or (DOCS / name).is_file() or (ROOT / name).is_file(), name


@pytest.mark.parametrize("name", ["train", "export"])
def test_workflows_run_commands_of_the_repository(name: str) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    steps = workflow["jobs"][name]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands[0] == "make env"
    for command in commands[1:]:
        program, script, *_ = command.split()
        assert program == ".venv/bin/python"
        assert (ROOT / script).is_file()
    assert list(workflow[True]) == ["workflow_dispatch"]  # YAML reads `on` as true; nothing starts by itself


def test_the_site_builds_without_a_warning_and_needs_no_other_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)  # Abort for a warning
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 50
    loaded = re.compile(r'<(?:script|img|iframe)[^>]* src="https?:|<link[^>]* href="https?:')
    for page in pages:
        assert not loaded.search(page.read_text()), page
    assert "<h1" in (tmp_path / "index.html").read_text()
    assert "The retrieval index" in (tmp_path / "explanation" / "retrieval_index.html").read_text()
    assert (tmp_path / "search" / "search_index.js").is_file()
    for name in REFERENCE_PAGES:
        assert (tmp_path / "reference" / f"{name}.html").is_file()
    if CHROMIUM and DRIVER:
        check_search(tmp_path)


def check_search(site: Path) -> None:
    """Search in a browser, from the folder: it finds pages and asks no other host."""
    browser = Browser()
    try:
        browser.driver.get(f"file://{site}/tutorials/own_shop.html")
        browser.driver.find_element("css selector", "input[name=query]").send_keys("frequency cap")
        browser.until(
            lambda: "Cap how often an item is shown" in " ".join(browser.texts(".md-search-result__article"))
        )
        assert browser.complaints() == []
        loaded: list[str] = browser.run("return performance.getEntriesByType('resource').map((e) => e.name)")
        assert [url for url in loaded if url.startswith("http")] == []
    finally:
        browser.driver.quit()
