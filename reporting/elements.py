"""The parts of a page that templates draw: the head, tables with explained columns, and figures."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup

from reporting.tables import Row

Legend = Sequence[tuple[str, str]]  # colour of a mark (style.css), meaning
Status = Literal["good", "bad", ""]
ALARM, WARNING, NOTE = "alarm", "warning", "note"


class Notice(NamedTuple):
    """A box at the top of a page; the first word of its text is the kind: ALARM, WARNING or NOTE."""

    kind: str
    text: str


class KeyFigure(NamedTuple):
    """A value of the first screen, with the value of the best baseline beside it.

    `difference` is text with an interval. `verdict` is `better`, `worse`, `not significant` or empty. `alarm`
    colours `difference`.
    """

    name: str
    value: str
    baseline: str = ""
    difference: str = ""
    verdict: str = ""


class Head(NamedTuple):
    """The first screen of a page, and the source of its numbers.

    `answer` is one sentence that answers the page's question. `source` has rows (name, value) for the
    footer; the command, the version and the date follow them.
    """

    title: str
    answer: str
    status: Status = ""
    notices: Sequence[Notice] = ()
    figures: Sequence[KeyFigure] = ()
    source: Sequence[tuple[str, str]] = ()


class Column(NamedTuple):
    """A column of a table. If it has a `description`, a fold below the table shows it."""

    name: str
    cell: Callable[[Row], str]
    description: str = ""
    numeric: bool = True
    bar_share: Callable[[Row], float | None] | None = None  # 0 to 1: draws a bar behind the number
    wide: bool = False  # sentences: the column stays readable on a phone


class Table(NamedTuple):
    """Columns and rows. The first column names the row; `row_class` gives the CSS class of a row."""

    columns: Sequence[Column]
    rows: Iterable[Row]
    row_class: Callable[[Row], str] = lambda _: ""


class Figure(NamedTuple):
    """A chart with a heading and a legend above and a caption below.

    `draw` returns the chart for a width in pixels. The page has two versions: at `width` and NARROW_WIDTH.
    """

    draw: Callable[[int], Markup]
    caption: str = ""
    legend: Legend = ()
    heading: str = ""
    width: int = 600


def notices(
    alarms: Iterable[str] = (), warnings: Iterable[str] = (), notes: Iterable[str] = ()
) -> list[Notice]:
    """Return boxes, alarms first. Each box adds its kind as first word, so the texts need no such word."""
    kinds = ((ALARM, alarms), (WARNING, warnings), (NOTE, notes))
    return [Notice(kind, text.removeprefix("Warning: ")) for kind, texts in kinds for text in texts]


def verdict(low: float, high: float) -> str:
    """Return `better`, `worse` or `not significant` for the interval of a difference.

    A positive difference is better.
    """
    return "better" if low > 0 else "worse" if high < 0 else "not significant"
