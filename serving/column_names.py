"""Suggests columns of a file for missing columns of the contract, by names that shops commonly use."""

import difflib
import re
from collections.abc import Collection

SIMILARITY = 0.6  # of two names, from 0 to 1
OTHER_NAMES = {  # canonical column → names that shops use, in lower case, without _ and blanks
    "order_id": (
        "invoice",
        "invoiceno",
        "invoiceid",
        "transactionid",
        "basketid",
        "receiptid",
        "ordernumber",
    ),
    "user_id": ("customerid", "customer", "clientid", "buyerid", "householdid", "visitorid", "memberid"),
    "item_id": ("stockcode", "sku", "productid", "productcode", "articleid", "asin", "ean", "variantid"),
    "ts": ("timestamp", "time", "datetime", "date", "invoicedate", "orderdate", "createdat", "eventtime"),
    "quantity": ("qty", "units", "count", "amount", "pieces"),
    "price": ("unitprice", "itemprice", "saleprice", "listprice", "cost"),
    "title": ("name", "productname", "itemname", "description", "label"),
    "category": ("categorypath", "categoryname", "department", "producttype", "itemcategory"),
    "brand": ("brandid", "brandname", "vendor", "manufacturer", "manufacturerid"),
    "kind": ("event", "eventtype", "eventname", "action", "type"),
}


def suggest_columns(missing: Collection[str], present: Collection[str]) -> dict[str, str]:
    """Returns missing canonical column → a column of the file that may hold its values.

    A column of the file is suggested for one missing column at most.
    """
    free = {_folded(name): name for name in reversed(list(present))}
    suggested: dict[str, str] = {}
    for column in missing:
        names = (_folded(column), *OTHER_NAMES.get(column, ()))
        found = next((name for name in names if name in free), None)
        if found is not None:
            suggested[column] = free.pop(found)
    for column in [c for c in missing if c not in suggested]:
        if similar := difflib.get_close_matches(_folded(column), list(free), n=1, cutoff=SIMILARITY):
            suggested[column] = free.pop(similar[0])
    return {column: suggested[column] for column in missing if column in suggested}


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
