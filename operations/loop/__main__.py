"""`python -m operations.loop`, or `make loop`: the daily loop on the simulated market.

See docs/how_to/daily_loop.md.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir

from operations.loop.page import page
from operations.loop.simulate import ROOT, SimulationPlan, run_simulation, summary
from serving.command_line import argument, option, run
from serving.files import write_json, write_text

MIN_USERS = 100  # enough users that some order every day
MIN_RULE_DAYS = 30
DEFAULT_PLAN = SimulationPlan()


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """The daily loop on the simulated market: serve, log, retrain, gate, publish."""

    days: int = option(DEFAULT_PLAN.days, "days of the loop")
    rule_days: int = option(DEFAULT_PLAN.rule_days, "days of the rule policy before the loop")
    poisoned_day: int = option(DEFAULT_PLAN.poisoned_day, "day with shuffled labels, 0 for none")
    users: int = option(1000, "users of the market")
    items: int = option(400, "items of the market")
    seed: int = option(0, "seed of the market")
    folder: Path = option(Path("artifacts/loop"), "working folder; it is emptied")
    out: Path = option(Path("reports"), "folder of loop.json and loop.html")
    overrides: tuple[str, ...] = argument("for retrain.py, such as retrain.full_every=14", default=())

    def __post_init__(self) -> None:
        if self.users < MIN_USERS or self.days < 1 or self.rule_days < MIN_RULE_DAYS:
            raise ValueError(
                f"--users must be {MIN_USERS} or more, so that some order every day, --days 1 or more, and "
                f"--rule-days {MIN_RULE_DAYS} or more"
            )


def simulate(options: LoopOptions) -> int:
    """Run the loop; write loop.json and loop.html."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = dict(compose("train", overrides=["data=simulated"]).data)
    cfg |= {"users": options.users, "items": options.items, "seed": options.seed}
    plan = SimulationPlan(options.rule_days, options.days, options.poisoned_day)
    rows = run_simulation(cfg, plan, options.folder.resolve(), options.overrides)
    totals = summary(rows)
    write_json(options.out / "loop.json", {"summary": totals, "days": rows})
    write_text(options.out / "loop.html", page(rows, totals, plan))
    print(
        f"revenue per session {totals['revenue']:.2f}: {totals['ratio_to_popularity']:.2f} times popularity, "
        f"{totals['ratio_to_oracle']:.2f} of the oracle; written: {options.out}/loop.html, loop.json"
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the loop with the command line's arguments; return the exit code."""
    return run("python -m operations.loop", simulate, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
