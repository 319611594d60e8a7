"""How the stages share the training checkouts, and what is too little to train on."""

import inspect
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from data.errors import DataError
from data.prepare import prepare
from models.schema import SECONDS_PER_DAY as DAY
from tests.data.conftest import config, save
from tests.data.shop import make_shop
from training.checkout_sampling import (
    count_further_epochs,
    count_retrieval_rows,
    first_ranker_row,
)
from training.errors import ConfigError
from training.prepared_data import open_prepared
from training.trainer import (
    MAX_PATIENCE,
    SET_BY_STAGES,
    GainStopping,
    StoppingRule,
    extra_arguments,
    patience_between,
    validation_interval,
)


@given(st.integers(2, 1000), st.floats(0.01, 0.99))
def test_both_stages_get_checkouts(rows: int, share: float) -> None:
    assert 1 <= count_retrieval_rows(rows, share) < rows


def test_the_ranker_starts_after_the_last_label_of_retrieval(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"ts": [day * DAY for day in range(100)]}), file)
    assert first_ranker_row(file, 50, "14d") == 49 + 14 + 1
    assert first_ranker_row(file, 50, "40d") == 50  # the gap would cost more than half


@given(st.floats(0, 100), st.integers(1, 1000), st.integers(0, 1000))
def test_continued_towers_pass_more_often_the_more_checkouts_are_new(
    epochs: float, rows: int, new_rows: int
) -> None:
    all_rows = rows + new_rows
    further = count_further_epochs(epochs, rows, all_rows)
    assert further >= 1
    assert further <= max(epochs + 0.5, 1)  # no more than selection found
    assert further >= count_further_epochs(epochs, rows, rows + new_rows // 2)
    checkouts = epochs * rows + further * all_rows
    assert checkouts >= epochs * all_rows - all_rows / 2  # of one training on all


@given(st.integers(1, 1000), st.integers(1, 10_000), st.integers(1, 100))
def test_the_last_validation_ends_the_longest_training(
    validate_every: int, epoch_steps: int, n_epochs: int
) -> None:
    interval, n_steps = validation_interval(validate_every, epoch_steps, n_epochs), epoch_steps * n_epochs
    n_validations = n_steps // interval
    assert n_validations >= 1
    assert n_steps - n_validations * interval < n_validations
    assert interval <= 2 * validate_every


@given(st.integers(1, 50), st.integers(1, 10_000), st.integers(1, 10_000))
def test_the_longest_training_is_of_whole_epochs(max_epochs: int, max_steps: int, epoch_steps: int) -> None:
    rule = StoppingRule(
        monitor="loss", mode="min", max_epochs=max_epochs, max_steps=max_steps, validate_every=1, patience=1
    )
    n_epochs = rule.count_epochs(epoch_steps)
    assert 1 <= n_epochs <= max_epochs
    assert n_epochs == 1 or n_epochs * epoch_steps <= max_steps + epoch_steps / 2
    assert n_epochs == max_epochs or (n_epochs + 1) * epoch_steps >= max_steps


def test_validations_follow_epochs_up_to_validate_every() -> None:
    assert validation_interval(400, 10_000, 30) == 400  # parts of an epoch
    assert validation_interval(400, 100, 100) == 100
    assert validation_interval(400, 3, 1000) == 50  # many epochs
    assert validation_interval(400, 12, 2) == 24


@pytest.mark.parametrize(
    ("interval", "patience"), [(200, 3), (100, 6), (60, 10), (10, MAX_PATIENCE), (10**6, 3)]
)
def test_short_epochs_have_more_patience(interval: int, patience: int) -> None:
    rule = StoppingRule(monitor="recall", mode="max", max_epochs=100, validate_every=200, patience=3)
    assert patience_between(rule, interval) == patience


def test_too_few_items_are_refused_before_training(tmp_path) -> None:
    tables = make_shop(users=20, items=32, days=70)
    for row, item in enumerate(tables["items"]):
        item["available"] = row < 5
    save(tmp_path, tables)
    with pytest.raises(DataError, match="5 of 32 items are available, a slate needs 6"):
        open_prepared(prepare(config(tmp_path)))


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=30), st.sampled_from(["min", "max"]))
def test_small_gains_do_not_prolong_a_training(values: list[float], mode: str) -> None:
    stopping = GainStopping("recall", mode, patience=3, min_gain=0.01)
    best, n_no_better = None, 0
    for value in values:
        should_stop, _ = stopping._evaluate_stopping_criteria(torch.tensor(value, dtype=torch.float64))
        gain = math.inf if best is None else value - best if mode == "max" else best - value
        if best is None or gain > 0.01 * best * (1 + 1e-9):
            best, n_no_better = value, 0
        elif gain < 0.01 * best * (1 - 1e-9):
            n_no_better += 1
        else:
            return  # too near to tell
        assert should_stop == (n_no_better >= 3)
        if should_stop:
            return


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"gradient_clip_val": 1.0}, "gradients cannot be clipped"),
        ({"max_epochs": 3}, "set retrieval.train.epochs"),
        ({"logger": True}, r"logger=\[mlflow,csv\]"),
        ({"callbacks": []}, "add yours to callbacks"),
        ({"profiler": "simple"}, "set trainer.profiler"),
        ({"max_tim": "00:01:00:00"}, "Did you mean max_time"),
    ],
)
def test_arguments_of_the_trainer_that_mean_nothing_here_are_refused(
    extra: dict[str, object], words: str
) -> None:
    cfg = OmegaConf.create({"trainer": {"extra": extra}})
    with pytest.raises(ConfigError, match=words):
        extra_arguments(cfg)


def test_other_arguments_of_the_trainer_pass() -> None:
    extra = {"max_time": "00:01:00:00", "detect_anomaly": True}
    assert extra_arguments(OmegaConf.create({"trainer": {"extra": extra}})) == extra
    assert extra_arguments(OmegaConf.create({"trainer": {"extra": None}})) == {}
    assert not set(SET_BY_STAGES) - set(inspect.signature(pl.Trainer.__init__).parameters)
