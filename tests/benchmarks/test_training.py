"""The training benchmarks compare the same rows, the same loss and the same model."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import gpu_check, request_level, training, workload
from data.io.stream import BatchStream, StreamOptions


def test_requests_and_rows_are_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CHECKOUTS", 3), ("HISTORY", 40), ("CANDIDATES", 12), ("TRIALS", 1)):
        monkeypatch.setattr(request_level, name, value)
    row = request_level.measure()
    assert row["request_loss"] == pytest.approx(row["flat_loss"], rel=1e-5)
    assert row["request_candidates_per_s"] > 0


def test_workload_rows_and_their_decoding(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    workload.write_rows(file, 2_000)
    table = pq.read_table(file)
    ids, labels = workload.decode(table)
    for i, (name, size) in enumerate(zip(workload.FEATURES, workload.VOCABULARIES, strict=True)):
        assert ids[i].tolist() == table[name].to_pylist()
        assert int(ids[i].max()) < size
    assert labels[:, 1].tolist() == table["purchase"].to_pylist()
    assert labels.mean(0).tolist() == pytest.approx(workload.LABEL_RATES, abs=0.03)


def test_workload_trains_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "VOCABULARIES", [50] * 20)
    monkeypatch.setattr(workload, "BATCH_SIZE", 64)
    monkeypatch.setattr(training, "FOLDER", tmp_path)
    monkeypatch.setattr(training, "WARM_UP", 1)
    workload.write_rows(tmp_path / "rows.parquet", 640)
    row = training.measure_sextet(640)
    assert row["samples_per_s"] > 0
    assert 0 <= row["data_wait_share"] < 1
    file, options = tmp_path / "rows.parquet", StreamOptions(shuffle=True)
    batches = list(BatchStream(file, training.COLUMNS, workload.decode, 64, options))
    assert torch.cat([ids for ids, _ in batches], dim=1).shape == (20, 640)


def test_the_gpu_check_is_skipped_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: make gpu-check")
    assert gpu_check.check(gpu_check.GpuCheckOptions()) == 0
    assert capsys.readouterr().out == "gpu-check was skipped: torch sees no GPU here\n"


def test_a_step_differs_in_nothing_from_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CHECKOUTS", 3), ("HISTORY", 40), ("CANDIDATES", 12)):
        monkeypatch.setattr(request_level, name, value)
    row = gpu_check.step_parity(torch.device("cpu"))
    assert row["cpu_loss"] == row["gpu_loss"]
    assert row["gradient_difference"] == 0
