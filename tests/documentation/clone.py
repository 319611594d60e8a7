"""A folder like a clone of the repository, with the shop of the tutorial, trained and exported."""

import csv
import random
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

from tests.documentation.blocks import page_blocks
from tests.end_to_end.commands import HANG_SECONDS, ROOT, environment

SHOP_PAGE = ROOT / "docs" / "tutorials" / "own_shop.md"
SHOP_SCRIPT = "make_shop.py"
TRAIN = ("train.py", "experiment=debug", "data=tables", "data.root=shop")
CURL_SETTINGS = "fail\nshow-error\n"  # an error of the service fails the line


def clone(folder: Path) -> Path:
    """Copies of all that the repository tracks, or will, and its environment; a page may change them."""
    names = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    ).splitlines()
    for name in names:
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    (folder / ".venv").unlink(missing_ok=True)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


def page_environment(home: Path, binaries: Path) -> dict[str, str]:
    """The environment of a page's commands: a home of their own, and `sextet` of the wheel.

    Args:
        home: for caches and settings; bytecode too.
        binaries: folder of `sextet`.
    """
    home.mkdir(parents=True, exist_ok=True)
    (home / ".curlrc").write_text(CURL_SETTINGS)
    variables = environment()
    return {
        **{name: value for name, value in variables.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")},
        "HOME": str(home),
        "PATH": f"{binaries}:{variables['PATH']}",
        "PYTHONPYCACHEPREFIX": str(home / "bytecode"),
        "PYTHONUNBUFFERED": "1",
    }


def run_python(folder: Path, variables: dict[str, str], *arguments: str) -> None:
    """Run `python <arguments>` in a clone. Raises AssertionError with its output."""
    finished = subprocess.run(
        [".venv/bin/python", *arguments], cwd=folder, env=variables, capture_output=True, text=True,
        timeout=HANG_SECONDS,
    )  # fmt: skip
    assert finished.returncode == 0, (
        f"{' '.join(arguments)}\n{finished.stdout[-3000:]}\n{finished.stderr[-3000:]}"
    )


def build_shop(folder: Path, variables: dict[str, str]) -> None:
    """The tutorial's shop in a clone: tables, a run in MLflow, a bundle, a store, a log of A/B tests."""
    (script,) = (block for block in page_blocks(SHOP_PAGE) if block.path == SHOP_SCRIPT)
    (folder / SHOP_SCRIPT).write_text(script.text)
    run_python(folder, variables, SHOP_SCRIPT)
    add_users_and_events(folder / "shop")
    run_python(folder, variables, *TRAIN)
    run_python(folder, variables, "export.py")
    load = ("load", "--store", "store.db", "--from", "bundle/store.arrow")
    run_python(folder, variables, "-m", "serving", *load)
    run_python(folder, variables, "-m", "benchmarks.experiment_log", "artifacts/experiment")
    (folder / "reports").mkdir(exist_ok=True)


def add_users_and_events(shop: Path) -> None:
    """Write users.csv and events.csv where the tutorial does not: cities, and slates with clicks."""
    generator = random.Random(0)
    with (shop / "orders.csv").open(newline="") as file:
        orders = list(csv.DictReader(file))
    with (shop / "items.csv").open(newline="") as file:
        items = [row["item_id"] for row in csv.DictReader(file)]
    if not (shop / "users.csv").is_file():
        users = sorted({row["user_id"] for row in orders if row["user_id"]})
        rows = [{"user_id": user, "city": ("Graz", "Linz", "Wien")[n % 3]} for n, user in enumerate(users)]
        write_rows(shop / "users.csv", rows)
    if not (shop / "events.csv").is_file():
        rows = []
        for row in {row["order_id"]: row for row in orders}.values():
            seen = datetime.fromisoformat(row["ts"]) + timedelta(minutes=1)
            for position, item in enumerate(generator.sample(items, 6)):
                event: dict[str, object] = {
                    "user_id": row["user_id"], "item_id": item, "ts": seen.isoformat(), "kind": "impression",
                    "order_id": row["order_id"], "position": position, "propensity": 0.1,
                }  # fmt: skip
                rows.append(event)
                if generator.random() < 0.2:
                    rows.append(event | {"ts": (seen + timedelta(minutes=2)).isoformat(), "kind": "click"})
        write_rows(shop / "events.csv", rows)


def write_rows(file: Path, rows: list[dict[str, object]]) -> None:
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def install_wheel(folder: Path) -> Path:
    """An environment with the wheel `sextet`, on the packages of this one; returns its folder of programs."""
    source, target = folder / "source", folder / "environment"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "serving", source / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip"]
    offline = ["--no-deps", "--no-index", "--quiet"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, timeout=HANG_SECONDS)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True)
    (wheel,) = folder.glob("*.whl")
    (packages,) = target.glob("lib/python*/site-packages")
    (locked,) = Path(sys.prefix).glob("lib/python*/site-packages")
    (packages / "locked.pth").write_text(f"{locked}\n")
    install = [*pip, "--python", str(target / "bin" / "python"), "install", *offline, str(wheel)]
    subprocess.run(install, check=True, timeout=HANG_SECONDS)
    return target / "bin"
