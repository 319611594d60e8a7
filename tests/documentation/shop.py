"""The tutorial's shop in a clone: what every page finds."""

import csv
import random
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

from tests.documentation.blocks import page_blocks, parse_blocks
from tests.documentation.runner import PageRunner
from tests.end_to_end.commands import HANG_SECONDS, ROOT

SHOP_PAGE = ROOT / "docs" / "tutorials" / "own_shop.md"
SHOP_SCRIPT = "make_shop.py"
# With MLflow, whose new database takes longer than a small training, and a log of slates and a click.
STEPS = """
```bash
.venv/bin/python train.py experiment=debug data=tables data.root=shop
.venv/bin/python export.py
.venv/bin/python -m serving load --store store.db --from bundle/store.arrow
.venv/bin/python -m benchmarks.experiment_log artifacts/experiment
.venv/bin/python -m serving serve --bundle bundle --log log --port 8000
for user in U1 U2 U3 U4 U5 U6 U7 U8; do
  curl -sf localhost:8000/v1/recommendations -H 'Content-Type: application/json' -d '{"user_id": "'$user'", "basket": [{"item_id": "A1"}]}'
done
curl -sf localhost:8000/v1/feedback -H 'Content-Type: application/json' -d '{"user_id": "U1", "item_id": "A3", "kind": "click"}'
mkdir -p reports
```
"""  # noqa: E501


def build_shop(runner: PageRunner) -> None:
    """Make the shop in a clone: tables, a run in MLflow, a bundle, a store, a log, and a log of A/B tests."""
    (script,) = (block for block in page_blocks(SHOP_PAGE) if block.path == SHOP_SCRIPT)
    (runner.folder / SHOP_SCRIPT).write_text(script.text)
    command = [".venv/bin/python", SHOP_SCRIPT]
    subprocess.run(command, cwd=runner.folder, check=True, timeout=HANG_SECONDS)
    add_users_and_events(runner.folder / "shop")
    runner.run_blocks(parse_blocks(STEPS))


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
