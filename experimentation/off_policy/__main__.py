"""`python -m experimentation.off_policy`: judge a bundle by a log, and check the estimators themselves."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.feature_schema import FeatureSchema
from experimentation.off_policy import coverage, logged_checkouts, open_bandit, rehearsal
from experimentation.off_policy.evaluate import (
    estimate_examination_probability,
    evaluate_policy,
    verdict_lines,
)
from experimentation.off_policy.page import page
from experimentation.off_policy.replay import replay
from reporting.tables import text_table, write_atomically, write_json
from serving import BundleError, Recommender, open_store

EPILOG = """\
example: python -m experimentation.off_policy estimate --shop shop --bundle bundle/20260101T000000Z-ab
`shop` holds orders, items and users as data=tables reads them, and the impression log as events/.
exit codes: 0 estimated, 1 the bundle or the tables cannot be used, 2 wrong arguments"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, estimate, print and write. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experimentation.off_policy",
        description="What a policy would have earned, from the log of another one.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "estimate", help="a bundle from an impression log", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument("--shop", type=Path, required=True, help="folder of the shop's tables")
    command.add_argument("--bundle", type=Path, required=True, help="bundle root or version folder to judge")
    command.add_argument(
        "--store", help="event store that served, if its histories are others (default: what the tables say)"
    )
    command.add_argument("--champion", metavar="VERSION", help="judge by what it answered (default: by all)")
    command.add_argument(
        "--seen", type=_parse_probabilities, help="p(seen | slot) by slot: 1,0.6,… (default: from the log)"
    )
    command.add_argument("--clip", type=_positive_float, help="largest weight (default: as they are)")
    command = commands.add_parser("check", help="coverage of the intervals on simulated logs")
    command.add_argument("--logs", type=int, default=300, help="default: 300")
    commands.add_parser("rehearse", help="the whole way on the simulated marketplace, beside the truth")
    commands.add_parser("open-bandit", help="random policy against BTS on the Open Bandit sample")
    for command in commands.choices.values():
        command.add_argument("--out", type=Path, default=Path("reports"), help="default: reports")
    options = parser.parse_args(arguments)
    run = {"estimate": _estimate, "check": _check, "rehearse": _rehearse, "open-bandit": _open_bandit}
    return run[options.command](options)


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < np.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return value


def _parse_probabilities(text: str) -> np.ndarray:
    return np.array([_positive_float(part) for part in text.split(",")])


def _estimate(options: argparse.Namespace) -> int:
    try:
        served = open_store(options.store, create=False) if options.store else None
        recommender = Recommender.load(options.bundle, served)
        bundle = recommender.bundle
        logged = logged_checkouts.read_logged_checkouts(
            options.shop, bundle.manifest, FeatureSchema.load(bundle.folder), options.champion
        )
        seen = estimate_examination_probability(logged) if options.seen is None else options.seen
        if len(seen) != logged.item.shape[1]:
            raise ValueError(f"--seen has {len(seen)} numbers, a slate has {logged.item.shape[1]} slots")
    except (BundleError, DataError, OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    recommender.store = served or logged.store
    new = replay(recommender, logged.checkouts)
    judged = evaluate_policy(logged, new, seen, options.clip)
    tiers = ", ".join(f"{count:,} {tier}" for tier, count in new.tier_counts.most_common())
    about = [
        f"{len(logged.checkouts):,} logged checkouts of {len(np.unique(logged.user)):,} users; bundle "
        f"{bundle.version} answered {tiers}.",
        "Left out: " + "; ".join(f"{count:,} {why}" for why, count in logged.excluded.items()) + ".",
        "p(seen | slot): " + ", ".join(f"{chance:.3f}" for chance in seen) + ".",
    ]
    said = verdict_lines(judged)
    report = {
        "bundle": bundle.version,
        "champion": options.champion,
        "checkouts": len(logged.checkouts),
        "left_out": logged.excluded,
        "tiers": dict(new.tier_counts),
        "seen": seen.tolist(),
        "clip": options.clip,
        "health": {
            name: {**state._asdict(), "support": state.support._asdict()}
            for name, state in judged.health.items()
        },
        "warnings": judged.warnings,
        "rows": judged.estimates,
    }
    write_json(report, options.out / "off_policy.json")
    title = f"Bundle {bundle.version}, before any shopper sees it"
    write_atomically(options.out / "off_policy.html", page(judged, title, about, said))
    print("\n".join(about), "", text_table(judged.estimates), "", sep="\n")
    for name, state in judged.health.items():
        part = state.support
        print(
            f"{name} weights: {state.effective_sample_size:,.0f} effective of {state.sessions:,}, largest "
            f"{state.max_weight:,.1f}, support {part.value:.1%} ({part.low:.1%} to {part.high:.1%})"
        )
    for name, lines in judged.warnings.items():
        for line in lines:
            print(f"warning: {name} weights: {line}")
    print("", *said, f"\nwritten: {options.out / 'off_policy.html'}, off_policy.json", sep="\n")
    return 0


def _check(options: argparse.Namespace) -> int:
    rows = coverage.measure_coverage(options.logs)
    write_json({"logs": options.logs, "rows": rows}, options.out / "bench_off_policy.json")
    print(text_table(rows), f"\nwritten: {options.out / 'bench_off_policy.json'}", sep="\n")
    return 0


def _rehearse(options: argparse.Namespace) -> int:
    rehearsal.rehearse(options.out)
    return 0


def _open_bandit(options: argparse.Namespace) -> int:
    try:
        rows = open_bandit.compare_policies()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json(rows, options.out / "open_bandit.json")
    print(text_table(rows), f"\nwritten: {options.out / 'open_bandit.json'}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
