"""A store of the user's own class, opened by its dotted path."""

from pathlib import Path
from typing import Any

import pytest

from serving import Event, open_store
from serving.stores.base import MAX_EVENTS
from serving.stores.sqlite import EmbeddedStore

OPTIONS: list[dict[str, Any]] = []  # that a class received


def own_store(address: str, **options: Any) -> EmbeddedStore:
    OPTIONS.append(options)
    return EmbeddedStore(address, options["max_events"], options["read_timeout"], options["write_timeout"])


class NoStore:
    def __init__(self, address: str, **options: Any) -> None: ...

    def get(self, user_id: str) -> None: ...


def test_a_class_of_the_user_gets_the_address_and_the_options(tmp_path: Path) -> None:
    store = open_store(f"{__name__}.own_store://{tmp_path}/a.db", read_timeout=3.0)
    store.append("u1", [Event("i1", 5, "purchase", 1, 2.0)])
    assert store.get("u1").item_id == ["i1"]
    store.close()
    assert OPTIONS[-1] == {
        "max_events": MAX_EVENTS, "read_timeout": 3.0, "write_timeout": 1.0, "ttl": OPTIONS[-1]["ttl"],
        "durable": False, "create": True,
    }  # fmt: skip


def test_a_class_that_is_no_store_is_refused() -> None:
    with pytest.raises(ValueError, match="NoStore lacks the methods append, append_many, close"):
        open_store(f"{__name__}.NoStore://anywhere")
    with pytest.raises(ImportError, match=r"no_such_package.*PYTHONPATH"):
        open_store("no_such_package.Store://anywhere")
    with pytest.raises(ImportError, match=r"has no attribute 'Missing'.*PYTHONPATH"):
        open_store(f"{__name__}.Missing://anywhere")
    with pytest.raises(ValueError, match="dotted path of a class"):
        open_store("redus://anywhere")
