"""A batch gives the slates of single requests, for a list of checkouts and for a file."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from serving import Checkout, Event, Line, Recommender, Slate
from serving.batch.recommend import BatchJob, recommend_batch, run_batch_job
from serving.batch.rows import INPUT_SCHEMA, parse_checkout
from serving.cli import main
from serving.pipeline.slate_policy import SlatePolicy

NOW = 1_711_000_000


def random_checkouts(recommender: Recommender, count: int = 200) -> list[Checkout]:
    """Users, guests, unknown users and items, empty baskets, own histories; none to all items excluded."""
    rng = np.random.default_rng(3)
    item_ids = recommender.bundle.item_id.take(
        pa.array(recommender.popularity_fallback.all_items)
    ).to_pylist()
    names = [*item_ids, "?", "what?"]

    def sample(max_items: int) -> list[str]:
        return [names[k] for k in rng.integers(0, len(names), rng.integers(0, max_items + 1))]

    checkouts = []
    for number in range(count):
        history = [
            Event(
                item, NOW - int(rng.integers(-9, 9**7)), ("purchase", "click", "cart")[number % 3], 2.0, None
            )
            for item in sample(30)
        ]
        checkout = Checkout(
            user_id=(f"u{number % 40:03d}", None, "unknown")[int(rng.choice(3, p=[0.6, 0.3, 0.1]))],
            basket=[Line(item, float(rng.integers(1, 4)), (None, 2.5)[number % 2]) for item in sample(5)],
            ts=NOW + number,
            history=(None, None, [], history)[number % 4],
            context=({}, {"device": "phone"}, {"not in": "the schema"})[number % 3],
            profile=({}, {"city": "city1", "age": "33"})[number % 2],
            exclude=sample(20) if number % 3 else [],
            categories=(None, None, ["food", "pets/dog"], ["home/paper/towel"], ["nowhere"])[number % 5],
        )
        checkouts.append(checkout)
    few_eligible = [replace(checkouts[0], exclude=item_ids[k:]) for k in (0, 1, 5, 6, 7)]
    few_eligible.append(Checkout(None, [], NOW, [], exclude=item_ids[:40]))
    return few_eligible + checkouts


def assert_same(actual: Slate, expected: Slate) -> None:
    assert [item.item_id for item in actual.items] == [item.item_id for item in expected.items]
    assert (actual.tier, actual.reason, actual.bundle_version) == (
        expected.tier, expected.reason, expected.bundle_version,
    )  # fmt: skip
    for item, expected_item in zip(actual.items, expected.items, strict=True):
        assert item.sources == expected_item.sources
        assert probabilities(item) == pytest.approx(probabilities(expected_item), abs=1e-5)
        assert item.value == pytest.approx(expected_item.value, rel=1e-5)


def probabilities(item: Any) -> tuple[float, ...]:
    return () if item.click is None else (item.click, item.purchase)


@pytest.mark.parametrize("weight", [None, 0.0, 0.4])
@pytest.mark.parametrize(
    "policy",
    [
        SlatePolicy(),
        SlatePolicy(category_cap=1, diversity=0.3),
        SlatePolicy(exclude_basket=False, exclude_bought_within="30d", repeat_categories=("food/dairy",)),
    ],
)
def test_a_batch_equals_single_requests(
    shared: Recommender, policy: SlatePolicy, weight: float | None
) -> None:
    recommender = Recommender(shared.bundle, shared.store)
    recommender.policy = policy
    checkouts = random_checkouts(recommender)
    single = [recommender.recommend(checkout, math.inf, weight) for checkout in checkouts]
    assert {len(slate.items) for slate in single} >= {0, 1, 5, 6}
    for size in (len(checkouts), 37):
        for start in range(0, len(checkouts), size):
            rows = slice(start, start + size)
            slates = recommend_batch(recommender, checkouts[rows], weight)
            for slate, expected in zip(slates, single[rows], strict=True):
                assert_same(slate, expected)


def test_no_checkouts_and_a_wrong_weight(shared: Recommender) -> None:
    assert recommend_batch(shared, []) == []
    with pytest.raises(ValueError, match="revenue_weight is 3"):
        recommend_batch(shared, [], 3.0)


class BatchBreaker:
    """A module that raises for a batch, or returns NaN for a batch with one of the times `nan_ts`."""

    def __init__(self, module: Any, nan_ts: Sequence[int] = ()) -> None:
        self.module, self.nan_ts = module, nan_ts

    def __call__(self, query: tuple[torch.Tensor, ...], *inputs: Any) -> Any:
        if set(query[0].tolist()) & set(self.nan_ts):
            return tuple(torch.full_like(output, math.nan) for output in self.module(query, *inputs))
        if not self.nan_ts and query[0].numel() > 1:
            raise RuntimeError("too many")
        return self.module(query, *inputs)


@pytest.mark.parametrize("stage", ["query_tower", "ranker"])
def test_a_batch_that_fails_is_answered_one_by_one(shared: Recommender, stage: str) -> None:
    module = BatchBreaker(getattr(shared.bundle, stage))
    recommender = Recommender(replace(shared.bundle, **{stage: module}), shared.store)
    checkouts = random_checkouts(shared, 20)
    slates = recommend_batch(recommender, checkouts)
    for slate, checkout in zip(slates, checkouts, strict=True):
        expected = shared.recommend(checkout, math.inf)
        assert slate.reason.startswith("batch: RuntimeError: too many")
        assert_same(replace(slate, reason=expected.reason), expected)


def test_a_checkout_with_nan_spoils_no_other(shared: Recommender) -> None:
    checkouts = random_checkouts(shared, 8)[6:]
    module = BatchBreaker(shared.bundle.ranker, [NOW + 3])
    recommender = Recommender(replace(shared.bundle, ranker=module), shared.store)
    slates = recommend_batch(recommender, checkouts)
    for number, (slate, checkout) in enumerate(zip(slates, checkouts, strict=True)):
        expected = shared.recommend(checkout, math.inf)
        assert slate.tier == ("retrieval" if number == 3 else expected.tier)
        assert len(slate.items) == len(expected.items)
    assert slates[3].reason.endswith("ranker: its output is not finite")


def to_row(checkout: Checkout) -> dict[str, Any]:
    """A checkout as a row of the file."""
    row: dict[str, Any] = {"user_id": checkout.user_id, "ts": checkout.ts, "exclude": checkout.exclude}
    row["categories"] = checkout.categories
    row |= {name: list(getattr(checkout, name).items()) for name in ("context", "profile")}
    for name, lines in (("basket", checkout.basket), ("history", checkout.history)):
        columns = [
            column.removeprefix(f"{name}_") for column in INPUT_SCHEMA if column.startswith(f"{name}_")
        ]
        for column in columns if lines is not None else ():
            row[f"{name}_{column}"] = [getattr(line, column) for line in lines]
    return row


def write(file: Path, rows: list[dict[str, Any]], **columns: pa.Array) -> Path:
    table = pa.Table.from_pylist(rows, pa.schema(list(INPUT_SCHEMA.items())))
    for name, column in columns.items():
        table = table.append_column(name, column)
    pq.write_table(table, file, row_group_size=70)
    return file


@pytest.mark.parametrize("threads", [1, 3])
def test_a_file(shared: Recommender, tmp_path: Path, threads: int) -> None:
    checkouts = random_checkouts(shared)
    ids = pa.array(range(1000, 1000 + len(checkouts)), pa.int32())
    source = write(tmp_path / "in.parquet", [to_row(checkout) for checkout in checkouts], checkout_id=ids)
    reported = []
    job = BatchJob(source, tmp_path / "out.parquet", NOW, None, 32, threads)
    tiers = run_batch_job(shared, job, lambda done, rows: reported.append((done, rows)))
    assert reported[-1] == (len(checkouts), len(checkouts))
    assert tiers.total() == len(checkouts)
    table = pq.read_table(job.output_path)
    assert table["checkout_id"].combine_chunks() == ids
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]
    for row, checkout in zip(table.to_pylist(), checkouts, strict=True):
        expected = shared.recommend(checkout, math.inf)
        assert row["user_id"] == checkout.user_id
        assert row["item_id"] == [item.item_id for item in expected.items]
        assert (row["tier"], row["reason"]) == (expected.tier, expected.reason)
        for name in ("click", "purchase", "value"):
            for value, item in zip(row[name], expected.items, strict=True):
                assert value == pytest.approx(asdict(item)[name], rel=1e-5, abs=1e-5)


def test_nulls_and_missing_columns_have_defaults(shared: Recommender) -> None:
    empty = dict.fromkeys(INPUT_SCHEMA)
    assert parse_checkout(empty, NOW) == Checkout(None, [], NOW)
    row = empty | {
        "basket_item_id": ["a", "b"],
        "basket_price": [None, 2.0],
        "context": [("x", None), ("y", "z")],
    }
    assert parse_checkout(row, NOW) == Checkout(
        None, [Line("a"), Line("b", price=2.0)], NOW, context={"y": "z"}
    )
    row = empty | {"history_item_id": ["a"], "history_ts": [5], "history_kind": [None]}
    assert parse_checkout(row, NOW).history == [Event("a", 5)]
    assert parse_checkout(empty | {"history_item_id": []}, NOW).history == []


def test_the_required_columns_suffice(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guests only, integers as item ids, no `checkout_id`; a note names the columns that are not read."""
    table = pa.table({"user_id": pa.nulls(3), "basket_item_id": [[1, 2], None, []], "colour": [1, 2, 3]})
    pq.write_table(table, tmp_path / "in.parquet")
    assert main(command(version, tmp_path)) == 0
    printed = capsys.readouterr().err
    assert "note: columns that are not read: colour" in printed
    assert "3 rows" in printed
    assert "tiers: 3 ranked" in printed
    written = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["row"] for row in written] == [1, 2, 3]
    assert all(len(set(row["item_id"])) == 6 and row["bundle_version"] == version.name for row in written)
    end = Recommender.load(version).bundle.manifest["data"]["window"]["end"]
    expected = Recommender.load(version).recommend(Checkout(None, [Line("1"), Line("2")], end), math.inf)
    assert written[0]["item_id"] == [item.item_id for item in expected.items]


def test_no_rows(version: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", [])
    assert main(command(version, tmp_path)) == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def command(version: Path, folder: Path, *options: str) -> list[str]:
    files = ["--checkouts", str(folder / "in.parquet"), "--out", str(folder / "out.parquet")]
    return ["batch", "--bundle", str(version.parent), *files, *options]


BAD = {
    "basket_quantity has 1 elements, basket_item_id has 2": {
        "basket_item_id": ["i001", "i002"], "basket_quantity": [1.0],
    },
    "Line.quantity is 0.0: it must be above 0": {"basket_item_id": ["i001"], "basket_quantity": [0.0]},
    "Line.item_id is None: expected a string": {"basket_item_id": [None]},
    "Checkout.ts is 1700000000000: expected Unix seconds": {"ts": 1_700_000_000_000},
    "Event.ts is None: expected Unix seconds": {"history_item_id": ["i001"]},
    "history_ts has 2 elements, history_item_id is null": {"history_ts": [1, 2]},
    "Event.kind is 'look': expected one of": {
        "history_item_id": ["i001"], "history_ts": [5], "history_kind": ["look"],
    },
}  # fmt: skip


def test_bad_rows_are_named_and_stop(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"user_id": "u001", "basket_item_id": ["i001"]}
    rows = [good, *BAD.values(), good, *[{"basket_item_id": [""]}] * 7]
    write(tmp_path / "in.parquet", rows)
    (tmp_path / "out.parquet").write_text("yesterday's")
    assert main(command(version, tmp_path)) == 1
    printed = capsys.readouterr().err
    assert "in.parquet: 14 of 16 rows make no checkout" in printed
    for row, reason in enumerate(BAD, start=2):
        assert f"row {row}: {reason}" in printed
    assert "and 4 more" in printed
    assert (tmp_path / "out.parquet").read_text() == "yesterday's"
    assert not list(tmp_path.glob("*.partial"))

    assert main(command(version, tmp_path, "--skip-bad-rows")) == 0
    assert "14 none" in capsys.readouterr().err
    written = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [len(row["item_id"]) for row in written] == [6] + [0] * 7 + [6] + [0] * 7
    for row, reason in zip(written[1:], BAD, strict=False):
        assert row["tier"] is None
        assert row["reason"].startswith(f"bad row: {reason}")


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("user_id", None, "no column user_id"),
        ("basket_item_id", None, "no column basket_item_id"),
        ("basket_item_id", pa.array(["i001"]), "column basket_item_id is string, expected list<"),
        ("ts", pa.array([1.5]), "column ts is double, expected int64"),
        ("ts", pa.array([0], pa.timestamp("ms")), r"column ts is timestamp\[ms\], expected int64"),
        ("context", pa.array([{"a": "b"}]), "column context is struct<.*>, expected map<string, string>"),
    ],
)
def test_wrong_columns(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], column, values, reason
) -> None:
    columns = {"user_id": ["u001"], "basket_item_id": [["i001"]], column: values}
    pq.write_table(
        pa.table({name: column for name, column in columns.items() if column is not None}),
        tmp_path / "in.parquet",
    )
    assert main(command(version, tmp_path)) == 1
    printed = capsys.readouterr().err
    assert re.search(reason, printed), printed


def test_an_unreadable_file_or_bundle_exits_with_1(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(version, tmp_path)) == 1
    assert "in.parquet" in capsys.readouterr().err
    (tmp_path / "in.parquet").write_text("text")
    assert main(command(version, tmp_path)) == 1
    assert "error: " in capsys.readouterr().err
    write(tmp_path / "in.parquet", [])
    assert main(command(tmp_path / "none", tmp_path)) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--revenue-weight", "2"], ["--ts", "-5"], ["--batch-size", "0"], ["--threads", "0"],
        ["--out", "no/such/folder/out.parquet"], ["--out", "."],
    ],
)  # fmt: skip
def test_wrong_arguments_exit_with_2(options: list[str], version: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exited:
        main(command(version, tmp_path, *options))
    assert exited.value.code == 2


def test_the_input_is_never_overwritten(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.parquet", [])
    with pytest.raises(SystemExit):
        main([*command(version, tmp_path), "--out", str(source)])
    assert "the slates would replace the checkouts" in capsys.readouterr().err
