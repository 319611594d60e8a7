"""Pages and small pieces of HTML: escaped text, tables whose columns are explained, keys of colours."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

from reporting.style import STYLE
from reporting.tables import Row


def document(title: str, *parts: str) -> str:
    """A page that loads nothing else, under its title."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>\n{body}</main></body></html>\n'


class Column(NamedTuple):
    """A column of a table; `means` explains it below the table, unless it is empty."""

    name: str
    cell: Callable[[Row], str]
    description: str = ""
    numeric: bool = True
    bar_share: Callable[[Row], float | None] | None = None  # 0 to 1: draws a bar behind the figure


def table(columns: Sequence[Column], rows: Iterable[Row], css: Callable[[Row], str] = lambda _: "") -> str:
    """A table and the explanation of its columns; `css` gives the class of a row."""
    head = "".join(f"<th{_class_attribute('n' * c.numeric)}>{escape(c.name)}</th>" for c in columns)
    body = "".join(
        f"<tr{_class_attribute(css(row))}>" + "".join(_cell(column, row) for column in columns) + "</tr>\n"
        for row in rows
    )
    means = "".join(
        f"<dt>{escape(c.name)}</dt><dd>{escape(c.description)}</dd>" for c in columns if c.description
    )
    key = f'<dl class="key">{means}</dl>' if means else ""
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>{key}'


def _cell(column: Column, row: Row) -> str:
    share = column.bar_share(row) if column.bar_share else None
    bar = "" if share is None else f' style="--share:{100 * share:.0f}%"'
    css = "n" * column.numeric + " bar" * (share is not None)
    return f"<td{_class_attribute(css)}{bar}>{escape(column.cell(row))}</td>"


def _class_attribute(name: str) -> str:
    return f' class="{name}"' if name else ""


def legend(*colours: tuple[str, str]) -> str:
    """What the colours of a chart stand for: (class, meaning)."""
    spans = "".join(f'<span class="swatch {css}"></span>{escape(text)}' for css, text in colours)
    return f'<div class="key">{spans}</div>'


def figure(svg: str, caption: str = "", header: str = "") -> str:
    """A chart with its key above and a caption below."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{header}{svg}{below}</figure>"


def section(name: str, title: str, finding: str, *parts: str) -> str:
    """A section under the question that it answers; the finding comes first."""
    said = f'<p class="finding">{escape(finding)}</p>' if finding else ""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{said}' + "\n".join(parts) + "</section>\n"


def paragraph(text: str, css: str = "") -> str:
    return f"<p{_class_attribute(css)}>{escape(text)}</p>"
