"""systemd's unit and nginx's configuration, checked by systemd and nginx where they are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.containers import ROOT

UNIT = ROOT / "deploy" / "systemd" / "sextet.service"
EXPOSURE_LIMIT = 2.0  # of 10, by systemd's own measure


def settings(unit: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for line in unit.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values.setdefault(name, []).append(value)
    return values


def test_the_unit_restarts_reloads_and_stops_in_order() -> None:
    unit = settings(UNIT.read_text())
    assert unit["Type"] == ["exec"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert unit["Restart"] == ["always"]
    assert int(unit["TimeoutStopSec"][0]) >= 40  # requests in flight 30 s, log and store 5 s each
    assert "MemoryDenyWriteExecute" not in unit  # torch compiles kernels


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "sextet.service"
    unit.write_text(UNIT.read_text().replace("/opt/sextet/bin/sextet", "/bin/true"))
    analyze = ["systemd-analyze", "--man=no"]
    verified = subprocess.run([*analyze, "verify", str(unit)], capture_output=True, text=True)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    security = [*analyze, "security", "--offline=true", f"--threshold={EXPOSURE_LIMIT * 10:.0f}", str(unit)]
    secured = subprocess.run(security, capture_output=True, text=True)
    assert secured.returncode == 0, secured.stdout
