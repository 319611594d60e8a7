"""Assignment of users to the arms of experiments by salted hashes: nothing is stored or looked up.

    user ─▶ holdout? ─ held ─▶ in no experiment
               ╰─ rest ─▶ layer "ranking":  bucket   0–499 ─▶ experiment `weight`   ─▶ arm control or half
                          │                 bucket 500–999 ─▶ experiment `variety`: nobody is in both
                          ╰▶ layer "explore": a hash of its own, so its arms are independent of `ranking`

The file of experiments (TOML):

    salt = "shop-2026"                  # another salt assigns all users anew

    [holdout]                           # optional
    share = 0.02                        # of all users
    users = 100_000                     # planned; `python -m experimentation plan` prints the number

    [experiments.weight]
    layer = "ranking"
    buckets = [0, 500]                  # of 1,000, the end excluded: half of the users
    users = 40_000
    arms.control = {}                   # the first arm is the baseline of the others
    arms.half = { share = 1, revenue_weight = 0.5 }
    arms.next = { version = "20261124T020000Z-1f0c7a9e" }    # answered by this version of the bundle

`share` of an arm is relative to the others'. `revenue_weight` and `explore` replace the service's own, and
`version` replaces the one that `current` names; "current" stands for that one.

To widen an experiment, add buckets: nobody in it moves. A changed share moves users only into the arm that
grows, or out of the one that shrinks, never between other arms: each arm draws an exponential time by user,
and the least time wins. Arm i wins with probability share_i / Σ share (Schindelhauer and Schomaker 2005,
Weighted distributed hash tables, the logarithmic method).
"""

import difflib
import hashlib
import math
import re
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from ..storage.paths import CURRENT

N_BUCKETS = 1000  # of a layer
HOLDOUT, HOLDOUT_ARM, EXPOSED_ARM = "holdout", "held", "rest"  # as logs have them
ARM_OPTIONS = ("revenue_weight", "explore", "version")
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]+")
VERSION_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class Arm(NamedTuple):
    """A variant of the service. An option that is None is the service's own."""

    name: str
    share: float = 1.0
    revenue_weight: float | None = None
    explore: float | None = None
    version: str | None = None  # of the bundle


class Experiment(NamedTuple):
    """Arms over the users of some buckets of a layer."""

    name: str
    layer: str
    buckets: tuple[int, int]  # [first, end)
    users: int  # planned
    arms: tuple[Arm, ...]  # the control first


class Experiments(NamedTuple):
    """The experiments that run at the same time."""

    salt: str
    holdout: Experiment | None  # arms HOLDOUT_ARM and EXPOSED_ARM
    active: tuple[Experiment, ...]

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
            raise ValueError(f"there is no experiment '{name}'; there are {', '.join(by_name) or 'none'}")
        return by_name[name]


class Assignment(NamedTuple):
    """A user's arms and options; the impression log keeps `arms`, such as "holdout:rest,weight:half"."""

    arms: str = ""
    revenue_weight: float | None = None
    explore: float | None = None
    version: str | None = None


def assign_user(experiments: Experiments, user_id: str | None) -> Assignment:
    """The user's arms and options. A guest has none, because the next visit would have others."""
    if user_id is None:
        return Assignment()
    holdout = [] if experiments.holdout is None else [experiments.holdout]
    arms = {
        experiment.name: arm
        for experiment in (*holdout, *experiments.active)
        if (arm := assign_arm(experiments, user_id, experiment)) is not None
    }
    options = {
        option: value
        for arm in arms.values()
        for option in ARM_OPTIONS
        if (value := getattr(arm, option)) is not None
    }
    return Assignment(",".join(f"{name}:{arm.name}" for name, arm in arms.items()), **options)


def assign_arm(experiments: Experiments, user_id: str, experiment: Experiment) -> Arm | None:
    """The user's arm, always the same; None for a user outside the buckets or in the holdout."""
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


def read_experiments(path: Path) -> Experiments:
    """The experiments of a TOML file. Raises OSError, or ValueError that names the place and the fault."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    try:
        _check_keys(content, ("salt", "holdout", "experiments"), "the file")
        salt = content.get("salt")
        if not isinstance(salt, str) or not salt:
            raise ValueError(f"salt is {salt!r}: expected a text that is not empty")
        experiments = tuple(
            _parse_experiment(name, table)
            for name, table in _table(content, "experiments", "the file").items()
        )
        holdout = _parse_holdout(_table(content, HOLDOUT, "the file")) if HOLDOUT in content else None
        for pair in combinations(experiments, 2):
            _check_no_conflict(*pair)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Experiments(salt, holdout, experiments)


def _parse_experiment(name: str, table: Any) -> Experiment:
    where = f"experiment '{_check_name(name, 'an experiment')}'"
    if name == HOLDOUT:
        raise ValueError("an experiment may not be named 'holdout': that is the table [holdout]")
    if not isinstance(table, dict):
        raise ValueError(f"{where} is {table!r}: expected a table [experiments.{name}]")
    _check_keys(table, ("layer", "buckets", "users", "arms"), where)
    buckets = table.get("buckets")
    if not (
        isinstance(buckets, list)
        and [type(bucket) for bucket in buckets] == [int, int]
        and 0 <= buckets[0] < buckets[1] <= N_BUCKETS
    ):
        raise ValueError(
            f"{where}: buckets are {buckets!r}: expected [first, end] with 0 ≤ first < end ≤ {N_BUCKETS}"
        )
    arms = tuple(
        _parse_arm(arm_name, arm_table, where) for arm_name, arm_table in _table(table, "arms", where).items()
    )
    if len(arms) < 2:
        raise ValueError(f"{where} has {len(arms)} arms: expected two or more, the control first")
    layer = _check_name(table.get("layer"), f"the layer of {where}")
    return Experiment(name, layer, (buckets[0], buckets[1]), _parse_users(table, where), arms)


def _parse_holdout(table: dict[str, Any]) -> Experiment:
    _check_keys(table, ("share", "users", *ARM_OPTIONS), "holdout")
    options = {key: value for key, value in table.items() if key != "users"}
    holdout_arm = _parse_arm(HOLDOUT_ARM, options, "holdout")
    if not holdout_arm.share < 1:
        raise ValueError(f"holdout: share is {holdout_arm.share:g}: expected a share of all users, below 1")
    arms = holdout_arm, Arm(EXPOSED_ARM, 1 - holdout_arm.share)
    return Experiment(HOLDOUT, HOLDOUT, (0, N_BUCKETS), _parse_users(table, HOLDOUT), arms)


def _parse_arm(name: str, table: Any, where: str) -> Arm:
    where = f"{where}, arm '{_check_name(name, f'an arm of {where}')}'"
    if not isinstance(table, dict):
        raise ValueError(f"{where} is {table!r}: expected a table, {{}} for one without options")
    _check_keys(table, ("share", *ARM_OPTIONS), where)
    options = dict(table)
    version = options.pop("version", CURRENT)
    if not isinstance(version, str) or not VERSION_PATTERN.fullmatch(version):
        raise ValueError(
            f"{where}: version is {version!r}: expected the name of a version's folder in the bundle root, "
            f'or "{CURRENT}"'
        )
    for key, value in options.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_valid = is_number and 0 <= value < math.inf
        if not is_valid or (key in ARM_OPTIONS and value > 1) or (key == "share" and value == 0):
            expected = "0 to 1" if key in ARM_OPTIONS else "more than 0"
            raise ValueError(f"{where}: {key} is {value!r}: expected a number, {expected}")
    return Arm(name, **options, version=None if version == CURRENT else version)


def _check_no_conflict(a: Experiment, b: Experiment) -> None:
    """Raises ValueError for experiments that share users in one layer, or set the same option in two."""
    if a.layer == b.layer:
        if max(a.buckets[0], b.buckets[0]) < min(a.buckets[1], b.buckets[1]):
            raise ValueError(
                f"experiments '{a.name}' and '{b.name}' overlap in layer '{a.layer}': buckets "
                f"{list(a.buckets)} and {list(b.buckets)}. Give them buckets of their own, or another layer"
            )
        return
    for option in ARM_OPTIONS:
        if all(any(getattr(arm, option) is not None for arm in experiment.arms) for experiment in (a, b)):
            raise ValueError(
                f"experiments '{a.name}' and '{b.name}' both set {option}, in two layers: a user may be in "
                "both. Put them into one layer"
            )


def _parse_users(table: dict[str, Any], where: str) -> int:
    users = table.get("users")
    if type(users) is not int or users < 1:
        raise ValueError(
            f"{where}: users is {users!r}: expected the planned number of users in all arms together, which "
            "`python -m experimentation plan` prints"
        )
    return users


def _table(table: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    if not isinstance(table.get(key), dict):
        raise ValueError(f"{where}: {key} is {table.get(key)!r}: expected a table")
    value: dict[str, Any] = table[key]
    return value


def _check_keys(table: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            close_matches = difflib.get_close_matches(key, keys, n=1)
            hint = f"; do you mean '{close_matches[0]}'?" if close_matches else ""
            raise ValueError(f"{where} has no '{key}', only {', '.join(keys)}{hint}")


def _check_name(name: Any, owner: str) -> str:
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise ValueError(f"the name of {owner} is {name!r}: expected letters, digits, - and _")
    return name
