"""Assigns users to the arms of experiments, and chooses the checkouts whose slate is withheld.

Both use salted hashes.

    user ─▶ holdout? ─ held ─▶ in no experiment
               ╰─ rest ─▶ layer "ranking":  bucket   0–499 ─▶ experiment `weight`   ─▶ arm control or half
                          │                 bucket 500–999 ─▶ experiment `variety`: nobody is in both
                          ╰▶ layer "explore": a separate hash, so its arms are independent of `ranking`

Nothing is stored or looked up. serving/experiments/declaration.py reads the file of experiments.

To widen an experiment, add buckets: no user in it changes arms. A changed share moves users only into the
growing arm, or out of the shrinking arm, never between other arms. The method is this: each arm draws an
exponential time per user, and the smallest time wins. Arm i wins with probability share_i / Σ share
(Schindelhauer and Schomaker 2005, Weighted distributed hash tables, the logarithmic method).

Withholding is drawn by checkout, not by user: some slates of a user are shown and others are withheld. The
hash is of the order, so a repeated request for the same order gets the same answer. A larger share withholds
all checkouts of a smaller share, and more.
"""

import hashlib
import math
from typing import NamedTuple

N_BUCKETS = 1000  # of a layer
HOLDOUT, HOLDOUT_ARM, EXPOSED_ARM = "holdout", "held", "rest"  # as logs have them
ARM_OPTIONS = ("revenue_weight", "explore", "version", "withhold")


class Arm(NamedTuple):
    """A variant of the service. An option that is None uses the service's value."""

    name: str
    share: float = 1.0
    revenue_weight: float | None = None
    explore: float | None = None
    version: str | None = None  # of the bundle
    withhold: float | None = None  # share of its checkouts whose slate is held back


class Experiment(NamedTuple):
    """Arms over the users of some buckets of a layer."""

    name: str
    layer: str
    buckets: tuple[int, int]  # [first, end)
    users: int  # planned
    arms: tuple[Arm, ...]  # the control first
    metric: str | None = None  # that decides; None where the file names none


class Experiments(NamedTuple):
    """The experiments that run at the same time."""

    salt: str
    holdout: Experiment | None  # arms HOLDOUT_ARM and EXPOSED_ARM
    active: tuple[Experiment, ...]
    withhold: float = 0.0  # share of the checkouts whose slate is held back where no arm sets one

    @property
    def with_holdout(self) -> tuple[Experiment, ...]:
        """The active experiments, and the holdout if there is one."""
        return self.active if self.holdout is None else (*self.active, self.holdout)

    @property
    def versions(self) -> tuple[str, ...]:
        """The bundle versions that arms name."""
        arms = (arm for experiment in self.with_holdout for arm in experiment.arms)
        return tuple(dict.fromkeys(arm.version for arm in arms if arm.version is not None))

    def get_experiment(self, name: str) -> Experiment:
        """The experiment, or the holdout under its name. Raises ValueError if there is none."""
        by_name = {experiment.name: experiment for experiment in self.with_holdout}
        if name not in by_name:
            raise ValueError(f"unknown experiment '{name}'; expected {', '.join(by_name) or 'none'}")
        return by_name[name]


class Assignment(NamedTuple):
    """A user's arms and options. The impression log records `arms`, such as "holdout:rest,weight:half".

    `withhold` is the share of checkouts whose slate is withheld. `withhold_source` is the experiment that
    sets this share; "" if the file sets it for all checkouts.
    """

    arms: str = ""
    revenue_weight: float | None = None
    explore: float | None = None
    version: str | None = None
    withhold: float = 0.0
    withhold_source: str = ""


def assign_user(experiments: Experiments, user_id: str | None) -> Assignment:
    """The user's arms and options. A guest has no arm, because the arm could change with the next visit."""
    if user_id is None:
        return Assignment(withhold=experiments.withhold)
    holdout = [] if experiments.holdout is None else [experiments.holdout]
    arms = {
        experiment.name: arm
        for experiment in (*holdout, *experiments.active)
        if (arm := assign_arm(experiments, user_id, experiment)) is not None
    }
    options = {"withhold": experiments.withhold} | {
        option: value
        for arm in arms.values()
        for option in ARM_OPTIONS
        if (value := getattr(arm, option)) is not None
    }
    sources = [name for name, arm in arms.items() if arm.withhold is not None]
    return Assignment(
        ",".join(f"{name}:{arm.name}" for name, arm in arms.items()),
        **options,
        withhold_source=sources[-1] if sources else "",
    )


def is_withheld(experiments: Experiments, assignment: Assignment, checkout_id: str) -> bool:
    """Whether the slate of a checkout is withheld; always the same for the same checkout.

    Args:
        checkout_id: the checkout's order_id, else the request_id of the slate.
    """
    number = _uniform(experiments.salt, "withhold", assignment.withhold_source, checkout_id)
    return number < assignment.withhold


def assign_arm(experiments: Experiments, user_id: str, experiment: Experiment) -> Arm | None:
    """The user's arm, the same at every call; None for a user outside the buckets or in the holdout."""
    salt, holdout = experiments.salt, experiments.holdout
    if holdout is not None and experiment is not holdout:
        holdout_arm = assign_arm(experiments, user_id, holdout)
        if holdout_arm is not None and holdout_arm.name == HOLDOUT_ARM:
            return None
    first, end = experiment.buckets
    if not first <= int(N_BUCKETS * _uniform(salt, "layer", experiment.layer, user_id)) < end:
        return None

    def exponential_time(arm: Arm) -> float:
        return -math.log(_uniform(salt, "arm", experiment.name, arm.name, user_id)) / arm.share

    return min(experiment.arms, key=exponential_time)


def _uniform(*parts: str) -> float:
    """A number between 0 and 1, both excluded, from a hash of the parts."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    return ((number >> 12) + 0.5) / 2**52
