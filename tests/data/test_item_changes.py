"""Item updates between trainings: read strictly, merged column by column, encoded as in preparation."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.feature_schema import FeatureSchema
from data.item_changes import ITEM_UPDATE_SCHEMA, apply_item_updates, merge_item_updates, read_item_updates
from data.prepare import prepare
from tests.data.conftest import config, save
from tests.data.shop import make_shop, write_csv

Rows = list[dict[str, Any]]
ENCODED = ["category_codes", "leaf", "brand_code", "tokens", "token_weights"]
WORDS = 4  # tokens per item, so few that the limit cuts

# name → (rows of changes.csv, words that the error must hold)
BAD: dict[str, tuple[Rows, list[str]]] = {
    "null id": ([{"item_id": "a"}, {"item_id": "", "price": 1}], ["item_id is null: 1 (rows 2)"]),
    "twice": ([{"item_id": "a"}, {"item_id": "a"}], ["item_id was already given: 1 ('a') (rows 2)"]),
    "negative": ([{"item_id": "a"}, {"item_id": "b", "price": -1}], ["price is negative: 1 (rows 2)"]),
    "not finite": ([{"item_id": "a"}, {"item_id": "b", "price": "inf"}], ["price is not finite", "rows 2"]),
    "margin": ([{"item_id": "a"}, {"item_id": "b", "margin": 30}], ["margin is outside -1 to 1", "rows 2"]),
    "no number": (
        [{"item_id": "a", "price": 1}, {"item_id": "b", "price": "dear"}],
        ["price cannot be read as number", "rows 2"],
    ),
    "no flag": (
        [{"item_id": "a", "available": "true"}, {"item_id": "b", "available": "soon"}],
        ["available cannot be read as boolean", "rows 2"],
    ),
    "far off": (
        [{"item_id": "a"}, {"item_id": "b", "created_at": "2150-01-01"}],
        ["created_at is outside 1990 to tomorrow", "rows 2"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, FeatureSchema, Rows]:
    """items.parquet, the schema and the shop's item rows, with descriptions and unusual values."""
    folder = tmp_path_factory.mktemp("shop")
    tables = make_shop(users=20, items=32, days=70)
    for k, item in enumerate(tables["items"]):
        item["description"] = f"Soft, {'very ' * (k % 3)}SOFT and gréen no {k % 5}" if k % 4 else ""
        item |= {"margin": k / 100, "created_at": 1_700_000_000 + k, "available": k % 6 != 0}
    tables["items"][1] |= {"category": " food // dairy/milk/fresh/whole ", "brand": ""}
    tables["items"][2] |= {"category": "food", "price": ""}
    tables["items"][3] |= {"category": "", "title": ""}
    tables["items"][4] |= {"title": "", "description": ""}
    tables["items"][8] |= {"title": "Goes with i004"}
    tables["orders"].append({**tables["orders"][0], "item_id": "unlisted"})
    save(folder, tables)
    cfg = config(folder)
    cfg["features"] |= {"tokens_per_item": WORDS, "brands": 5}
    out = prepare(cfg)
    return pq.read_table(out / "items.parquet"), FeatureSchema.load(out), tables["items"]


def make_updates(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=ITEM_UPDATE_SCHEMA)


def by_id(items: pa.Table) -> dict[str, dict[str, Any]]:
    return {r["item_id"]: r for r in items.to_pylist()}


# --- read ---


def test_updates_are_read_in_file_order(tmp_path: Path) -> None:
    rows = [
        {"item_id": "007", "price": "2.5", "available": "false"},
        {
            "item_id": "new",
            "title": "Tea, green",
            "category": "food/tea",
            "created_at": "2024-05-01T00:00:00Z",
        },
    ]
    write_csv(tmp_path / "changes.csv", rows)
    found = read_item_updates(tmp_path / "changes.csv")
    assert found.schema == ITEM_UPDATE_SCHEMA
    assert found.to_pylist() == [
        dict.fromkeys(ITEM_UPDATE_SCHEMA.names) | {"item_id": "007", "price": 2.5, "available": False},
        dict.fromkeys(ITEM_UPDATE_SCHEMA.names) | rows[1] | {"created_at": 1_714_521_600},
    ]


def test_parquet_of_whole_numbers_and_columns_of_nulls(tmp_path: Path) -> None:
    """Columns of nulls, as pandas writes them, have no type."""
    order = list(range(500, 0, -1))
    table = pa.table(
        {"item_id": order, "price": pa.nulls(500), "title": pa.nulls(500), "available": [0] * 500}
    )
    pq.write_table(table, tmp_path / "changes.parquet")
    found = read_item_updates(tmp_path / "changes.parquet")
    assert found.schema == ITEM_UPDATE_SCHEMA
    assert found["item_id"].to_pylist() == [str(k) for k in order], "in file order"
    assert found["price"].null_count == 500
    assert set(found["available"].to_pylist()) == {False}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(tmp_path: Path, case: str) -> None:
    rows, words = BAD[case]
    write_csv(tmp_path / "changes.csv", rows)
    with pytest.raises(DataError) as error:
        read_item_updates(tmp_path / "changes.csv")
    for part in ["changes.csv", *words, "Correct the file and give it again"]:
        assert part in str(error.value)
    assert "quarantine" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "changes.csv is empty, expected a header line"),
        ("item_id,price\n", "the table is empty"),
        ("item_id;price\na;1\n", "separated by ';'"),
        ("item_id,price\na,1\nb,2,3\n", "line 3 has 3 fields, the header has 2"),
        ("item_id,pric\na,1\n", "column 'pric' is unknown.*rename it to 'price'"),
        ("item_id,Price\na,1\n", "column 'Price' is unknown.*rename it to 'price'"),
        ("item_id,price,colour\na,1,red\n", "column 'colour' is unknown.*remove it"),
        ("item_id,_price\na,1\n", "column '_price' is unknown"),
        ("price\n1\n", r"table 'items' lacks 'item_id' \(string or integer\)"),
        ("item_id,price\na,\nb,dear\n", r"column 'price' is text such as 'dear', expected number \(rows 2\)"),
        ("item_id,price\na,-1\n", "every one of the 1 rows is bad; correct the file"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "changes.csv").write_text(text)
    with pytest.raises(DataError, match=rf"(?s)changes\.csv: .*{words}"):
        read_item_updates(tmp_path / "changes.csv")


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "changes.parquet"
    with pytest.raises(DataError, match=r"changes\.parquet: there is no such file"):
        read_item_updates(path)
    with pytest.raises(DataError, match=r"changes\.json: expected a file of \.parquet, \.csv"):
        read_item_updates(tmp_path / "changes.json")
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"changes\.parquet: cannot be read"):
        read_item_updates(path)
    pq.write_table(pa.table({"item_id": ["a"], "price": ["1"]}), path)
    with pytest.raises(DataError, match=r"changes\.parquet: column 'price' is string, expected number"):
        read_item_updates(path)
    pq.write_table(pa.table({"item_id": ["a"], "pric": pa.nulls(1)}), path)
    with pytest.raises(DataError, match="column 'pric' is unknown"):
        read_item_updates(path)
    pq.write_table(pa.table({"item_id": pa.nulls(2)}), path)
    with pytest.raises(DataError, match="item_id is null"):
        read_item_updates(path)


# --- merge ---

a_row = st.fixed_dictionaries(
    {
        "item_id": st.sampled_from("abcd"),
        "title": st.none() | st.sampled_from(["x", "y", ""]),
        "description": st.none() | st.text(max_size=2),
        "price": st.none() | st.sampled_from([0.0, 1.0, 2.0]),
        "available": st.none() | st.booleans(),
        "created_at": st.none() | st.integers(0, 9),
    }
)
a_file = st.lists(a_row, max_size=5, unique_by=lambda r: r["item_id"])


@settings(deadline=None)
@given(st.lists(a_file, min_size=1, max_size=4))
def test_the_last_given_value_wins(files: list[Rows]) -> None:
    merged = None
    expected: dict[str, dict[str, Any]] = {}
    for rows in files:
        merged = merge_item_updates(merged, make_updates(*rows))
        for row in rows:
            item = expected.setdefault(row["item_id"], dict.fromkeys(ITEM_UPDATE_SCHEMA.names))
            item |= {c: v for c, v in row.items() if v is not None}
    assert merged is not None
    assert merged.schema == ITEM_UPDATE_SCHEMA
    assert merged.to_pylist() == list(expected.values()), "in the order of their first update"


@settings(deadline=None)
@given(st.tuples(a_file, a_file, a_file))
def test_changes_can_be_merged_in_any_grouping(files: tuple[Rows, Rows, Rows]) -> None:
    a, b, c = (make_updates(*rows) for rows in files)
    assert merge_item_updates(merge_item_updates(a, b), c).equals(
        merge_item_updates(a, merge_item_updates(b, c))
    )
    assert merge_item_updates(None, a).equals(a)


# --- apply ---


def test_updates_with_the_same_values_change_nothing(
    prepared: tuple[pa.Table, FeatureSchema, Rows], tmp_path: Path
) -> None:
    items, schema, shop = prepared
    write_csv(tmp_path / "changes.csv", shop)
    assert apply_item_updates(items, read_item_updates(tmp_path / "changes.csv"), schema, WORDS).equals(items)


def test_new_items_are_encoded_as_in_preparation(
    prepared: tuple[pa.Table, FeatureSchema, Rows], tmp_path: Path
) -> None:
    """All items again with new ids, in another order: no value is copied from old rows."""
    items, schema, shop = prepared
    assert max(len(t) for t in items["tokens"].to_pylist()) == WORDS
    twins = [{**r, "item_id": f"new {r['item_id']}"} for r in reversed(shop)]
    write_csv(tmp_path / "changes.csv", twins)
    found = apply_item_updates(items, read_item_updates(tmp_path / "changes.csv"), schema, WORDS)
    assert found.schema == items.schema
    assert found.slice(0, items.num_rows).equals(items)
    assert found["item_id"].to_pylist()[items.num_rows :] == [r["item_id"] for r in twins]
    old_items = by_id(items)
    for new in found.slice(items.num_rows).to_pylist():
        old = old_items[new["item_id"].removeprefix("new ")]
        same = [*ENCODED, "category", "brand", "price", "margin", "created_at", "available"]
        assert {c: new[c] for c in same} == {c: old[c] for c in same}
        assert new["title"] == (new["item_id"] if old["title"] == old["item_id"] else old["title"])
        assert new["first_sold"] == 0


def test_an_item_changes_only_in_the_columns_of_its_update(
    prepared: tuple[pa.Table, FeatureSchema, Rows],
) -> None:
    items, schema, _ = prepared
    before = by_id(items)
    changes = {
        "i005": {"price": 99.0},
        "i006": {"available": True},
        "i007": {"available": False, "margin": -0.5},
        "i009": {"brand": "brand1", "created_at": 1_800_000_000},
        "i010": {"category": "home/clean/new"},
        "unlisted": {"price": 3.0},
    }
    assert not before["i006"]["available"]
    found = apply_item_updates(
        items, make_updates(*({"item_id": k, **v} for k, v in changes.items())), schema, WORDS
    )
    assert found.num_rows == items.num_rows
    clean = schema.categories.index("home/clean") + 1
    home = schema.categories.index("home") + 1
    derived: dict[str, dict[str, Any]] = {
        "i009": {"brand_code": schema.brands.index("brand1") + 1},
        "i010": {"category_codes": [home, clean, 0], "leaf": clean},
    }
    assert before["i009"]["brand_code"] != derived["i009"]["brand_code"]
    expected = [r | changes.get(r["item_id"], {}) | derived.get(r["item_id"], {}) for r in items.to_pylist()]
    assert found.to_pylist() == expected


def test_tokens_follow_title_and_description(prepared: tuple[pa.Table, FeatureSchema, Rows]) -> None:
    items, schema, _ = prepared
    before = by_id(items)

    def words(**change: Any) -> list[str]:
        found = apply_item_updates(items, make_updates(change), schema, WORDS)
        return sorted(schema.tokens[t - 1] for t in by_id(found)[change["item_id"]]["tokens"])

    assert before["i005"]["title"] == "Towel No 5"
    assert words(item_id="i005", title="Apple treat, unheard of") == ["apple", "treat"]
    assert words(item_id="i005", description="Apple") == ["5", "apple", "no", "towel"]
    assert words(item_id="i005", title="Soap", description="Apple") == ["apple", "soap"]
    tokens = sorted(schema.tokens[t - 1] for t in before["i005"]["tokens"])
    assert tokens != sorted(["5", "no", "towel"]), "it has words of the description"
    assert words(item_id="i005", title="Towel No 5") == tokens, "the same title keeps them"
    # i004 has no title, so its title is its id, which is not a word of its text.
    assert "i004" in schema.tokens
    assert (before["i004"]["title"], words(item_id="i004", description="Soap")) == ("i004", ["soap"])


def test_a_new_item_needs_only_its_id(prepared: tuple[pa.Table, FeatureSchema, Rows]) -> None:
    items, schema, _ = prepared
    changes = make_updates(
        {"item_id": "bare"}, {"item_id": "odd", "category": "toys/x", "brand": "?", "available": False}
    )
    found = apply_item_updates(items, changes, schema, WORDS).to_pylist()[items.num_rows :]
    empty = dict.fromkeys(items.column_names) | {
        "first_sold": 0, "category_codes": [0, 0, 0], "leaf": 0, "brand_code": 0, "tokens": [],
        "token_weights": [], "attribute_codes": [], "content": [],
    }  # fmt: skip
    assert found == [
        empty | {"item_id": "bare", "title": "bare", "available": True},
        empty | {"item_id": "odd", "title": "odd", "category": "toys/x", "brand": "?", "available": False},
    ]


def test_no_updates_change_nothing(prepared: tuple[pa.Table, FeatureSchema, Rows]) -> None:
    items, schema, _ = prepared
    assert apply_item_updates(items, make_updates(), schema, WORDS).equals(items)
