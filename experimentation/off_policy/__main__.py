"""`python -m experimentation.off_policy`: evaluate a bundle on a log, and check the estimators themselves."""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.feature_schema import FeatureSchema
from experimentation.off_policy.coverage import measure_coverage
from experimentation.off_policy.evaluate import (
    PolicyEvaluation,
    estimate_examination_probability,
    evaluate_policy,
    verdict_lines,
)
from experimentation.off_policy.incremental import withholding_line
from experimentation.off_policy.logged_checkouts import LoggedCheckouts, read_logged_checkouts
from experimentation.off_policy.open_bandit import compare_policies
from experimentation.off_policy.page import page
from experimentation.off_policy.rehearsal import rehearse
from experimentation.off_policy.replay import ReplayedSlates, replay
from reporting.tables import Row, text_table
from serving import BundleError, Recommender, open_store
from serving.command_line import option, run
from serving.files import write_json, write_text
from serving.remote_copies import input_option
from serving.storage.bundle_mirror import bundle_path

OUT = Path("reports")


def _parse_positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return value


def _parse_share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 0.9:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 0.9")
    return value


def _parse_probabilities(text: str) -> list[float]:
    return [_parse_positive(part) for part in text.split(",")]


@dataclass(frozen=True, kw_only=True)
class EstimateOptions:
    """Estimate the value of a bundle from the impression log of another bundle.

    example: python -m experimentation.off_policy estimate --shop shop --bundle bundle/20260101T000000Z-ab
    `shop` holds orders, items and users as data=tables reads them, and the impression log as events/.
    exit codes: 0 estimated, 1 the bundle or the tables cannot be used, 2 wrong arguments
    """

    shop: Path = input_option(..., "folder of the shop's tables")
    bundle: Path = option(..., "bundle root or version folder to evaluate", parse=bundle_path)
    store: str | None = option(None, "event store of the service, if its histories differ from the tables")
    logged_version: str | None = option(
        None, "use only slates that this bundle version answered", metavar="VERSION"
    )
    examination_probabilities: Sequence[float] | None = option(
        None, "p(examined | slot) by slot: 1,0.6,… (without it estimated from the log)",
        parse=_parse_probabilities, metavar="P,P,…",
    )  # fmt: skip
    max_weight: float | None = option(None, "clip the weights at this value", parse=_parse_positive)
    out: Path = option(OUT, "folder of the report")


def estimate(options: EstimateOptions) -> int:
    """Estimate the value of a bundle; print and write the report."""
    served_store = open_store(options.store, create=False) if options.store else None
    recommender = Recommender.load(options.bundle, served_store)
    bundle = recommender.bundle
    logged = read_logged_checkouts(
        options.shop, bundle.manifest, FeatureSchema.load(bundle.folder), options.logged_version
    )
    if options.examination_probabilities is None:
        probabilities = estimate_examination_probability(logged)
    else:
        probabilities = np.array(options.examination_probabilities)
    if len(probabilities) != (slots := logged.item.shape[1]):
        raise ValueError(
            f"--examination-probabilities has {len(probabilities)} numbers, a slate has {slots} slots"
        )
    recommender.store = served_store or logged.store
    replayed = replay(recommender, logged.checkouts)
    evaluation = evaluate_policy(logged, replayed, probabilities, options.max_weight)
    about, verdicts = _about(logged, replayed, evaluation, bundle.version), verdict_lines(evaluation)
    write_json(
        options.out / "off_policy.json", _report(options, logged, replayed, evaluation, bundle.version)
    )
    title = f"Off-policy evaluation of bundle {bundle.version}"
    write_text(options.out / "off_policy.html", page(evaluation, title, about))
    print("\n".join(about), "", text_table(evaluation.estimates), "", sep="\n")
    for line in _diagnostics_lines(evaluation):
        print(line)
    print("", *verdicts, f"\nwritten: {options.out / 'off_policy.html'}, off_policy.json", sep="\n")
    return 0


def _about(
    logged: LoggedCheckouts, replayed: ReplayedSlates, evaluation: PolicyEvaluation, version: str
) -> list[str]:
    tiers = ", ".join(f"{count:,} {tier}" for tier, count in replayed.tier_counts.most_common())
    excluded = "; ".join(f"{count:,} {reason}" for reason, count in logged.excluded.items())
    probabilities = ", ".join(f"{value:.3f}" for value in evaluation.examination_probability)
    rewards = dict.fromkeys(row["reward"] for row in evaluation.estimates)
    unpredicted = [name for name in rewards if np.isnan(replayed.predictions[name]).all()]
    return [
        f"{len(logged.checkouts):,} logged checkouts of {len(np.unique(logged.user)):,} users; bundle "
        f"{version} answered {tiers}.",
        f"Excluded: {excluded}.",
        f"p(examined | slot): {probabilities}.",
        withholding_line(logged),
        *(
            f"The bundle does not predict {name}: its direct and doubly robust estimates use the log's mean."
            for name in unpredicted
        ),
    ]


def _report(
    options: EstimateOptions,
    logged: LoggedCheckouts,
    replayed: ReplayedSlates,
    evaluation: PolicyEvaluation,
    version: str,
) -> Row:
    return {
        "bundle": version,
        "logged_version": options.logged_version,
        "checkouts": len(logged.checkouts),
        "excluded": logged.excluded,
        "tiers": dict(replayed.tier_counts),
        "withheld": int(logged.is_withheld.sum()),
        "examination_probability": evaluation.examination_probability.tolist(),
        "max_weight": options.max_weight,
        "weight_diagnostics": {
            model: {**diagnostics._asdict(), "support": diagnostics.support._asdict()}
            for model, diagnostics in evaluation.weight_diagnostics.items()
        },
        "warnings": evaluation.warnings,
        "rows": evaluation.estimates,
    }


def _diagnostics_lines(evaluation: PolicyEvaluation) -> list[str]:
    lines = []
    for model, diagnostics in evaluation.weight_diagnostics.items():
        support = diagnostics.support
        lines.append(
            f"{model} weights: {diagnostics.effective_sample_size:,.0f} effective of "
            f"{diagnostics.sessions:,}, largest {diagnostics.max_weight:,.1f}, support {support.value:.1%} "
            f"({support.low:.1%} to {support.high:.1%})"
        )
    for model, warnings in evaluation.warnings.items():
        lines += [f"warning: {model} weights: {warning}" for warning in warnings]
    return lines


@dataclass(frozen=True, kw_only=True)
class CoverageOptions:
    """Measure the coverage of the intervals on simulated logs."""

    logs: int = option(300, "simulated logs")
    out: Path = option(OUT, "folder of the report")


def coverage(options: CoverageOptions) -> int:
    """Measure the coverage of the intervals; print and write the rows."""
    rows = measure_coverage(options.logs)
    write_json(options.out / "bench_off_policy.json", {"logs": options.logs, "rows": rows})
    print(text_table(rows), f"\nwritten: {options.out / 'bench_off_policy.json'}", sep="\n")
    return 0


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """Run the whole evaluation on the simulated market and compare it with the truth."""

    organic_share: float | None = option(
        None, "share of purchases that would happen without the slot; also estimate incremental revenue",
        parse=_parse_share, metavar="SHARE",
    )  # fmt: skip
    out: Path = option(OUT, "folder of the report")


def simulate(options: SimulateOptions) -> int:
    """Train, log, estimate and compare with the truth."""
    rehearse(options.out, options.organic_share)
    return 0


@dataclass(frozen=True, kw_only=True)
class OpenBanditOptions:
    """Compare the random policy and Bernoulli Thompson sampling (BTS) on the Open Bandit sample."""

    out: Path = option(OUT, "folder of the report")


def open_bandit(options: OpenBanditOptions) -> int:
    """Compare the policies of the Open Bandit sample; print and write the rows."""
    rows = compare_policies()
    write_json(options.out / "open_bandit.json", rows)
    print(text_table(rows), f"\nwritten: {options.out / 'open_bandit.json'}", sep="\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name. Returns the exit code."""
    return run(
        "python -m experimentation.off_policy",
        estimate,
        coverage,
        simulate,
        open_bandit,
        description="The value of a policy, from the log of another.",
        arguments=arguments,
        errors=(BundleError, DataError, OSError, ValueError, ImportError),
    )


if __name__ == "__main__":
    sys.exit(main())
