"""The generated pages by name, with the content of each."""

from collections.abc import Callable

from documentation.reference.commands import command_page
from documentation.reference.config_keys import config_page
from documentation.reference.http_routes import route_page
from documentation.reference.python_api import python_page
from documentation.reference.service_metrics import metrics_page
from documentation.reference.table_columns import table_page
from documentation.reference.tables import table

REFERENCE_PAGES: dict[str, Callable[[], str]] = {
    "config": config_page,
    "commands": command_page,
    "http": route_page,
    "metrics": metrics_page,
    "tables": table_page,
    "python": python_page,
}
CONTENT = {
    "config": "every key of training, export and retraining: type, range, default, meaning",
    "commands": "every command and its options",
    "http": "the routes of the service: bodies, answers, errors",
    "metrics": "what Prometheus reads from the service",
    "tables": "types of the columns of `orders`, `items`, `users` and `events`",
    "python": "the classes and functions of `serving`",
}


def reference_table() -> str:
    """The table of the generated pages, for the site's page of references."""
    return table(
        ("page", "what it has"), [[f"[{name}]({name}.md)", CONTENT[name]] for name in REFERENCE_PAGES]
    )
