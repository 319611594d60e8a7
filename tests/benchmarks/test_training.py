"""The training benchmarks measure what they say: the same rows, the same loss, the same model."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import gpu_check, request_level, training, workload
from data.io.stream import BatchStream, StreamOptions


def test_requests_and_rows_are_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CHECKOUTS", 3), ("HISTORY", 40), ("CANDIDATES", 12), ("TRIALS", 1)):
        monkeypatch.setattr(request_level, name, value)
    found = request_level.measure()
    assert found["request_loss"] == pytest.approx(found["flat_loss"], rel=1e-5)
    assert found["request_candidates_per_s"] > 0


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
    found = training.measure_sextet(640)
    assert found["samples_per_s"] > 0
    assert 0 <= found["data_wait_share"] < 1
    columns = [*workload.FEATURES, *workload.LABELS]
    seen = list(
        BatchStream(tmp_path / "rows.parquet", columns, workload.decode, 64, StreamOptions(shuffle=True))
    )
    assert torch.cat([ids for ids, _ in seen], dim=1).shape == (20, 640)


def test_the_gpu_check_says_that_it_was_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: make gpu-check")
    gpu_check.main()
    assert capsys.readouterr().out == "gpu-check was skipped: torch sees no GPU here\n"


def test_a_step_differs_in_nothing_from_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CHECKOUTS", 3), ("HISTORY", 40), ("CANDIDATES", 12)):
        monkeypatch.setattr(request_level, name, value)
    found = gpu_check.step_parity(torch.device("cpu"))
    assert found["cpu_loss"] == found["gpu_loss"]
    assert found["gradient_difference"] == 0
