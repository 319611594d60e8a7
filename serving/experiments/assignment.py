"""Which arm of which experiments a user is in: salted hashes decide, so nothing is stored or looked up.

    user ─▶ holdout? ─ held ─▶ in no experiment
               ╰─ rest ─▶ layer "ranking":  bucket   0–499 ─▶ experiment `weight`   ─▶ arm control or half
                          │                 bucket 500–999 ─▶ experiment `variety`: nobody is in both
                          ╰▶ layer "explore": hashed anew, so its arms meet those of `ranking` evenly

The file of experiments (TOML):

    salt = "shop-2026"                  # another one deals all users anew

    [holdout]                           # may be left out
    share = 0.02                        # of all users
    users = 100_000                     # planned, as `python -m experimentation plan` prints them

    [experiments.weight]
    layer = "ranking"
    buckets = [0, 500]                  # of 1,000: half of the users; the end is not in it
    users = 40_000
    arms.control = {}                   # the first is what the others are held against
    arms.half = { share = 1, revenue_weight = 0.5 }
    arms.next = { version = "20261124T020000Z-1f0c7a9e" }    # answered by this version of the bundle

`share` of an arm is relative to the others'. `revenue_weight` and `explore` go before the service's own, and
`version` before the one that `current` names, which is what "current" means.

To widen an experiment, add buckets: nobody who is in it moves. Another share moves users only into the arm
that grows, or out of the one that shrinks, never between the others: each arm has a clock of its own by user,
and the first to ring wins, which arm i does with chance share_i / Σ share (Schindelhauer and Schomaker 2005,
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

N_BUCKETS = 1000  # of a layer
HOLDOUT, HOLDOUT_ARM, EXPOSED_ARM = "holdout", "held", "rest"
ARM_OPTIONS = ("revenue_weight", "explore", "version")
CURRENT = "current"  # the version of an arm that names none
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]+")
VERSION_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a version


class Arm(NamedTuple):
    """A way to answer. An option that is None is the service's own."""

    name: str
    share: float = 1.0
    revenue_weight: float | None = None
    explore: float | None = None
    version: str | None = None  # of the bundle


class Experiment(NamedTuple):
    """Arms over the users of some buckets of a layer."""

    name: str
    layer: str
    buckets: tuple[int, int]  # first, and behind the last
    users: int  # planned
    arms: tuple[Arm, ...]  # the control first


class Experiments(NamedTuple):
    """What runs at the same time."""

    salt: str
    holdout: Experiment | None  # arms `held` and `rest`
    active: tuple[Experiment, ...]

    @property
    def versions(self) -> tuple[str, ...]:
        """The bundle versions that arms name."""
        every = (*self.active, *([self.holdout] if self.holdout else []))
        named = dict.fromkeys(arm.version for one in every for arm in one.arms)
        return tuple(version for version in named if version is not None)

    def get_experiment(self, name: str) -> Experiment:
        """The experiment, or the holdout under its name. Raises ValueError if there is none."""
        known = {one.name: one for one in (*self.active, *([self.holdout] if self.holdout else []))}
        if name not in known:
            raise ValueError(f"there is no experiment '{name}'; there are {', '.join(known) or 'none'}")
        return known[name]


class Assignment(NamedTuple):
    """What holds for a user; `arms` is what the impression log keeps, such as "holdout:rest,weight:half"."""

    arms: str = ""
    revenue_weight: float | None = None
    explore: float | None = None
    version: str | None = None


def assign_user(experiments: Experiments, user_id: str | None) -> Assignment:
    """The user's arms and options. A guest has none: nothing would make the next visit the same."""
    if user_id is None:
        return Assignment()
    found = [(one, assign_arm(experiments, user_id, one)) for one in experiments.active]
    if experiments.holdout is not None:
        found.insert(0, (experiments.holdout, assign_arm(experiments, user_id, experiments.holdout)))
    arms = [(one.name, arm) for one, arm in found if arm is not None]
    options = {
        option: value
        for _, arm in arms
        for option in ARM_OPTIONS
        if (value := getattr(arm, option)) is not None
    }
    return Assignment(",".join(f"{name}:{arm.name}" for name, arm in arms), **options)


def assign_arm(experiments: Experiments, user_id: str, experiment: Experiment) -> Arm | None:
    """The user's arm; None for whom the holdout or the buckets leave out. The same whenever it is asked."""
    salt, holdout = experiments.salt, experiments.holdout
    if holdout is not None and experiment is not holdout:
        held = assign_arm(experiments, user_id, holdout)
        if held is not None and held.name == HOLDOUT_ARM:
            return None
    first, end = experiment.buckets
    if not first <= int(N_BUCKETS * _uniform(salt, "layer", experiment.layer, user_id)) < end:
        return None

    def rings(arm: Arm) -> float:
        return -math.log(_uniform(salt, "arm", experiment.name, arm.name, user_id)) / arm.share

    return min(experiment.arms, key=rings)


def _uniform(*parts: str) -> float:
    """A number between 0 and 1, both excluded, by hash of the parts."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    return ((number >> 12) + 0.5) / 2**52


def read_experiments(path: Path) -> Experiments:
    """The experiments of a TOML file. Raises OSError, or ValueError that says what is wrong and where."""
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
    arms = tuple(_parse_arm(one, table, where) for one, table in _table(table, "arms", where).items())
    if len(arms) < 2:
        raise ValueError(f"{where} has {len(arms)} arms: expected two or more, the control first")
    layer = _check_name(table.get("layer"), f"the layer of {where}")
    return Experiment(name, layer, (buckets[0], buckets[1]), _parse_users(table, where), arms)


def _parse_holdout(table: dict[str, Any]) -> Experiment:
    _check_keys(table, ("share", "users", *ARM_OPTIONS), "holdout")
    options = {key: value for key, value in table.items() if key != "users"}
    held = _parse_arm(HOLDOUT_ARM, options, "holdout")
    if not held.share < 1:
        raise ValueError(f"holdout: share is {held.share:g}: expected a share of all users, below 1")
    arms = held, Arm(EXPOSED_ARM, 1 - held.share)
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
        wrong = isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf
        if wrong or (key in ARM_OPTIONS and value > 1) or (key == "share" and value == 0):
            expected = "0 to 1" if key in ARM_OPTIONS else "more than 0"
            raise ValueError(f"{where}: {key} is {value!r}: expected a number, {expected}")
    return Arm(name, **options, version=None if version == CURRENT else version)


def _check_no_conflict(a: Experiment, b: Experiment) -> None:
    """Raises ValueError for experiments of one layer that share users, or of two that set the same option."""
    if a.layer == b.layer:
        if max(a.buckets[0], b.buckets[0]) < min(a.buckets[1], b.buckets[1]):
            raise ValueError(
                f"experiments '{a.name}' and '{b.name}' overlap in layer '{a.layer}': buckets "
                f"{list(a.buckets)} and {list(b.buckets)}. Give them buckets of their own, or another layer"
            )
        return
    for option in ARM_OPTIONS:
        if all(any(getattr(arm, option) is not None for arm in one.arms) for one in (a, b)):
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
    found: dict[str, Any] = table[key]
    return found


def _check_keys(table: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"; do you mean '{near[0]}'?" if near else ""
            raise ValueError(f"{where} has no '{key}', only {', '.join(keys)}{hint}")


def _check_name(name: Any, what: str) -> str:
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise ValueError(f"the name of {what} is {name!r}: expected letters, digits, - and _")
    return name
