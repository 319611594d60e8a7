"""Conversion of pages for the site: links that work there, lists as on GitHub, pictures in the page."""

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ROOT_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")  # outside docs/, and on the site
FENCE = re.compile(r"^ *```.*?^ *```[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
PICTURE = re.compile(r"^!\[([^\]]*)\]\(([^)\s]+\.svg)\)$", re.MULTILINE)
IMAGE = re.compile(r"(!\[[^\]]*\]\()([^)\s]+)(\))")
DARK_SYSTEM = re.compile(
    r"@media \(prefers-color-scheme: dark\) \{ (.*?\}) \}", re.DOTALL
)  # in a picture's style
TABLE_ROW = re.compile(r"^\|.*$", re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")
LIST_ITEM = re.compile(r"(?:[-*]|\d+\.) ")


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to everything outside fenced blocks, and return the text."""
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])


def site_links(text: str, source: str) -> str:
    """Return the page with links that work on the site.

    `source` is the page's path in the repository, such as docs/how_to/bring_data.md. A link to a page of the
    site stays relative to the place of `source` on the site. A link to any other file of the repository
    becomes the file's path as code, because the site contains no source files.
    """
    folder = PurePosixPath(source).parent

    def replace(match: re.Match[str]) -> str:
        label, target = match[1], match[2]
        path, _, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return match[0]
        file = PurePosixPath(os.path.normpath(folder / path))
        place = site_place(file)
        if place is None:
            is_complete = label.startswith("!") or label.strip("`") in (str(file), file.name)
            return label if is_complete else f"{label} (`{file}`)"
        return f"[{label}]({_relative(place, source)}{'#' + anchor if anchor else ''})"

    def replace_image(match: re.Match[str]) -> str:
        place = site_place(PurePosixPath(os.path.normpath(folder / match[2])))
        return match[0] if place is None else f"{match[1]}{_relative(place, source)}{match[3]}"

    return outside_fences(text, lambda prose: IMAGE.sub(replace_image, LINK.sub(replace, prose)))


def site_place(file: PurePosixPath) -> PurePosixPath | None:
    """Return the path of a repository file on the site, from the site's root.

    Returns None if the site does not have the file.
    """
    if str(file) in ROOT_PAGES:
        return file
    if file.parts[0] != "docs":
        return None
    place = file.relative_to("docs")
    if (ROOT / file).is_dir():
        return place / "index.md" if (ROOT / file / "index.md").is_file() else None
    return None if file.suffix in (".sql", ".py") else place


def _relative(place: PurePosixPath, source: str) -> str:
    page = site_place(PurePosixPath(source))
    return os.path.relpath(place, page.parent if page else ".")


def github_lists(text: str) -> str:
    """Write lists in the form of Python-Markdown: a blank line before, four spaces for each level."""

    def change(prose: str) -> str:
        lines: list[str] = []
        for line in prose.split("\n"):
            if match := re.match(r"( {1,3})(?=[-*] )", line):
                line = "    " + line[match.end() :]
            previous = lines[-1] if lines else ""
            is_paragraph = previous.strip() and not previous.startswith((" ", "#", "|", "<"))
            if LIST_ITEM.match(line) and is_paragraph and not LIST_ITEM.match(previous):
                lines.append("")
            lines.append(line)
        return "\n".join(lines)

    return outside_fences(text, change)


def table_bars(text: str) -> str:
    """Remove backslashes before bars inside code in tables, which Python-Markdown would display."""

    def change(prose: str) -> str:
        return TABLE_ROW.sub(lambda row: CODE.sub(lambda span: span[0].replace("\\|", "|"), row[0]), prose)

    return outside_fences(text, change)


def inline_pictures(text: str, source: str) -> str:
    """Inline the SVG pictures of the page, so that they use the site's light or dark mode."""
    folder = (ROOT / source).parent

    def replace(match: re.Match[str]) -> str:
        svg = (folder / match[2]).read_text()
        svg = DARK_SYSTEM.sub(r'[data-md-color-scheme="slate"] \1', svg)
        return f'<figure class="picture" markdown="0">\n{svg}</figure>'

    return outside_fences(text, lambda prose: PICTURE.sub(replace, prose))
