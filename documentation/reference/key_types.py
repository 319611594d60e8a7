"""Types of config keys whose default does not show the type: null, a date, or a reference to another key.

A key here is the end of a config key: the entry `objective` has the type of `slate.objective`.
"""

from documentation.reference.key_meanings import lookup_longest_end

TEXT, NUMBER, DATE = "text or null", "number or null", "date or null"
LIST, MAPPING = "list or null", "mapping or null"
KEY_TYPES = {
    "warm.run": TEXT,
    "objective": TEXT,
    "exclude_bought_within": TEXT,
    "threads": "int or null",
    "sign": TEXT,
    "live": TEXT,
    "category_cap": "int or null",
    "exclude_basket": "bool or null",
    "repeat_categories": LIST,
    "data.root": TEXT,
    "data.url": TEXT,
    "forget": TEXT,
    "until": DATE,
    "since": DATE,
    "validation_start": DATE,
    "test_start": DATE,
    "test_end": DATE,
    "organic.share": NUMBER,
    "files.orders": TEXT,
    "files.items": TEXT,
    "files.users": TEXT,
    "files.events": TEXT,
    "columns.orders": MAPPING,
    "columns.items": MAPPING,
    "columns.users": MAPPING,
    "columns.events": MAPPING,
    "tables.orders": TEXT,
    "tables.items": TEXT,
    "tables.users": TEXT,
    "tables.events": TEXT,
    "time_format": TEXT,
    "scores": LIST,
    "blocks": LIST,
    "title_encoder": TEXT,
    "p99_ms": NUMBER,
    "bytes_per_vector": "int or null",
    "query.hidden": "int",
    "item.hidden": "int",
    "blocks.layers": "int",
    "multitask.hidden": "list",
    "multitask.tower": "int",
    "multitask.experts": "int",
    "model.dim": "int",
    "id_rows": "int or null",
    "token_rows": "int or null",
    "id_dim": "int or null",
    "sources.ann": "int",
    "profiler": TEXT,
    "trainer.extra": MAPPING,
}


def known_type(path: str) -> str:
    """Return the type of a key; "" if there is none."""
    return lookup_longest_end(KEY_TYPES, path)
