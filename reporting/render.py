"""HTML pages from the templates; a page is one file that loads nothing else."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reporting import formatting
from reporting.charts import NARROW_WIDTH
from reporting.elements import Head
from reporting.provenance import provenance

ROOT = Path(__file__).parent
FILTERS = {
    "number": formatting.format_number,
    "thousands": formatting.format_count,
    "money": formatting.format_money,
    "percent": formatting.format_percent,
    "date": formatting.format_date,
    "time": formatting.format_time,
    "dates": formatting.format_dates,
}


def render(template: str, head: Head, **context: Any) -> str:
    """Return the page of a template in templates/; `head` is its first screen.

    Every value that is not Markup is escaped. Raises UndefinedError for a name that the context lacks.
    """
    return _environment().get_template(template).render(context, head=head, provenance=provenance())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(ROOT / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = Markup((ROOT / "style.css").read_text(encoding="utf-8"))
    environment.globals["narrow_width"] = NARROW_WIDTH
    environment.filters.update(FILTERS)
    return environment
