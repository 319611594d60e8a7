"""The cost of a frequency cap: checkouts replayed with a memory of what they showed."""

from pathlib import Path

import numpy as np
import pytest

from evaluation.frequency import Checkouts, cap_costs, distinct_items, replay
from evaluation.jagged import RankedLists
from evaluation.protocol import load_split
from models.schema import SECONDS_PER_DAY as DAY
from serving.pipeline.frequency import FrequencyCap
from tests.evaluation.conftest import write_prepared

N_ITEMS, VISITS = 20, 4
FIRST, SECOND, THIRD = [1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], [13, 14, 15, 16, 17, 18]


@pytest.fixture
def checkouts(tmp_path: Path) -> Checkouts:
    """Anna pays four times, six days apart, and bert once in between; the same items rank first each time."""
    days = [100, 106, 109, 112, 118]
    users = ["anna", "anna", "bert", "anna", "anna"]
    rows = [
        {"order_id": f"o{k}", "user_id": user, "ts": day * DAY, "basket_item": [20], "basket_quantity": [1],
         "basket_price": [1.0], "outcome_item": [1, 7], "outcome_purchase": [True] * 2,
         "outcome_impression": [False] * 2, "outcome_click": [True] * 2, "outcome_value": [2.0, 5.0]}
        for k, (user, day) in enumerate(zip(users, days, strict=True))
    ]  # fmt: skip
    rows[3]["basket_item"] = [2]  # anna buys the second item on day 112
    folder = write_prepared(tmp_path, rows, [0] * (N_ITEMS + 1), [])
    items = np.tile(np.arange(1, 19), len(rows))
    score = np.tile(-np.arange(18.0), len(rows))
    return Checkouts(load_split(folder, "test"), RankedLists(np.arange(0, 91, 18), items, score))


def test_a_cap_moves_on_to_the_next_items(checkouts: Checkouts) -> None:
    slates = replay(checkouts, None, {})
    assert slates.tolist() == [FIRST] * 5
    once = replay(checkouts, FrequencyCap(1, "28d"), {}).tolist()
    # Bert has a memory of his own. The purchase of item 2 resets its count.
    assert once == [FIRST, SECOND, FIRST, [2, 13, 14, 15, 16, 17], [2, 18, 1, 3, 4, 5]]
    twice = replay(checkouts, FrequencyCap(2, "28d"), {}).tolist()
    assert twice == [FIRST, FIRST, FIRST, [2, *SECOND[:5]], [2, *SECOND[:5]]]
    # After the window the first slate is forgotten.
    week = replay(checkouts, FrequencyCap(1, "7d"), {}).tolist()
    assert week == [FIRST, SECOND, FIRST, FIRST, [2, *SECOND[:5]]]


def test_an_earlier_split_fills_the_memory(checkouts: Checkouts) -> None:
    earlier = Checkouts(
        checkouts.split._replace(ts=checkouts.split.ts - 24 * DAY, order_id=np.array(list("abcde"))),
        checkouts.ranked,
    )
    fresh, warm = (cap_costs(before, checkouts) for before in (None, earlier))
    assert [row["cap"] for row in fresh][:4] == ["none", "1 in 7d", "2 in 7d", "3 in 7d"]
    assert repr(fresh[0]) == repr(warm[0])
    assert fresh[0]["revenue6"] == pytest.approx(2.0)
    assert fresh[0]["ndcg6 change"] == "+0.0000 [+0.0000, +0.0000]"
    by_cap = [{row["cap"]: row["ndcg6"] for row in rows} for rows in (fresh, warm)]
    assert by_cap[0]["1 in 28d"] != by_cap[1]["1 in 28d"]


def test_distinct_items_of_a_user() -> None:
    slates = np.array([FIRST] * 8 + [SECOND] * 8 + [FIRST, THIRD])
    user = np.array([1] * 16 + [2] * 2)
    assert distinct_items(slates, user) == {"distinct8": 6.0, "new_share": 12 / (15 * 6 + 6)}
    alone = distinct_items(np.array([FIRST]), np.array([1]))
    assert np.isnan([*alone.values()]).all()
