"""Further labels against a plain count: kinds of events, windows, quantities, returns."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.examples import labels as module
from data.examples.labels import LabelSpec, feedback_windows, wanted_labels
from data.examples.outcomes import OutcomeSpec, attribute_to_checkouts, outcome_lists
from data.examples.splits import add_horizon_end
from data.io import engine
from data.tables.checks import check_tables
from data.tables.contract import EVENT_KINDS, conform
from data.tables.encoded_tables import encode_tables
from serving.table_files import TableFile

HOUR = 3600
START = 1_704_067_200
TASKS = {
    f"{label}{window or ''}": {"label": label, "window": window}
    for label, window in product(
        ("purchase", "spend", "quantity", "return", "wishlist", "cart", "click"), ("6h", "2d", None)
    )
}
PRICES = {"i0": 2.0, "i1": 3.5, "i2": None}
TIMES = st.integers(0, 30).map(lambda k: START + 3 * k * HOUR)  # with ties and whole windows
ORDERS = st.fixed_dictionaries(
    {
        "order_id": st.sampled_from(["o0", "o1", "o2", "o3"]),
        "user_id": st.sampled_from(["u0", "u1"]),
        "item_id": st.sampled_from(list(PRICES)),
        "ts": TIMES,
        "quantity": st.sampled_from([1.0, 2.0, 3.0, -1.0, -2.0]),
        "price": st.sampled_from([1.0, 2.5]),
    }
).map(lambda row: row | {"order_id": row["user_id"] + row["order_id"]})
EVENTS = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["u0", "u1"]),
        "item_id": st.sampled_from(list(PRICES)),
        "ts": TIMES,
        "kind": st.sampled_from(["click", "cart", "wishlist", "purchase", "hover"]),
        "order_id": st.sampled_from(["o0", "o1", "o2", "o3", None, None]),
        "value": st.sampled_from([None, 0.0, 4.5]),
    }
).map(lambda row: row | {"order_id": row["order_id"] and row["user_id"] + row["order_id"]})
WORLDS = st.lists(
    st.tuples(st.lists(ORDERS, max_size=12), st.lists(EVENTS, max_size=12)), min_size=4, max_size=8
)
ORDER_SCHEMA = pa.schema(
    {c: pa.string() for c in ("order_id", "user_id", "item_id")}
    | {"ts": pa.int64(), "quantity": pa.float64(), "price": pa.float64()}
)
EVENT_SCHEMA = pa.schema(
    {c: pa.string() for c in ("user_id", "item_id", "kind", "order_id")}
    | {"ts": pa.int64(), "value": pa.float64()}
)


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ibis.BaseBackend]:
    with engine.connect({"threads": 1}, tmp_path_factory.mktemp("scratch")) as connection:
        yield connection


def join_worlds(worlds: list[tuple[list, list]], table: int) -> list[dict[str, Any]]:
    """The distinct rows of several shops that share no id: planning the queries takes most of the time."""
    rows = [
        tuple((c, f"{k}{v}" if c.endswith("_id") and v is not None else v) for c, v in sorted(row.items()))
        for k, world in enumerate(worlds)
        for row in world[table]
    ]
    return [dict(row) for row in dict.fromkeys(rows)]


def prepared_outcomes(
    con: ibis.BaseBackend, tables: dict[str, list[dict]], labels: list[LabelSpec], horizon: str
) -> dict[tuple[str, str], dict[str, Any]]:
    """(order_id, item_id) → column → value, by the code of preparation."""
    schemas = {"orders": ORDER_SCHEMA, "events": EVENT_SCHEMA, "items": None}
    conformed = {}
    for name, rows in tables.items():
        table = pa.Table.from_pylist(rows, schemas[name])
        table = ibis.memtable(table.append_column("_row", pa.array(range(1, len(rows) + 1))))
        conformed[name] = engine.materialize(
            con, f"c_{name}", conform(table, name, TableFile(path=Path(name), files=()))
        )
    kinds = [*EVENT_KINDS, *module.label_event_kinds(labels)]
    files = {name: TableFile(path=Path(name), files=()) for name in tables}
    checked = check_tables(con, conformed, files, "fail", event_kinds=kinds)
    encoded = encode_tables(con, checked.tables, checked.return_lines)
    checkouts = add_horizon_end(encoded, horizon)
    checkouts = engine.materialize(con, "checkouts_", checkouts.filter(checkouts.horizon_end.notnull()))
    events = engine.materialize(con, "events_", attribute_to_checkouts(encoded, checkouts, labels))
    t = outcome_lists(encoded, checkouts, events, (START - 1, START + 10**9), OutcomeSpec(labels))
    t = t.join(checkouts.select("order", "order_id"), "order")
    item_of = dict(
        zip(*(con.to_pyarrow(encoded.items)[c].to_pylist() for c in ("item", "item_id")), strict=True)
    )
    out = {}
    for row in con.to_pyarrow(t).to_pylist():
        columns = {c: v for c, v in row.items() if c.startswith("outcome_")}
        for k, item in enumerate(row["outcome_item"]):
            values = {c.removeprefix("outcome_"): v[k] for c, v in columns.items() if c != "outcome_item"}
            out[row["order_id"], item_of[item]] = values
    return out


def plain_outcomes(
    orders: list[dict], events: list[dict], labels: list[LabelSpec], days: int | None
) -> dict[tuple[str, str], dict[str, float]]:
    """(order_id, item_id) → label → value, by loops."""
    lines: dict[str, list[dict]] = {}
    for row in orders:
        lines.setdefault(row["order_id"], []).extend([row] if row["quantity"] > 0 else [])
    paid = {o: (rows[0]["user_id"], max(r["ts"] for r in rows)) for o, rows in lines.items() if rows}
    clicks_logged = any(e["kind"] == "click" for e in events)
    out: dict[tuple[str, str], dict[str, float]] = {}
    for order, (user, start) in paid.items():
        of_user = [(ts, o) for o, (u, ts) in paid.items() if u == user]
        later = [ts for ts, _ in of_user if ts > start]
        end = start + days * 86_400 if days else min(later, default=None)
        if end is None:
            continue
        bought = [
            (ts, line) for ts, o in of_user if start < ts <= end for line in lines[o]
        ]  # fmt: skip
        own = []
        for e in events:
            if e["kind"] == "hover" or e["user_id"] != user or e["ts"] > end:
                continue
            if e["order_id"]:
                belongs = e["order_id"] == order and e["ts"] >= start
            else:
                before = [(ts, o) for ts, o in of_user if ts < e["ts"]]
                belongs = e["kind"] != "purchase" and bool(before) and max(before) == (start, order)
            own += [e] if belongs else []
        for item in {line["item_id"] for _, line in bought} | {e["item_id"] for e in own}:
            item_lines = [(ts, line) for ts, line in bought if line["item_id"] == item]
            item_events = [e for e in own if e["item_id"] == item]
            taken_back = [
                r["ts"] for r in orders if r["quantity"] < 0 and (r["user_id"], r["item_id"]) == (user, item)
            ]
            values = {"click": bool(clicks_logged and (item_lines or item_events))}
            for spec in labels:
                limit = min(end, start + spec.window_seconds) if spec.window_seconds else end
                values[spec.key] = plain_label(
                    spec.label,
                    [(ts, line) for ts, line in item_lines if ts <= limit],
                    [e for e in item_events if e["ts"] <= limit],
                    [ts for ts in taken_back if ts <= limit],
                    PRICES[item[1:]],
                )
            out[order, item] = values
    return out


def plain_label(
    label: str, lines: list[tuple[int, dict]], events: list[dict], taken_back: list[int], price: float | None
) -> float:
    purchases = [e for e in events if e["kind"] == "purchase"]
    if label == "purchase":
        return float(bool(lines or purchases))
    if label == "quantity":
        return sum(line["quantity"] for _, line in lines) if lines else float(bool(purchases))
    if label == "spend":
        if lines:
            return sum(line["quantity"] * line["price"] for _, line in lines)
        return (sum(e["value"] or 0 for e in purchases) or price or 0.0) if purchases else 0.0
    if label == "return":
        return float(any(back >= ts for ts, _ in lines for back in taken_back))
    if label == "click":
        return float(bool(events or lines))  # all kinds of the test imply a click
    return float(any(e["kind"] == label for e in events))


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds=WORLDS, horizon=st.sampled_from(["3d", "next_order"]))
def test_labels_equal_a_plain_count(
    con: ibis.BaseBackend, worlds: list[tuple[list, list]], horizon: str
) -> None:
    orders, events = join_worlds(worlds, 0), join_worlds(worlds, 1)
    if not any(row["quantity"] > 0 for row in orders):
        return
    labels = wanted_labels({"data": {"horizon": horizon}, "tasks": TASKS})
    items = [
        {"item_id": f"{k}{i}", "title": i, "price": p} for k in range(len(worlds)) for i, p in PRICES.items()
    ]
    tables = {"orders": orders, "items": items} | ({"events": events} if events else {})
    actual = prepared_outcomes(con, tables, labels, horizon)
    expected = plain_outcomes(orders, events, labels, None if horizon == "next_order" else 3)
    assert {pair: {key: row[key] for key in expected[pair]} for pair, row in actual.items()} == expected


def test_labels_follow_the_tasks() -> None:
    tasks = {
        "click": {"kind": "binary", "label": "click"},
        "week": {"label": "purchase", "window": "7d"},
        "wishlist": {"label": "wishlist"},
        "again": {"label": "purchase", "window": "7d"},
        "removed": None,
        "value": {"label": "spend"},
    }
    cfg = {"data": {"horizon": "14d"}, "tasks": tasks}
    assert wanted_labels(cfg) == [
        LabelSpec("purchase_7d", "purchase", 7 * 86_400), LabelSpec("wishlist", "wishlist", None),
    ]  # fmt: skip
    assert wanted_labels({"data": {"horizon": "14d"}}) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label": "purchase", "window": "15d"}, r"tasks\.t\.window 15d is longer than data\.horizon 14d"),
        ({"label": "purchase", "window": "soon"}, r"tasks\.t\.window is 'soon', expected a number of days"),
        ({"label": "two words"}, r"tasks\.t\.label is 'two words', expected purchase, spend"),
        ({}, r"tasks\.t\.label is 'None'"),
        ({"label": "value"}, r"tasks\.t\.label is 'value', .*did you mean spend\?"),
        ({"label": "purchase_7d"}, r"tasks\.t: label and window give the column outcome_purchase_7d"),
    ],
)
def test_unusable_labels_are_refused(settings: dict[str, Any], words: str) -> None:
    tasks = {"first": {"label": "purchase", "window": "7d"}, "t": settings}
    with pytest.raises(DataError, match=words):
        wanted_labels({"data": {"horizon": "14d"}, "tasks": tasks})


def test_feedback_windows_are_those_of_the_labels() -> None:
    tasks = {
        str(k): {"label": label, "window": window}
        for k, (label, window) in enumerate(
            [("wishlist", "7d"), ("wishlist", "1h"), ("cart", None), ("click", "1h"), ("purchase", "2d")]
        )
    }
    labels = wanted_labels({"data": {"horizon": "14d"}, "tasks": tasks})
    assert feedback_windows(labels, 86_400) == {"wishlist": 7 * 86_400, "cart": 86_400}
    module.reject_late_clicks(labels, 86_400, {})
    with pytest.raises(DataError, match=r"window of the label click_1h is longer than data\.click_window"):
        module.reject_late_clicks(labels, 60, {"click_window": "1m"})
    with pytest.raises(DataError, match="click_1h of a task needs logged clicks"):
        module.reject_proxy_clicks(labels, clicks_logged=False)
