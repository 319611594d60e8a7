"""The loop in simulation: `make loop`, or `python -m operations.loop`. docs/loop.md."""

import argparse
from pathlib import Path

from hydra import compose, initialize_config_dir

from operations.loop.page import page
from operations.loop.simulate import ROOT, SimulationPlan, run_simulation, summary
from serving.files import write_json

OUT = Path("reports")
MIN_USERS = 100  # users


def main() -> None:
    usual = SimulationPlan()
    parser = argparse.ArgumentParser(prog="python -m operations.loop", description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=usual.days, help="of the loop (%(default)s)")
    parser.add_argument("--before", type=int, default=usual.rule_days, help="days by old rules (%(default)s)")
    parser.add_argument(
        "--poison",
        type=int,
        default=usual.poisoned_day,
        help="day of shuffled labels, 0 for none (%(default)s)",
    )
    parser.add_argument("--users", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--items", type=int, default=400, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the marketplace (%(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / "artifacts" / "loop", help="made anew")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of loop.json and loop.html")
    parser.add_argument("settings", nargs="*", help="for retrain.py, such as retrain.full_every=14")
    args = parser.parse_args()
    if args.users < MIN_USERS or args.days < 1 or args.before < 30:
        parser.error(
            f"give {MIN_USERS} users or more, of whom some order every day, and 30 days before the first"
        )
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = dict(compose("train", overrides=["data=simulated"]).data)
    cfg |= {"users": args.users, "items": args.items, "seed": args.seed}
    plan = SimulationPlan(args.before, args.days, args.poison)
    rows = run_simulation(cfg, plan, args.folder.resolve(), args.settings)
    found = summary(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "loop.json", {"summary": found, "days": rows})
    (args.out / "loop.html").write_text(page(rows, found, plan))
    print(
        f"revenue per session {found['revenue']:.2f}: {found['of_popularity']:.2f} times popularity, "
        f"{found['of_oracle']:.2f} of the oracle; written: {args.out}/loop.html, loop.json"
    )


if __name__ == "__main__":
    main()
