"""The parts of a page that templates draw: tables with explained columns, and figures."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from reporting.tables import Row

Legend = Sequence[tuple[str, str]]  # colour of a mark (style.css), meaning


class Column(NamedTuple):
    """A column of a table; a note below the table explains it, unless `description` is empty."""

    name: str
    cell: Callable[[Row], str]
    description: str = ""
    numeric: bool = True
    bar_share: Callable[[Row], float | None] | None = None  # 0 to 1: draws a bar behind the number
    wide: bool = False  # sentences: the column stays readable on a phone


class Table(NamedTuple):
    """Columns and rows; `row_class` gives the CSS class of a row."""

    columns: Sequence[Column]
    rows: Iterable[Row]
    row_class: Callable[[Row], str] = lambda _: ""


class Figure(NamedTuple):
    """A chart with its heading and legend above and its caption below."""

    chart: Markup
    caption: str = ""
    legend: Legend = ()
    heading: str = ""
