"""The join of feedback with impressions against a plain implementation of its rules."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.io import engine
from data.tables.attribution import (
    JOIN_STATES,
    MAX_CLOCK_SKEW,
    NO_CHECKOUT,
    attribute_feedback,
    keep_viewed_slates,
    window_seconds,
)
from data.tables.contract import EVENTS, SLATE_KINDS

CLICK, PURCHASE, WISHLIST = 600, 1800, 900
KEPT = ("user_id", "item_id", "ts", "kind", "order_id", "position", "propensity", "value", "request_id")
TIMES = st.integers(0, 3000) | st.sampled_from([0, 300, 600, 900, 1800, 2400])  # with ties and whole windows
ROWS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(
            ["impression", "impression", "ghost", "click", "purchase", "cart", "wishlist"]
        ),
        "user_id": st.sampled_from(["u0", "u1", None]),
        "item_id": st.sampled_from(["i0", "i1", "i2"]),
        "request_id": st.sampled_from(["r0", "r1", "r2", "r3", None]),
        "order_id": st.sampled_from(["o0", "o1", "o2", "unknown", None, None]),
        "ts": TIMES,
        "position": st.integers(1, 6),
    }
)
ORDERS = st.fixed_dictionaries(
    {
        "order_id": st.sampled_from(["o0", "o1", "o2", "o3"]),
        "user_id": st.sampled_from(["u0", "u1"]),
        "ts": TIMES,
        "quantity": st.sampled_from([1.0, 1.0, 1.0, -1.0]),
    }
)


@pytest.fixture(scope="module")
def con() -> Iterator[ibis.BaseBackend]:
    connection = ibis.duckdb.connect(threads=1)
    connection.raw_sql("SET disabled_optimizers = 'top_n_window_elimination'")
    yield connection
    connection.disconnect()


def attribute_rows(
    con: ibis.BaseBackend, log: list[dict[str, Any]], orders: list[dict[str, Any]], purchase: int | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    types = {"id": pa.string(), "time": pa.int64(), "number": pa.float64(), "text": pa.string()}
    schema = pa.schema({"_row": pa.int64(), **{c: types[spec.logical_type] for c, spec in EVENTS.items()}})
    lines = pa.schema(
        {"order_id": pa.string(), "user_id": pa.string(), "ts": pa.int64(), "quantity": pa.float64()}
    )
    log = [row | {"_row": k} for k, row in enumerate(log, start=1)]
    tables = [
        engine.materialize(
            con, name, ibis.memtable(pa.Table.from_pylist(rows, schema)).mutate(extra=1).drop("extra")
        )
        for name, rows, schema in (("log", log, schema), ("paid", orders, lines))
    ]
    events, counts = attribute_feedback(con, *tables, CLICK, purchase, {"wishlist": WISHLIST})
    return con.to_pyarrow(events).to_pylist(), counts


def attribute_plainly(
    log: list[dict[str, Any]], orders: list[dict[str, Any]], purchase: int | None
) -> tuple[Counter, dict[str, dict[str, int]]]:
    """The rules of docs/reference/impression_log.md, by loops."""
    paid: dict[str, tuple[int, str]] = {}
    for line in orders:
        if line["quantity"] > 0:
            before = paid.get(line["order_id"], (0, ""))
            paid[line["order_id"]] = (max(line["ts"], before[0]), max(line["user_id"], before[1]))
    counts = {kind: dict.fromkeys(JOIN_STATES, 0) for kind in ("click", "cart", "purchase", "wishlist")}
    for kind in SLATE_KINDS:
        counts[kind] = dict.fromkeys(("joined", "repeated", "guest", "no_checkout"), 0)
    out: list[tuple] = []
    slots: dict[tuple, dict[str, Any]] = {}
    rows = [row | {"row": k} for k, row in enumerate(log)]
    for row in sorted(rows, key=lambda r: (r["ts"], r["position"], r["row"])):
        if row["kind"] in SLATE_KINDS:
            request = row["request_id"] if row["request_id"] is not None else row["row"]
            key = (row["kind"], request, row["item_id"])
            if key in slots:
                counts[row["kind"]]["repeated"] += 1
            slots.setdefault(key, dict(row))
    for slot in slots.values():
        order, user = slot["order_id"], slot["user_id"]
        if order is None and user is not None:
            before = [(at, o) for o, (at, buyer) in paid.items() if buyer == user and at <= slot["ts"]]
            order = max(before)[1] if before else NO_CHECKOUT
        at, buyer = paid.get(order, (slot["ts"], None))
        slot["user"], slot["order"], slot["since"] = user or buyer, order or NO_CHECKOUT, max(slot["ts"], at)
        state = "guest" if not slot["user"] else "joined" if slot["user"] == buyer else "no_checkout"
        counts[slot["kind"]][state] += 1
        if slot["user"]:
            out.append((slot["user"], slot["item_id"], slot["since"], slot["kind"], slot["order"],
                        slot["position"], slot["request_id"]))  # fmt: skip
    slots = {key[1:]: slot for key, slot in slots.items() if slot["kind"] == "impression"}
    joined, unattributed = set(), set()
    for row in sorted(rows, key=lambda r: (r["ts"], r["row"])):
        if row["kind"] in SLATE_KINDS or (row["user_id"] is None and row["request_id"] is None):
            continue
        if row["request_id"] is not None:
            slot = slots.get((row["request_id"], row["item_id"]))
        else:
            of_user = [s for s in slots.values() if s["item_id"] == row["item_id"] and s["ts"] <= row["ts"]]
            of_user = [s for s in of_user if s["user"] == row["user_id"]]
            slot = max(of_user, key=lambda s: (s["ts"], s["row"]), default=None)
        limit = {"purchase": 10**9 if purchase is None else purchase, "wishlist": WISHLIST}.get(
            row["kind"], CLICK
        )
        if slot is None:
            state = "unknown"
        elif row["ts"] < slot["ts"] - MAX_CLOCK_SKEW:
            state = "early"
        elif row["ts"] > slot["ts"] + limit:
            state = "late"
        else:
            state = "repeated" if (slot["row"], row["kind"]) in joined else "joined"
            joined.add((slot["row"], row["kind"]))
        counts[row["kind"]][state] += 1
        if state == "joined" and slot["user"]:
            request = slot["request_id"] if slot["request_id"] is not None else f"row {slot['row'] + 1}"
            out.append((slot["user"], row["item_id"], max(row["ts"], slot["since"]), row["kind"],
                        slot["order"], row["position"], request))  # fmt: skip
        user = row["user_id"] or (slot["user"] if slot else None)
        fact = (user, row["item_id"], row["ts"], row["kind"])
        if (
            state in ("unknown", "early", "late")
            and row["kind"] != "purchase"
            and user
            and fact not in unattributed
        ):
            unattributed.add(fact)
            out.append((*fact, NO_CHECKOUT, row["position"], row["request_id"]))
    return Counter(out), counts


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    worlds=st.lists(
        st.tuples(st.lists(ROWS, max_size=20), st.lists(ORDERS, max_size=5)), min_size=4, max_size=8
    ),
    purchase=st.sampled_from([PURCHASE, None]),
)
def test_against_a_plain_count(
    con: ibis.BaseBackend, worlds: list[tuple[list[dict], list[dict]]], purchase: int | None
) -> None:
    """Several shops that share no id are joined at once: planning the queries takes most of the time."""
    log, orders = (
        [
            {c: f"{shop}{v}" if c.endswith("_id") and v is not None else v for c, v in row.items()}
            for shop, world in enumerate(worlds)
            for row in world[which]
        ]
        for which in (0, 1)
    )
    found, counts = attribute_rows(con, log, orders, purchase)
    expected, expected_counts = attribute_plainly(log, orders, purchase)
    without_owner = [
        r for r in log if r["kind"] not in SLATE_KINDS and r["user_id"] is r["request_id"] is None
    ]
    unchanged = [
        row for row in found if row["kind"] not in SLATE_KINDS and row["user_id"] is row["request_id"] is None
    ]
    assert len(unchanged) == len(without_owner), "rows without an owner are left to the checks"
    names = ("user_id", "item_id", "ts", "kind", "order_id", "position", "request_id")
    assert Counter(tuple(row[c] for c in names) for row in found if row not in unchanged) == expected
    assert counts == expected_counts
    assert sum(sum(kind.values()) for kind in counts.values()) == len(log) - len(without_owner), (
        "every row is counted"
    )


IMPRESSION = {"kind": "impression", "user_id": "u0", "item_id": "i0", "request_id": "r", "order_id": "o",
         "ts": 1000, "position": 3.0, "propensity": 0.25}  # fmt: skip
PAID = [{"order_id": "o", "user_id": "u0", "ts": 990, "quantity": 1.0}]


@pytest.mark.parametrize(
    ("change", "state", "order"),
    [
        ({"ts": 1000 + CLICK}, "joined", "o"),
        ({"ts": 1001 + CLICK}, "late", NO_CHECKOUT),
        ({"ts": 1001 + CLICK, "kind": "purchase"}, "joined", "o"),
        ({"ts": 1001 + CLICK, "kind": "wishlist"}, "joined", "o"),
        ({"ts": 1001 + WISHLIST, "kind": "wishlist"}, "late", NO_CHECKOUT),
        ({"ts": 1001 + PURCHASE, "kind": "purchase"}, "late", None),
        ({"ts": 1000 - MAX_CLOCK_SKEW}, "joined", "o"),
        ({"ts": 999 - MAX_CLOCK_SKEW}, "early", NO_CHECKOUT),
        ({"request_id": "another"}, "unknown", NO_CHECKOUT),
        ({"item_id": "i1"}, "unknown", NO_CHECKOUT),
        ({"user_id": "u1"}, "joined", "o"),  # another login since: the request decides
        ({"request_id": None}, "joined", "o"),
        ({"request_id": None, "user_id": "u1"}, "unknown", NO_CHECKOUT),
        ({"request_id": None, "ts": 999}, "unknown", NO_CHECKOUT),
        ({"request_id": None, "ts": 1000}, "joined", "o"),
    ],
)
def test_one_click(con: ibis.BaseBackend, change: dict[str, Any], state: str, order: str | None) -> None:
    click = {
        **IMPRESSION,
        "kind": "click",
        "order_id": None,
        "ts": 1200,
        "position": None,
        "propensity": None,
    }
    found, counts = attribute_rows(con, [click | change, IMPRESSION], PAID, PURCHASE)
    kind = change.get("kind", "click")
    assert counts[kind] == {**dict.fromkeys(JOIN_STATES, 0), state: 1}
    assert [row["order_id"] for row in found if row["kind"] == kind] == ([order] if order else [])
    impression = next(row for row in found if row["kind"] == "impression")
    assert [impression[c] for c in KEPT] == ["u0", "i0", 1000, "impression", "o", 3.0, 0.25, None, "r"]


def test_no_outcome_is_earlier_than_its_checkout(con: ibis.BaseBackend) -> None:
    """If the order's own time is later than impression and click, both move up to it."""
    click = {**IMPRESSION, "kind": "click", "ts": 1005}
    found, _ = attribute_rows(con, [IMPRESSION, click], [PAID[0] | {"ts": 1060}], PURCHASE)
    assert [row["ts"] for row in found] == [1060, 1060]


def test_an_impression_without_an_order_follows_the_latest_one(con: ibis.BaseBackend) -> None:
    """Also one in the same second: it asked for the slate."""
    orders = [PAID[0] | {"order_id": f"at {ts}", "ts": ts} for ts in (500, 1000, 1001)]
    orders.append(PAID[0] | {"order_id": "of another", "user_id": "u1", "ts": 999})
    found, counts = attribute_rows(con, [IMPRESSION | {"order_id": None}], orders, PURCHASE)
    assert [row["order_id"] for row in found] == ["at 1000"]
    assert counts["impression"]["joined"] == 1


def test_repeated_feedback_without_an_impression_is_one_event(con: ibis.BaseBackend) -> None:
    """The checks would reject a second row of the same content."""
    stray = IMPRESSION | {"kind": "click", "request_id": "another", "order_id": None}
    found, counts = attribute_rows(con, [stray, stray, stray | {"kind": "purchase"}], PAID, PURCHASE)
    assert [(row["kind"], row["order_id"]) for row in found] == [("click", NO_CHECKOUT)]
    assert (counts["click"]["unknown"], counts["purchase"]["unknown"]) == (2, 1)


def test_guests(con: ibis.BaseBackend) -> None:
    """A guest is the user of the order; without an order the impression is counted, and no event."""
    guest = IMPRESSION | {"user_id": None}
    without_order = guest | {"request_id": "other", "order_id": None}
    clicks = [row | {"kind": "click", "ts": 1010, "order_id": None} for row in (guest, without_order)]
    found, counts = attribute_rows(con, [guest, without_order, *clicks], PAID, PURCHASE)
    assert sorted((r["kind"], r["user_id"], r["order_id"]) for r in found) == [
        ("click", "u0", "o"), ("impression", "u0", "o"),
    ]  # fmt: skip
    assert counts["impression"] == {"joined": 1, "repeated": 0, "guest": 1, "no_checkout": 0}


def test_a_ghost_belongs_to_its_checkout_and_takes_no_feedback(con: ibis.BaseBackend) -> None:
    """An impression of the same item by the same request keeps its own feedback."""
    ghost = IMPRESSION | {"kind": "ghost", "withhold": 0.1}
    click = IMPRESSION | {"kind": "click", "ts": 1010, "order_id": None}
    found, counts = attribute_rows(con, [ghost | {"order_id": None}, click], PAID, PURCHASE)
    assert sorted((r["kind"], r["order_id"], r["withhold"]) for r in found) == [
        ("click", NO_CHECKOUT, None), ("ghost", "o", 0.1),
    ]  # fmt: skip
    assert counts["ghost"]["joined"] == counts["click"]["unknown"] == 1
    _, counts = attribute_rows(con, [ghost, IMPRESSION, click], PAID, PURCHASE)
    assert counts["ghost"]["joined"] == counts["impression"]["joined"] == counts["click"]["joined"] == 1


def test_windows() -> None:
    assert [window_seconds(w) for w in ("1d", "12h", "30m")] == [86_400, 43_200, 1800]
    for wrong in ("0d", "d", "1w", 5, "-1d", None):
        with pytest.raises(DataError, match=r"data\.click_window is"):
            window_seconds(wrong)  # type: ignore[arg-type]


def test_only_slates_that_were_on_screen_are_impressions(con: ibis.BaseBackend) -> None:
    """With data.impressions=viewed. A view of one item is that of its slate."""
    row = {"user_id": "u0", "order_id": "o0", "position": 1, "ts": 0}
    log = [
        row | {"kind": kind, "request_id": request, "item_id": item, "_row": number}
        for number, (kind, request, item) in enumerate(
            [
                ("impression", "r0", "i0"), ("impression", "r0", "i1"), ("impression", "r1", "i0"),
                ("impression", None, "i2"), ("ghost", "r2", "i0"), ("click", "r1", "i0"),
                ("viewed", "r0", "i0"),
            ]
        )
    ]  # fmt: skip
    kept = con.to_pyarrow(keep_viewed_slates(ibis.memtable(pa.Table.from_pylist(log)))).to_pylist()
    assert [(row["kind"], row["request_id"]) for row in kept] == [
        ("impression", "r0"), ("impression", "r0"), ("ghost", "r2"), ("click", "r1"), ("viewed", "r0"),
    ]  # fmt: skip
    _, counts = attribute_rows(con, kept, [{**row, "quantity": 1.0}], None)
    assert counts["impression"]["joined"] == 2
    assert counts["click"] == dict.fromkeys(JOIN_STATES, 0) | {"unknown": 1}  # nobody saw it
