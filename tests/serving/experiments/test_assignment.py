"""Assignment: the same user, the same arm; by share, exclusive in a layer, independent between layers."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from serving.experiments.assignment import (
    Arm,
    Assignment,
    Experiment,
    Experiments,
    assign_arm,
    assign_user,
)
from serving.experiments.declaration import read_experiments
from serving.http.app import create_app
from serving.http.settings import Settings
from tests.serving.events.logs import logged
from tests.serving.http.services import BASKET, serving, six

FILE = """
salt = "test"
[holdout]
share = 0.1
users = 1000
version = "v0"
[experiments.weight]
layer = "ranking"
buckets = [0, 500]
users = 2000
arms.control = {}
arms.half = { revenue_weight = 0.5, version = "v1" }
[experiments.variety]
layer = "ranking"
buckets = [500, 900]
users = 2000
arms.control = { share = 2, version = "current" }
arms.more = { share = 1 }
[experiments.explore]
layer = "explore"
buckets = [0, 1000]
users = 2000
arms.no = {}
arms.little = { explore = 0.05 }
arms.much = { explore = 0.5 }
"""
USERS = [f"u{number}" for number in range(20_000)]
SHARES = st.lists(st.floats(0.05, 5.0), min_size=2, max_size=5)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Experiments:
    return read_experiments(write_file(tmp_path_factory.mktemp("experiments"), FILE))


def write_file(folder: Path, text: str) -> Path:
    path = folder / "experiments.toml"
    path.write_text(text)
    return path


def assigned_arms(salt: str, shares: list[float], buckets: tuple[int, int] = (0, 1000)) -> dict[str, str]:
    """The arms of those of USERS who have one; arms are named by their index."""
    arms = tuple(Arm(str(index), share) for index, share in enumerate(shares))
    experiment = Experiment("test", "layer", buckets, 1, arms)
    experiments = Experiments(salt, None, (experiment,))
    by_user = {user: assign_arm(experiments, user, experiment) for user in USERS[:1000]}
    return {user: arm.name for user, arm in by_user.items() if arm is not None}


def test_a_file_is_read(running: Experiments) -> None:
    weight, variety, explore = running.active
    assert weight == Experiment(
        "weight", "ranking", (0, 500), 2000, (Arm("control"), Arm("half", revenue_weight=0.5, version="v1"))
    )
    assert [arm.share for arm in variety.arms] == [2, 1]
    assert [arm.version for arm in variety.arms] == [None, None]
    assert [arm.explore for arm in explore.arms] == [None, 0.05, 0.5]
    assert running.get_experiment("holdout").arms == (Arm("held", 0.1, version="v0"), Arm("rest", 0.9))
    assert running.versions == ("v1", "v0")
    with pytest.raises(
        ValueError, match="unknown experiment 'wait'; expected weight, variety, explore, holdout"
    ):
        running.get_experiment("wait")


def test_arms_have_their_shares_and_layers_are_independent(running: Experiments) -> None:
    assignments = [assign_user(running, user) for user in USERS]
    arms_of_users = [dict(part.split(":") for part in one.arms.split(",")) for one in assignments]
    counts = Counter(part for assignment in assignments for part in assignment.arms.split(","))
    n_held, n = counts["holdout:held"], len(USERS)
    assert chisquare([n_held, n - n_held], [0.1 * n, 0.9 * n]).pvalue > 1e-4
    n_exposed = n - n_held
    expected = {
        "weight:control": 0.25, "weight:half": 0.25, "variety:control": 0.4 * 2 / 3, "variety:more": 0.4 / 3,
    }  # fmt: skip
    observed = [counts[name] for name in expected]
    shares = [share * n_exposed for share in expected.values()]
    remainders = n_exposed - sum(observed), n_exposed - sum(shares)
    assert chisquare([*observed, remainders[0]], [*shares, remainders[1]]).pvalue > 1e-4
    for arms in arms_of_users:
        assert len({"weight", "variety"} & arms.keys()) <= 1, "one layer, one experiment"
        assert ("explore" in arms) == (arms["holdout"] == "rest")
    for name in ("weight", "variety"):
        pairs = Counter((arms[name], arms["explore"]) for arms in arms_of_users if name in arms)
        table = [
            [pairs[arm, explore_arm] for explore_arm in ("no", "little", "much")]
            for arm in sorted({arm for arm, _ in pairs})
        ]
        assert chi2_contingency(table).pvalue > 1e-4
    for user in assignments:
        assert user.revenue_weight == (0.5 if "weight:half" in user.arms else None)
        assert (user.explore is None) == ("explore:l" not in user.arms and "much" not in user.arms)
        version = "v1" if "weight:half" in user.arms else "v0" if "holdout:held" in user.arms else None
        assert user.version == version
    assert assign_user(running, None) == Assignment()


def test_another_process_assigns_the_same_arms(running: Experiments, tmp_path: Path) -> None:
    path = write_file(tmp_path, FILE)
    program = "from serving.experiments.assignment import *\n"
    program += "from serving.experiments.declaration import *; from pathlib import Path\n"
    program += f"e = read_experiments(Path({str(path)!r}))\n"
    program += "for k in range(500): print(assign_user(e, f'u{k}').arms)"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines() == [assign_user(running, user).arms for user in USERS[:500]]


@settings(deadline=None)
@given(st.text(min_size=1, max_size=5), SHARES)
def test_arms_have_users_by_their_shares(salt: str, shares: list[float]) -> None:
    counts = Counter(assigned_arms(salt, shares).values())
    expected = [1000 * share / sum(shares) for share in shares]
    assert chisquare([counts[str(index)] for index in range(len(shares))], expected).pvalue > 1e-7


@settings(deadline=None)
@given(st.text(min_size=1, max_size=5), SHARES, st.integers(0, 4), st.floats(1.0, 20.0))
def test_an_arm_that_grows_takes_users_and_moves_no_others(
    salt: str, shares: list[float], index: int, factor: float
) -> None:
    index %= len(shares)
    before = assigned_arms(salt, shares)
    after = assigned_arms(salt, [share * (factor if k == index else 1) for k, share in enumerate(shares)])
    assert {after[user] for user in after if after[user] != before[user]} <= {str(index)}


@settings(deadline=None)
@given(st.text(min_size=1, max_size=5), SHARES, st.tuples(*[st.integers(1, 333)] * 3))
def test_added_buckets_move_nobody(salt: str, shares: list[float], sizes: tuple[int, int, int]) -> None:
    first, n_buckets, n_added = sizes
    narrow = assigned_arms(salt, shares, (first, first + n_buckets))
    wide = assigned_arms(salt, shares, (first, first + n_buckets + n_added))
    assert narrow.items() <= wide.items()


@given(st.text(min_size=1))
def test_any_user_has_an_arm(user: str) -> None:
    experiment = Experiment("test", "layer", (0, 1000), 1, (Arm("a", 1e-300), Arm("b", 1e300)))
    assert assign_arm(Experiments("s", None, (experiment,)), user, experiment) == experiment.arms[1]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('salt = "test"', "", "salt is None: expected a text"),
        ('salt = "test"', 'salt = "test', "is not TOML"),
        ('salt = "test"', 'salt = "test"\nsalts = 1', "the file: unknown key 'salts'; .*do you mean 'salt'"),
        ("share = 0.1", "share = 1.5", "holdout: share is 1.5: expected a share of all users, below 1"),
        ("[500, 900]", "[499, 900]", r"'weight' and 'variety' overlap in layer 'ranking': .*\[499, 900\]"),
        ("[500, 900]", "[500, 1001]", "experiment 'variety': buckets are .*≤ 1000"),
        ("[500, 900]", "[0.5, 0.9]", "experiment 'variety': buckets are"),
        ("[500, 900]", "[500, 500]", "experiment 'variety': buckets are"),
        ('arms.half = { revenue_weight = 0.5, version = "v1" }', "", "experiment 'weight' has 1 arms"),
        ("revenue_weight = 0.5", "revenue_weight = 1.5", "arm 'half': revenue_weight is 1.5: .*0 to 1"),
        ("share = 2", "share = 0", "arm 'control': share is 0: expected a number, more than 0"),
        ("share = 2", "share = true", "arm 'control': share is True"),
        ("share = 2", "shares = 2", "unknown key 'shares'; .*do you mean 'share'"),
        ("explore = 0.05", "revenue_weight = 0.05", "'weight' and 'explore' both set revenue_weight, in two"),
        ("explore = 0.05", 'version = "v2"', "'weight' and 'explore' both set version, in two layers"),
        (
            'version = "v1"',
            "version = 1",
            "arm 'half': version is 1: expected the name of a version's",
        ),
        ('version = "v1"', 'version = "../v1"', "arm 'half': version is '../v1': expected the name"),
        ("arms.much", 'arms."much more"', "the name of an arm of experiment 'explore' is 'much more'"),
        ('salt = "test"', 'salt = "test"\nwithhold = 1', "the file: withhold is 1: .*0 or more, below 1"),
        ("explore = 0.05", "withhold = 1.0", "arm 'little': withhold is 1.0: .*0 or more, below 1"),
        (
            "[0, 500]",
            "[0, 500]\nmetric = 'revenue'",
            "'weight': metric is 'revenue': expected one of order_rev",
        ),
        (
            "[0, 500]",
            "[0, 500]\nmetric = 'revenue_per_user'",
            "do you mean 'order_revenue_per_user'",
        ),
        ("users = 1000", "metric = 2\nusers = 1000", "holdout: metric is 2"),
        ("users = 1000", "", "holdout: users is None: .*`python -m experimentation plan` prints"),
        ("[experiments.explore]", "[experiments.holdout]", "may not be named 'holdout'"),
        ('layer = "explore"', "", "the name of the layer of experiment 'explore' is None"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert FILE.count(old) == 1
    path = write_file(tmp_path, FILE.replace(old, new))
    with pytest.raises(ValueError, match=f"{path}.*{reason}"):
        read_experiments(path)


def test_a_service_shows_and_logs_the_arms(version: Path, tmp_path: Path) -> None:
    """Arms that rank by probability, and arms whose last slot always explores."""
    text = FILE.replace("revenue_weight = 0.5", "revenue_weight = 0").replace("explore = 0.5", "explore = 1")
    path, log = write_file(tmp_path, text), tmp_path / "log"
    running = read_experiments(path)
    service_settings = Settings(version.parent, log=log, deadline_ms=60_000.0, experiments=path)
    with serving(create_app(service_settings)) as client:
        slates = {
            user: six(client.post("/v1/recommendations", BASKET | {"user_id": user})) for user in USERS[:40]
        }
        six(client.post("/v1/recommendations", BASKET))
    rows = logged(log)
    assert len(rows) == 6 * 41
    assert {row["arm"] for row in rows if row["user_id"] is None} == {""}
    assert all(row["arm"] == assign_user(running, row["user_id"]).arms for row in rows if row["user_id"])
    assert all(row["latency_ms"] > 0 for row in rows)
    for user, slate in slates.items():
        assignment = assign_user(running, user)
        probabilities = [item["purchase"] for item in slate["items"]]
        assert (slate["items"][5]["propensity"] < 1) == bool(assignment.explore)
        if assignment.revenue_weight == 0 and not assignment.explore:
            assert probabilities == sorted(probabilities, reverse=True)
    assert {slate["items"][5]["propensity"] < 1 for slate in slates.values()} == {True, False}
    with pytest.raises(ValueError, match="--experiments needs --log"):
        Settings(version.parent, experiments=path)
