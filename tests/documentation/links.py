"""Links of pages, and names of pages in code, configs and messages: those that lead nowhere."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from documentation.reference.pages import REFERENCE_PAGES
from tests.end_to_end.commands import ROOT

CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)|(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)
SCHEME = re.compile(r"[a-z]+:")
PAGE_NAME = re.compile(r"(?<![\w/.*{}-])([\w./-]*\w\.md)\b(?:#([\w-]+))?")
TEXT_SUFFIXES = (
    "",
    ".py",
    ".yaml",
    ".yml",
    ".toml",
    ".conf",
    ".service",
    ".ipynb",
    ".json",
    ".sql",
    ".sh",
    ".txt",
)
GENERATED = tuple(f"{folder}reference/{name}.md" for name in REFERENCE_PAGES for folder in ("docs/", ""))
# Where names of pages stand for examples.
UNREAD = ("tests/documentation/", "documentation/", "tests/fixtures/", "LICENSE", ".dockerignore")


@cache
def anchors(file: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them: lower case, no punctuation, - for a space.

    The second heading of a text gets -1.
    """
    headings = HEADING.findall(CODE_BLOCK.sub("", file.read_text()))
    counts: Counter[str] = Counter()
    names = set()
    for heading in headings:
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        names.add(f"{name}-{counts[name]}" if counts[name] else name)
        counts[name] += 1
    return frozenset(names)


def page_links(text: str) -> list[str]:
    """The targets of a page's links and pictures, without those inside code."""
    prose = CODE_SPAN.sub("", CODE_BLOCK.sub("", text))
    return [target or source for target, source in LINK.findall(prose)]


def relative_links(text: str) -> list[str]:
    """The targets of a page's links, without those to other sites and those inside code."""
    return [target for target in page_links(text) if not SCHEME.match(target)]


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken = []
    for target in relative_links(page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not _leads_somewhere(file, anchor):
            broken.append(target)
    return broken


def _leads_somewhere(file: Path, anchor: str) -> bool:
    if not anchor:
        return file.exists()
    return file.suffix == ".md" and file.is_file() and anchor in anchors(file)


def malformed_links(text: str) -> list[str]:
    """The links to other sites that are no whole URL of https, http or mailto."""
    wrong = []
    for target in page_links(text):
        if not SCHEME.match(target) or target.startswith("mailto:"):
            continue
        parts = urlsplit(target)
        is_local = parts.hostname in ("localhost", "127.0.0.1")
        is_site = parts.scheme == "https" or (parts.scheme == "http" and not is_local)
        if not is_site or "." not in (parts.hostname or "") or target[-1] in ".,;:":
            wrong.append(target)
    return wrong


def files_that_name_pages() -> list[Path]:
    """The tracked text files that are no pages."""
    names = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    files = [ROOT / name for name in names if not name.startswith(UNREAD)]
    return [
        file for file in files if file.suffix in TEXT_SUFFIXES and file.is_file() and not file.is_symlink()
    ]


def broken_names(file: Path) -> Iterator[str]:
    """The names of pages in a file that name none, such as docs/gone.md and docs/style.md#gone.

    A name is a path from the root or from the file; in mkdocs.yml, from docs/.
    """
    places = [ROOT, file.parent, *([ROOT / "docs"] if file.name == "mkdocs.yml" else [])]
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        for match in PAGE_NAME.finditer(line):
            name, anchor = match[1], match[2] or ""
            if "://" in line[: match.start()].rpartition(" ")[2]:
                continue
            if file.is_relative_to(ROOT / "tests") and "/" not in name:  # a part of a path
                continue
            if name not in GENERATED and not any(
                _leads_somewhere((place / name).resolve(), anchor) for place in places
            ):
                yield f"line {number}: {match[0]}"
