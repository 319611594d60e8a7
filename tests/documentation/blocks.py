"""Fenced blocks of pages: their language, file and marker, and the statements of shell blocks."""

import re
import subprocess
import textwrap
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.commands import ROOT

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
COMMENT_WITH_PATH = re.compile(r"(?:# @package .*\n)?# ([\w./-]+\.(?:py|yaml|yml|toml|sql))\n")
MARKER = re.compile(r"<!-- (not run: (?P<reason>[^>]*?)|(?P<excerpt>excerpt)) -->$")
FILE_LANGUAGES = ("python", "yaml", "toml", "sql")
OUTPUT_LANGUAGES = ("text", "json", "http", "promql", "mermaid")  # examples and pictures
LANGUAGES = ("bash", *FILE_LANGUAGES, *OUTPUT_LANGUAGES)
REASONS = (
    "needs a container engine", "needs a cluster", "needs systemd", "needs a GPU", "needs a cloud account",
    "needs a server", "takes hours", "needs other packages",
)  # fmt: skip
UNFINISHED = re.compile(r"unexpected EOF|unexpected end of file|here-document")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int  # of its first line in the page
    path: str | None = None  # of the file that it is, if it is one
    reason: str | None = None  # why it is not run
    is_excerpt: bool = False

    @property
    def is_run(self) -> bool:
        return self.reason is None and not self.is_excerpt


class Statement(NamedTuple):
    """A whole command of a shell block, with its line in the page."""

    text: str
    line: int


def tracked_pages() -> list[Path]:
    """The pages with blocks to check: all that git tracks, or will, without the changelog."""
    names = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"], cwd=ROOT, text=True
    ).splitlines()
    pages = [ROOT / name for name in names if "/" not in name or name.startswith("docs/")]
    return sorted(page for page in pages if page.is_file() and page.name != "CHANGELOG.md")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def page_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return parse_blocks(page.read_text())


def parse_blocks(text: str) -> list[Block]:
    """The fenced blocks of Markdown, in order. Those of a list lose the list's indent."""
    blocks = []
    for match in FENCE.finditer(text):
        language, content = match["language"], textwrap.dedent(match["text"])
        above = text[: match.start()].rstrip("\n").rpartition("\n")[2].strip()
        marker = MARKER.match(above)
        path = COMMENT_WITH_PATH.match(content) if language in FILE_LANGUAGES else None
        blocks.append(
            Block(
                language, content, text.count("\n", 0, match.start()) + 2, path[1] if path else None,
                marker["reason"] if marker else None, bool(marker and marker["excerpt"]),
            )
        )  # fmt: skip
    return blocks


def toml_texts(key: str) -> list[str]:
    """The TOML blocks of all pages that have a top-level key, such as `rules`."""
    blocks = [block for page in tracked_pages() for block in page_blocks(page) if block.language == "toml"]
    return [block.text for block in blocks if not block.is_excerpt and key in tomllib.loads(block.text)]


def shell_statements(block: Block) -> list[Statement]:
    """The commands of a shell block: lines that go on, heredocs and loops are one each."""
    statements, pending, start = [], "", 0
    for number, line in enumerate(block.text.splitlines()):
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        start = start if pending else block.line + number
        pending += line + "\n"
        if not line.endswith("\\") and not UNFINISHED.search(syntax_error(pending)):
            statements.append(Statement(pending.rstrip("\n"), start))
            pending = ""
    return [*statements, Statement(pending, start)] if pending else statements


@cache
def syntax_error(text: str) -> str:
    """What bash says about the syntax of a text; "" if it is sound."""
    return subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True).stderr.strip()
