"""Markdown tables."""

from collections.abc import Iterable, Sequence


def cell(text: object) -> str:
    """The text as a table's cell: in one line, with its bars escaped."""
    return " ".join(str(text).split()).replace("|", "\\|")


def code(text: object) -> str:
    """The text as code in a cell, where a bar needs no backslash; empty for an empty text."""
    return f"`{' '.join(str(text).split())}`" if str(text) else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a row for each of `rows`, whose cells are Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
