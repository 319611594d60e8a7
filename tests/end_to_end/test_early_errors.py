"""A wrong file or column is an error before the seconds that torch takes to import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.shop import write_shop
from tests.end_to_end.commands import HANG_SECONDS, ROOT, command, environment, train_arguments


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.columns.orders={order_id: item}", "'item': no such column. Did you mean 'item_id' for 'item'"),
        ("evaluation.by=[users.town]", "evaluation.by: users.town: no such column. Did you mean users.city"),
        ("data.files.orders=sales.csv", "sales.csv: there is no such file; correct data.files.orders"),
        ("stage=check", ""),
    ],
)
def test_torch_is_not_imported(tmp_path: Path, override: str, message: str) -> None:
    shop = write_shop(tmp_path / "shop", users=20, items=30, days=60)
    done = command("-X", "importtime", *train_arguments(tmp_path, shop, override))
    errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == bool(message), errors
    assert message in "\n".join(errors)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "data.inputs" in imported
    assert "torch" not in imported
    assert not (tmp_path / "runs").exists()


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    """As `train.py stage=check … | head` leaves it."""
    shop = write_shop(tmp_path / "shop", users=20, items=30, days=60)
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, *train_arguments(tmp_path, shop, "stage=check")], cwd=ROOT, env=environment(),
        stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=HANG_SECONDS,
    )  # fmt: skip
    os.close(write_end)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "BrokenPipeError" not in done.stderr
