"""Assignment: the same user, the same arm; even, exclusive in a layer, independent between layers."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from serving.experiments.assignment import (
    Arm,
    Assignment,
    Experiment,
    Experiments,
    assign_arm,
    assign_user,
    read_experiments,
)
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
    return read_experiments(written(tmp_path_factory.mktemp("experiments"), FILE))


def written(folder: Path, text: str) -> Path:
    path = folder / "experiments.toml"
    path.write_text(text)
    return path


def dealt(salt: str, shares: list[float], buckets: tuple[int, int] = (0, 1000)) -> dict[str, str]:
    """The arms of those of USERS who have one; arms are named by their place."""
    arms = tuple(Arm(str(place), share) for place, share in enumerate(shares))
    one = Experiment("test", "layer", buckets, 1, arms)
    experiments = Experiments(salt, None, (one,))
    found = {user: assign_arm(experiments, user, one) for user in USERS[:1000]}
    return {user: arm.name for user, arm in found.items() if arm is not None}


def test_what_a_file_says(running: Experiments) -> None:
    weight, variety, explore = running.active
    assert weight == Experiment(
        "weight", "ranking", (0, 500), 2000, (Arm("control"), Arm("half", revenue_weight=0.5, version="v1"))
    )
    assert [arm.share for arm in variety.arms] == [2, 1]
    assert [arm.version for arm in variety.arms] == [None, None]
    assert [arm.explore for arm in explore.arms] == [None, 0.05, 0.5]
    assert running.get_experiment("holdout").arms == (Arm("held", 0.1, version="v0"), Arm("rest", 0.9))
    assert running.versions == ("v1", "v0")
    with pytest.raises(ValueError, match="no experiment 'wait'; there are weight, variety, explore, holdout"):
        running.get_experiment("wait")


def test_arms_have_their_shares_and_layers_are_independent(running: Experiments) -> None:
    found = {user: assign_user(running, user) for user in USERS}
    by_user = {u: dict(part.split(":") for part in f.arms.split(",")) for u, f in found.items()}
    names = Counter(part for one in found.values() for part in one.arms.split(","))
    held, n = names["holdout:held"], len(USERS)
    assert chisquare([held, n - held], [0.1 * n, 0.9 * n]).pvalue > 1e-4
    open_to = n - held
    expected = {
        "weight:control": 0.25, "weight:half": 0.25, "variety:control": 0.4 * 2 / 3, "variety:more": 0.4 / 3,
    }  # fmt: skip
    seen = [names[name] for name in expected]
    shares = [share * open_to for share in expected.values()]
    assert chisquare([*seen, open_to - sum(seen)], [*shares, open_to - sum(shares)]).pvalue > 1e-4
    for arms in by_user.values():
        assert len({"weight", "variety"} & arms.keys()) <= 1, "one layer, one experiment"
        assert ("explore" in arms) == (arms["holdout"] == "rest")
    for name in ("weight", "variety"):
        pairs = Counter((arms[name], arms["explore"]) for arms in by_user.values() if name in arms)
        table = [
            [pairs[mine, other] for other in ("no", "little", "much")]
            for mine in sorted({mine for mine, _ in pairs})
        ]
        assert chi2_contingency(table).pvalue > 1e-4
    assert all(one.revenue_weight == (0.5 if "weight:half" in one.arms else None) for one in found.values())
    assert all((one.explore is None) == ("explore:l" not in one.arms and "much" not in one.arms)
               for one in found.values())  # fmt: skip
    for one in found.values():
        named = "v1" if "weight:half" in one.arms else "v0" if "holdout:held" in one.arms else None
        assert one.version == named
    assert assign_user(running, None) == Assignment()


def test_another_process_deals_the_same(running: Experiments, tmp_path: Path) -> None:
    path = written(tmp_path, FILE)
    program = "from serving.experiments.assignment import *; from pathlib import Path\n"
    program += f"e = read_experiments(Path({str(path)!r}))\n"
    program += "for k in range(500): print(assign_user(e, f'u{k}').arms)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [assign_user(running, user).arms for user in USERS[:500]]


@given(st.text(min_size=1, max_size=5), SHARES)
def test_arms_are_dealt_by_their_shares(salt: str, shares: list[float]) -> None:
    found = Counter(dealt(salt, shares).values())
    expected = [1000 * share / sum(shares) for share in shares]
    assert chisquare([found[str(place)] for place in range(len(shares))], expected).pvalue > 1e-7


@given(st.text(min_size=1, max_size=5), SHARES, st.integers(0, 4), st.floats(1.0, 20.0))
def test_an_arm_that_grows_takes_users_and_moves_no_others(
    salt: str, shares: list[float], place: int, factor: float
) -> None:
    place %= len(shares)
    before = dealt(salt, shares)
    after = dealt(salt, [share * (factor if k == place else 1) for k, share in enumerate(shares)])
    assert {after[user] for user in after if after[user] != before[user]} <= {str(place)}


@given(st.text(min_size=1, max_size=5), SHARES, st.tuples(*[st.integers(1, 333)] * 3))
def test_more_buckets_move_nobody(salt: str, shares: list[float], sizes: tuple[int, int, int]) -> None:
    first, few, more = sizes
    narrow = dealt(salt, shares, (first, first + few))
    wide = dealt(salt, shares, (first, first + few + more))
    assert narrow.items() <= wide.items()


@given(st.text(min_size=1))
def test_any_user_has_an_arm(user: str) -> None:
    one = Experiment("test", "layer", (0, 1000), 1, (Arm("a", 1e-300), Arm("b", 1e300)))
    assert assign_arm(Experiments("s", None, (one,)), user, one) == one.arms[1]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('salt = "test"', "", "salt is None: expected a text"),
        ('salt = "test"', 'salt = "test', "is not TOML"),
        ('salt = "test"', 'salt = "test"\nsalts = 1', "the file has no 'salts', .*do you mean 'salt'"),
        ("share = 0.1", "share = 1.5", "holdout: share is 1.5: expected a share of all users, below 1"),
        ("[500, 900]", "[499, 900]", r"'weight' and 'variety' overlap in layer 'ranking': .*\[499, 900\]"),
        ("[500, 900]", "[500, 1001]", "experiment 'variety': buckets are .*≤ 1000"),
        ("[500, 900]", "[0.5, 0.9]", "experiment 'variety': buckets are"),
        ("[500, 900]", "[500, 500]", "experiment 'variety': buckets are"),
        ('arms.half = { revenue_weight = 0.5, version = "v1" }', "", "experiment 'weight' has 1 arms"),
        ("revenue_weight = 0.5", "revenue_weight = 1.5", "arm 'half': revenue_weight is 1.5: .*0 to 1"),
        ("share = 2", "share = 0", "arm 'control': share is 0: expected a number, more than 0"),
        ("share = 2", "share = true", "arm 'control': share is True"),
        ("share = 2", "shares = 2", "has no 'shares', .*do you mean 'share'"),
        ("explore = 0.05", "revenue_weight = 0.05", "'weight' and 'explore' both set revenue_weight, in two"),
        ("explore = 0.05", 'version = "v2"', "'weight' and 'explore' both set version, in two layers"),
        (
            'version = "v1"',
            "version = 1",
            "arm 'half': version is 1: expected the name of a version's",
        ),
        ('version = "v1"', 'version = "../v1"', "arm 'half': version is '../v1': expected the name"),
        ("arms.much", 'arms."much more"', "the name of an arm of experiment 'explore' is 'much more'"),
        ("users = 1000", "", "holdout: users is None: .*`python -m experimentation plan` prints"),
        ("[experiments.explore]", "[experiments.holdout]", "may not be named 'holdout'"),
        ('layer = "explore"', "", "the name of the layer of experiment 'explore' is None"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert FILE.count(old) == 1
    path = written(tmp_path, FILE.replace(old, new))
    with pytest.raises(ValueError, match=f"{path}.*{reason}"):
        read_experiments(path)


def test_a_service_shows_and_logs_the_arms(version: Path, tmp_path: Path) -> None:
    """Arms that go by probability, and arms whose last slot always explores."""
    text = FILE.replace("revenue_weight = 0.5", "revenue_weight = 0").replace("explore = 0.5", "explore = 1")
    path, log = written(tmp_path, text), tmp_path / "log"
    running = read_experiments(path)
    asked = Settings(version.parent, log=log, deadline_ms=60_000.0, experiments=path)
    with serving(create_app(asked)) as client:
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
        mine = assign_user(running, user)
        by_chance = [item["purchase"] for item in slate["items"]]
        assert (slate["items"][5]["propensity"] < 1) == bool(mine.explore)
        if mine.revenue_weight == 0 and not mine.explore:
            assert by_chance == sorted(by_chance, reverse=True)
    assert {slate["items"][5]["propensity"] < 1 for slate in slates.values()} == {True, False}
    with pytest.raises(ValueError, match="--experiments needs --log"):
        Settings(version.parent, experiments=path)
