"""The page of the canonical tables, from the contract in data/tables/contract.py."""

from data.tables.contract import ACCEPTED_TYPES, CANONICAL_TYPES, EVENT_KINDS, TABLES, TABLES_WITH_ATTRIBUTES
from documentation.reference.tables import code, table

INTRODUCTION = """# Column types

Here you look up which types a column of `orders`, `items`, `users` and `events` may have. The page is
generated from the contract that preparation checks (`data/tables/contract.py`).

What each column means: [canonical tables](canonical_tables.md). How files may look:
[bring your shop's data](../how_to/bring_data.md).
"""


def table_page() -> str:
    """The page, with a section for each table."""
    parts = [INTRODUCTION]
    for name, columns in TABLES.items():
        rows = [
            [
                code(column),
                ACCEPTED_TYPES[spec.logical_type],
                CANONICAL_TYPES[spec.logical_type],
                "yes" if spec.required else "",
                "yes" if spec.nullable or not spec.required else "",
            ]
            for column, spec in columns.items()
        ]
        parts.append(f"## {name}\n")
        parts.append(table(("column", "accepted types", "type in Sextet", "required", "may be null"), rows))
        if name in TABLES_WITH_ATTRIBUTES:
            attribute = "[attribute](canonical_tables.md#attributes)"
            parts.append(f"Every further column is an {attribute}, which the models read.\n")
        if name == "events":
            kinds = ", ".join(code(kind) for kind in EVENT_KINDS)
            parts.append(f"`kind` is one of {kinds}, or a kind that the label of a task names.\n")
    return "\n".join(parts)
