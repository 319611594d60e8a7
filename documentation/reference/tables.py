"""Markdown tables."""

from collections.abc import Iterable, Sequence


def cell(text: object) -> str:
    """Return the text as a table's cell: in one line, with its bars escaped."""
    return " ".join(str(text).split()).replace("|", "\\|")


def code(text: object) -> str:
    """Return the text as code in a cell; empty for an empty text. A bar in code needs no backslash."""
    return f"`{' '.join(str(text).split())}`" if str(text) else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with a row for each of `rows`. The cells are Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
