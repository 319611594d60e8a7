"""Ids that were rewritten on their way are refused or named, whichever table holds them."""

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ibis
import pytest

from data.errors import DataError
from data.tables.id_checks import check_ids
from serving.table_files import TableFile

FILES = {
    name: TableFile(path=Path(f"{name}.csv"), files=()) for name in ("orders", "items", "users", "events")
}
N = 20
RESPELLED: dict[str, Callable[[str], str]] = {
    "leading zeros": lambda text: text.lstrip("0"),
    "upper and lower case": str.upper,
    "blanks around the id": lambda text: f" {text}",
    "Unicode form": lambda text: unicodedata.normalize("NFD", text),
    "a decimal .0": lambda text: f"{text}.0",
}
IDS = {"Unicode form": "é{:03d}", "upper and lower case": "sku{:03d}"}


def tables(
    item: Callable[[str], str] = str,
    user: Callable[[str], str] = str,
    event: Callable[[str], str] = str,
    form: str = "{:03d}",
) -> dict[str, ibis.Table]:
    """Checked tables of N items and users; the orders and events spell the ids of items and users anew."""
    ids = [form.format(k) for k in range(1, N + 1)]
    orders = {
        "order_id": [f"o{k}" for k in ids],
        "user_id": [user(k) for k in ids],
        "item_id": [item(k) for k in ids],
    }
    events = {"user_id": [event(user(k)) for k in ids], "item_id": [event(item(k)) for k in ids],
              "order_id": [event(f"o{k}") for k in ids], "request_id": ids}  # fmt: skip
    columns = {
        "orders": orders,
        "items": {"item_id": ids, "brand": ids},
        "users": {"user_id": ids},
        "events": events,
    }
    return {name: ibis.memtable(values) for name, values in columns.items()}


@pytest.fixture(scope="module")
def con() -> ibis.BaseBackend:
    return ibis.duckdb.connect()


def test_ids_that_join_say_nothing(con: ibis.BaseBackend) -> None:
    assert check_ids(con, tables(), FILES) == []


@pytest.mark.parametrize("column", ["item", "user"])
@pytest.mark.parametrize("spelling", RESPELLED)
def test_respelled_ids_are_refused_and_the_spelling_is_named(
    con: ibis.BaseBackend, spelling: str, column: str
) -> None:
    shop = tables(**{column: RESPELLED[spelling]}, form=IDS.get(spelling, "{:03d}"))
    with pytest.raises(DataError) as error:
        check_ids(con, shop, FILES)
    text = str(error.value)
    assert f"{column}_id" in text
    assert "orders.csv" in text
    if spelling != "a decimal .0":  # these are refused whether or not they join
        target = "items" if column == "item" else "users"
        assert f"{target}.csv lacks" in text
        assert f"{N} ids differ by {spelling} alone" in text


def test_decimal_ids_are_refused_without_another_table(con: ibis.BaseBackend) -> None:
    shop = tables(user=RESPELLED["a decimal .0"])
    del shop["users"], shop["events"]
    with pytest.raises(
        DataError, match=r"'user_id' has 20 ids such as '001\.0', '002\.0', '003\.0'.*integer"
    ):
        check_ids(con, shop, FILES)


def test_the_hint_for_decimal_ids_names_the_column_of_the_file(con: ibis.BaseBackend) -> None:
    files = FILES | {"orders": replace(FILES["orders"], columns={"user_id": "Customer ID"})}
    with pytest.raises(DataError, match=r"orders=\{user_id: \{column: Customer ID, type: integer\}\}'"):
        check_ids(con, tables(user=RESPELLED["a decimal .0"]), files)


def test_events_that_spell_ids_anew(con: ibis.BaseBackend) -> None:
    with pytest.raises(
        DataError, match=r"events\.csv: 20 of 20 rows name in 'item_id' what items\.csv lacks"
    ):
        check_ids(con, tables(event=RESPELLED["upper and lower case"], form="sku{:03d}"), FILES)
    shop = tables(event=RESPELLED["upper and lower case"], form="sku{:03d}")
    shop["events"] = shop["events"].mutate(item_id=ibis.null("string"))
    warnings = check_ids(con, shop, FILES)
    assert [("user_id" in w, "order_id" in w) for w in warnings] == [(True, False), (False, True)]


def test_a_few_strangers_are_a_warning(con: ibis.BaseBackend) -> None:
    shop = tables()
    unlisted = ibis.memtable(
        {"order_id": ["x"] * 5, "user_id": ["001"] * 5, "item_id": [f"new{k}" for k in range(5)]}
    )
    shop["orders"] = shop["orders"].union(unlisted)
    (warning,) = check_ids(con, shop, FILES)
    assert warning.startswith(
        "orders.csv: 5 of 25 rows name in 'item_id' what items.csv lacks, such as 'new0'"
    )


def test_profiles_of_a_few_users_are_normal(con: ibis.BaseBackend) -> None:
    shop = tables()
    shop["users"] = ibis.memtable({"user_id": ["001", "002"]})
    (warning,) = check_ids(con, shop, FILES)
    assert "18 of 20 users" in warning
    shop["users"] = ibis.memtable({"user_id": ["a", "b"]})
    with pytest.raises(DataError, match="20 of 20 users"):
        check_ids(con, shop, FILES)


def test_guests_are_no_strangers(con: ibis.BaseBackend) -> None:
    shop = tables()
    shop["orders"] = shop["orders"].mutate(user_id=ibis.null("string"))
    shop["events"] = shop["events"].filter(ibis._.user_id == "")
    assert check_ids(con, shop, FILES) == []
