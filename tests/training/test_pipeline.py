"""How the stages share the training checkouts, and what is too little to train on."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from data.errors import DataError
from data.prepare import prepare
from models.schema import SECONDS_PER_DAY as DAY
from tests.data.conftest import config, save
from tests.data.shop import make_shop
from training.checkout_sampling import (
    MAX_EPOCHS,
    count_epochs,
    count_retrieval_rows,
    first_ranker_row,
    report_epochs,
)
from training.prepared_data import open_prepared


@given(st.integers(2, 1000), st.floats(0.01, 0.99))
def test_both_stages_get_checkouts(rows: int, share: float) -> None:
    assert 1 <= count_retrieval_rows(rows, share) < rows


def test_the_ranker_starts_after_the_last_label_of_retrieval(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"ts": [day * DAY for day in range(100)]}), file)
    assert first_ranker_row(file, 50, "14d") == 49 + 14 + 1
    assert first_ranker_row(file, 50, "40d") == 50  # the gap would cost more than half


@given(st.integers(1, 30), st.integers(1, 5000), st.integers(1, 5000))
def test_few_checkouts_are_seen_more_often(epochs: int, min_steps: int, steps: int) -> None:
    n_epochs = count_epochs(OmegaConf.create({"epochs": epochs, "min_steps": min_steps}), steps)
    assert n_epochs >= epochs
    assert n_epochs * steps >= min_steps or n_epochs == max(epochs, MAX_EPOCHS)
    assert n_epochs == epochs or (n_epochs - 1) * steps < min_steps


def test_more_epochs_than_asked_for_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    train = OmegaConf.create({"epochs": 2, "min_steps": 100})
    report_epochs("ranker", train, 2)
    assert capsys.readouterr().out == ""
    report_epochs("ranker", train, 5)
    expected = "ranker: 5 epochs, more than ranker.train.epochs=2, for ranker.train.min_steps=100"
    assert capsys.readouterr().out.startswith(expected)


def test_too_few_items_are_refused_before_training(tmp_path) -> None:
    tables = make_shop(users=20, items=32, days=70)
    for row, item in enumerate(tables["items"]):
        item["available"] = row < 5
    save(tmp_path, tables)
    with pytest.raises(DataError, match="5 of 32 items are available, a slate needs 6"):
        open_prepared(prepare(config(tmp_path)))
