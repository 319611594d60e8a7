"""The public benchmark on small made sequences: counting, a real training, and the report."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import public, public_counting, public_libraries
from benchmarks.public_data import PublicSet, known_lines, read_public_set
from benchmarks.public_metrics import DEPTH
from benchmarks.public_sextet import RunRows
from data.errors import DataError

CHAIN, N_USERS = 40, 200


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Toys: every user buys along one chain of items. Ta-Feng: every user repeats four items."""
    rng = np.random.default_rng(0)
    chains, baskets = [], []
    for user in range(N_USERS):
        start, length = rng.integers(CHAIN), rng.integers(5, 9)
        chains.append(f"{user} " + " ".join(str(1 + (start + step) % CHAIN) for step in range(length)))
        favourites = rng.choice(60, 4, replace=False)
        orders = [rng.choice(favourites, rng.integers(1, 4), replace=False) for _ in range(length)]
        baskets.append(f"{user}\t" + "|".join(" ".join(map(str, order)) for order in orders))
    (tmp_path / "Toys_and_Games.txt").write_text("\n".join(chains))
    (tmp_path / "tafeng_half.txt").write_text("\n".join(baskets))
    return tmp_path


@pytest.fixture
def chain(files: Path) -> PublicSet:
    return read_public_set(files / "Toys_and_Games.txt")


def measured(files: Path) -> dict[tuple[str, str], dict]:
    rows = json.loads((files / "reports" / "bench_public.json").read_text())
    return {(row["data"], row["system"]): row for row in rows}


def test_counting_finds_the_structure(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = public.PublicOptions(data=files, systems="counting", out=files / "reports")
    assert public.benchmark(options) == 0
    rows, output = measured(files), capsys.readouterr().out
    assert rows["Toys_and_Games", "co-occurrence"]["hit10"] == 1.0
    assert rows["Toys_and_Games", "popularity"]["hit10"] < 0.6
    for system in ("GP-TopFreq", "TIFU-KNN"):
        assert rows["tafeng_half", system]["recall10"] > 0.95
    assert rows["tafeng_half", "popularity"]["recall10"] < 0.5
    assert set(rows["tafeng_half", "popularity"]) >= {"data", "system", "recall10", "ndcg10", "hit10", "seed"}
    assert "| tafeng_half | GP-TopFreq | " in output
    assert "Sports_and_Outdoors is skipped" in output


def test_lists_hold_nothing_that_was_bought_before(chain: PublicSet) -> None:
    known = known_lines(chain)
    for system, rank in public_counting.COUNTING.items():
        lists = rank(chain)
        for user in range(5):
            assert not set(lists[user]) & set(known.item[known.user == user]), system


def test_group_weights_of_nine_orders() -> None:
    weights = public_counting.group_weights(np.full(9, 9), np.arange(9))
    # Seven groups: five of one order, two of two.
    expected = [0.7 ** (6 - group) / 7 for group in range(5)]
    expected += [0.7**1 / 7 * 0.9 / 2, 0.7**1 / 7 / 2, 0.9 / 7 / 2, 1 / 7 / 2]
    assert weights == pytest.approx(expected)
    assert public_counting.group_weights(np.array([2, 2]), np.arange(2)) == pytest.approx([0.7 / 2, 1 / 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": "Toys"}, "--sets Toys: expected Toys_and_Games"),
        ({"systems": "counting,SVD"}, "--systems SVD: expected Sextet, counting, libraries, popularity"),
        ({"seeds": "0,one"}, "--seeds 0,one: expected numbers"),
        ({"run": Path("run")}, "--run needs --sets"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        public.PublicOptions(**options)


def test_libraries_that_cannot_be_installed_have_no_rows(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(public_libraries, "create_environment", lambda *_, **__: None)
    options = public.PublicOptions(
        data=files, sets="Toys_and_Games", systems="popularity,ALS", out=files / "reports"
    )
    assert public.benchmark(options) == 0
    assert list(measured(files)) == [("Toys_and_Games", "popularity")]


def test_libraries_train_on_the_known_orders(
    chain: PublicSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_libraries, "FOLDER", tmp_path)
    with np.load(public_libraries.write_known_lines(chain) / "known.npz") as known:
        assert known["item"].tolist() == known_lines(chain).item.tolist()
        assert bool(known["is_leave_one_out"])


@pytest.mark.slow
def test_a_training_beats_popularity(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "FOLDER", files / "work")
    options = public.PublicOptions(
        data=files, sets="Toys_and_Games", systems="popularity,Sextet", seeds="3", out=files / "reports",
        overrides=("experiment=debug", "retrieval.train.epochs=10"),
    )  # fmt: skip
    assert public.benchmark(options) == 0
    rows = measured(files)
    by_run = [rows["Toys_and_Games", f"Sextet, {part}"] for part in ("two towers", "whole system")]
    assert all(row["seed"] == 3 and row["users"] == N_USERS for row in by_run)
    assert by_run[1]["hit10"] > rows["Toys_and_Games", "popularity"]["hit10"]


def write_test_split(public_set: PublicSet, folder: Path, n_prior: list[int]) -> SimpleNamespace:
    """A prepared folder whose rows lie in another order than those of the set."""
    (folder / "examples").mkdir(parents=True)
    users = public_set.user_ids[::-1]
    examples = {"user_id": users, "n_prior_orders": n_prior[::-1], "snapshot": [0] * len(users)}
    pq.write_table(pa.table(examples), folder / "examples" / "test.parquet")
    pq.write_table(pa.table({"item_id": ["", *public_set.item_ids[::-1]]}), folder / "items.parquet")
    return SimpleNamespace(folder=folder)


def test_rows_of_a_run_are_those_of_the_set(chain: PublicSet, tmp_path: Path) -> None:
    rows = RunRows(chain, write_test_split(chain, tmp_path / "p", (chain.n_orders - 2).tolist()))
    n_users, n_items = len(chain.user_ids), len(chain.item_ids)
    catalog_rows = np.full((n_users, DEPTH), -1)
    catalog_rows[:, 0] = np.arange(n_users) % n_items + 1
    lists = rows.lists(catalog_rows)
    assert lists[:, 0].tolist() == [n_items - 1 - (n_users - 1 - user) % n_items for user in range(n_users)]
    assert (lists[:, 1:] == -1).all()
    known, (row, item) = known_lines(chain), rows.excluded_items()
    bought = known.item[known.user == n_users - 1]  # of the first test row
    assert sorted(item[row == 0]) == sorted(n_items - bought)
    assert len(row) == len(known.item)
    assert (np.diff(row) >= 0).all()


def test_checkouts_other_than_the_last_but_one_are_refused(chain: PublicSet, tmp_path: Path) -> None:
    prepared = write_test_split(chain, tmp_path / "p", (chain.n_orders - 3).tolist())
    with pytest.raises(DataError, match="Train with the settings"):
        RunRows(chain, prepared)
