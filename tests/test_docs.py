"""Links between the pages: every relative link names a file, and every anchor a heading of it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: lower case, no punctuation, - for a space."""
    headings = HEADING.findall(CODE_BLOCK.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def relative_links(text: str) -> list[str]:
    """The targets of a page's links, without those to other sites and those inside code."""
    prose = CODE_SPAN.sub("", CODE_BLOCK.sub("", text))
    return [target for target in LINK.findall(prose) if not re.match(r"[a-z]+:", target)]


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken = []
    for target in relative_links(page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        is_heading = not anchor or (
            file.suffix == ".md" and file.is_file() and anchor in anchors(file.read_text())
        )
        if not file.exists() or not is_heading:
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    assert broken_links(page) == []


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
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in reached] == []


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading, *twice*\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md#a-heading-twice) [b](gone.md) [c](other.md#gone) `[d](e.md)`\n")
    assert broken_links(page) == ["gone.md", "other.md#gone"]
