"""The file of experiments (TOML), read and checked.

    salt = "shop-2026"                  # another salt assigns all users anew
    withhold = 0.1                      # optional: share of all checkouts without a slot, guests included

    [holdout]                           # optional
    share = 0.02                        # of all users
    users = 100_000                     # planned; `python -m experimentation plan` prints the number

    [experiments.weight]
    layer = "ranking"
    buckets = [0, 500]                  # of 1,000, the end excluded: half of the users
    users = 40_000
    metric = "order_revenue_per_user"   # optional: the metric that decides
    withhold = 0.2                      # optional: for the experiment's users, in place of the file's share
    arms.control = {}                   # the first arm is the baseline of the others
    arms.half = { share = 1, revenue_weight = 0.5 }
    arms.next = { version = "20261124T020000Z-1f0c7a9e" }    # answered by this version of the bundle

The `share` of an arm is relative to the shares of the other arms. `revenue_weight` and `explore` replace the
service's values. `version` names the version that answers; "current" is the version that `current` names.

`withhold` is the share of checkouts whose slate is selected and logged but not shown (ghost ads: Johnson,
Lewis and Nubbemeyer 2017, Ghost Ads, Journal of Marketing Research 54). The innermost value applies: the
arm's, else the experiment's, else the file's. An experiment with a single arm is allowed if that arm
withholds.
"""

import difflib
import math
import re
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any

from ..storage.paths import CURRENT
from .assignment import (
    ARM_OPTIONS,
    EXPOSED_ARM,
    HOLDOUT,
    HOLDOUT_ARM,
    N_BUCKETS,
    Arm,
    Experiment,
    Experiments,
)

METRIC_NAMES = ("order_revenue_per_user", "revenue_per_session", "ctr", "conversion")
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]+")
VERSION_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
EXPECTED_NUMBERS = {"share": "more than 0", "withhold": "0 or more, below 1"}  # others: 0 to 1


def read_experiments(path: Path) -> Experiments:
    """The experiments of a TOML file. Raises OSError, or ValueError that names the place and the fault."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    try:
        _check_keys(content, ("salt", "withhold", "holdout", "experiments"), "the file")
        salt = content.get("salt")
        if not isinstance(salt, str) or not salt:
            raise ValueError(f"salt is {salt!r}: expected a text that is not empty")
        withhold = _parse_number(content, "withhold", "the file")
        holdout = _parse_holdout(_table(content, HOLDOUT, "the file")) if HOLDOUT in content else None
        if withhold or holdout is not None:
            content.setdefault("experiments", {})  # withholding alone needs no experiment
        experiments = tuple(
            _parse_experiment(name, table)
            for name, table in _table(content, "experiments", "the file").items()
        )
        for pair in combinations(experiments, 2):
            _check_no_conflict(*pair)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Experiments(salt, holdout, experiments, withhold or 0.0)


def _parse_experiment(name: str, table: Any) -> Experiment:
    where = f"experiment '{_check_name(name, 'an experiment')}'"
    if name == HOLDOUT:
        raise ValueError("an experiment may not be named 'holdout': that is the table [holdout]")
    if not isinstance(table, dict):
        raise ValueError(f"{where} is {table!r}: expected a table [experiments.{name}]")
    _check_keys(table, ("layer", "buckets", "users", "metric", "withhold", "arms"), where)
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
    withhold = _parse_number(table, "withhold", where)
    arms = tuple(arm if arm.withhold is not None else arm._replace(withhold=withhold) for arm in arms)
    if len(arms) < (1 if any(arm.withhold for arm in arms) else 2):
        raise ValueError(
            f"{where} has {len(arms)} arms: expected two or more, the control first, or one that withholds"
        )
    return Experiment(
        name,
        layer=_check_name(table.get("layer"), f"the layer of {where}"),
        buckets=(buckets[0], buckets[1]),
        users=_parse_users(table, where),
        arms=arms,
        metric=_parse_metric(table, where),
    )


def _parse_holdout(table: dict[str, Any]) -> Experiment:
    _check_keys(table, ("share", "users", "metric", *ARM_OPTIONS), HOLDOUT)
    options = {key: value for key, value in table.items() if key not in ("users", "metric")}
    holdout_arm = _parse_arm(HOLDOUT_ARM, options, "holdout")
    if not holdout_arm.share < 1:
        raise ValueError(f"holdout: share is {holdout_arm.share:g}: expected a share of all users, below 1")
    arms = holdout_arm, Arm(EXPOSED_ARM, 1 - holdout_arm.share)
    metric = _parse_metric(table, HOLDOUT)
    return Experiment(HOLDOUT, HOLDOUT, (0, N_BUCKETS), _parse_users(table, HOLDOUT), arms, metric)


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
    for key in options:
        _parse_number(options, key, where)
    return Arm(name, **options, version=None if version == CURRENT else version)


def _parse_number(table: dict[str, Any], key: str, where: str) -> float | None:
    """Reads the share, weight or probability under a key; None if absent. Raises ValueError if out of
    range.
    """
    if key not in table:
        return None
    value = table[key]
    is_valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    if is_valid:
        is_valid = {"share": value > 0, "withhold": value < 1}.get(key, value <= 1)
    if not is_valid:
        expected = EXPECTED_NUMBERS.get(key, "0 to 1")
        raise ValueError(f"{where}: {key} is {value!r}: expected a number, {expected}")
    return float(value)


def _parse_metric(table: dict[str, Any], where: str) -> str | None:
    metric = table.get("metric")
    if metric is None or metric in METRIC_NAMES:
        return metric
    close_matches = difflib.get_close_matches(str(metric), METRIC_NAMES, n=1)
    hint = f"; do you mean '{close_matches[0]}'?" if close_matches else ""
    raise ValueError(f"{where}: metric is {metric!r}: expected one of {', '.join(METRIC_NAMES)}{hint}")


def _check_no_conflict(a: Experiment, b: Experiment) -> None:
    """Raises ValueError for two experiments that conflict.

    In one layer they must not share users. In two layers they must not set the same option.
    """
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
            raise ValueError(f"{where}: unknown key '{key}'; expected {', '.join(keys)}{hint}")


def _check_name(name: Any, owner: str) -> str:
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise ValueError(f"the name of {owner} is {name!r}: expected letters, digits, - and _")
    return name
