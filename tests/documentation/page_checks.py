"""A page's blocks, checked in order without running them."""

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.documentation.blocks import (
    COMMENT_WITH_PATH,
    FILE_LANGUAGES,
    LANGUAGES,
    REASONS,
    Block,
    page_blocks,
)
from tests.documentation.shell_checks import shell_problems
from tests.documentation.snippet_checks import snippet_problems


def form_problems(blocks: list[Block]) -> Iterator[str]:
    """Blocks without a known form: language, marker, prompt, file."""
    for block in blocks:
        if block.language not in LANGUAGES:
            yield f"line {block.line - 1}: unknown language {block.language!r}"
        if block.reason is not None and block.reason not in REASONS:
            yield f"line {block.line - 2}: not run: {block.reason!r} is none of {', '.join(REASONS)}"
        if block.language == "bash" and block.text.lstrip().startswith("$ "):
            yield f"line {block.line}: a prompt"
        if block.language in FILE_LANGUAGES and block.path is None and COMMENT_WITH_PATH.search(block.text):
            yield f"line {block.line}: the path of a file stands on its first line"


def content_problems(page: Path, folder: Path) -> Iterator[str]:
    """What is wrong with the content of a page's blocks. Writes its files into the working folder."""
    variables: dict[str, str] = {}
    for block in companion_files(page) + page_blocks(page):
        if block.path is not None and not block.is_excerpt:
            file = folder / block.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
    for block in page_blocks(page):
        for name in [name for name in sys.modules if name.split(".")[0].startswith("my_")]:
            del sys.modules[name]  # of another page
        if block.language == "bash":
            yield from shell_problems(block, folder, variables)
        else:
            yield from snippet_problems(block, folder)


def companion_files(page: Path) -> list[Block]:
    """For an index page, the files of the other pages of its folder: it combines them."""
    if page.name != "index.md":
        return []
    return [
        block
        for sibling in sorted(page.parent.glob("*.md"))
        if sibling != page
        for block in page_blocks(sibling)
        if block.path is not None and not block.is_excerpt
    ]
