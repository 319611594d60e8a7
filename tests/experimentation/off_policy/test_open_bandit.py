"""The Open Bandit sample: an order that is said is the order of the two logs' own means."""

import numpy as np

from experimentation.off_policy import open_bandit


def test_both_directions_say_the_right_order_or_that_data_are_missing() -> None:
    rows = open_bandit.compare_policies()
    assert len(rows) == 3 * 2 * 4
    for campaign in open_bandit.CAMPAIGNS:
        own = {p: open_bandit.read_impressions(p, campaign).click.mean() for p in open_bandit.POLICIES}
        here = [row for row in rows if row["campaign"] == campaign]
        said = {row["says"] for row in here} - {"not enough data", "no support", "–"}
        assert said <= {"bts > random"} if own["bts"] > own["random"] else not said
        for row in here:
            assert row["own_log"] == own[row["judged"]]
            assert 0 <= row["effective"] <= 10_000
    # 22,000 of 10,000 impressions' weight on one of them: nothing can be said.
    women = [row for row in rows if (row["campaign"], row["log"]) == ("women", "bts")]
    assert {row["effective"] for row in women} == {2}
    assert {row["says"] for row in women} == {"not enough data", "–"}
    assert any(row["says"] == "bts > random" for row in rows)


def test_the_sample_is_read_as_it_is() -> None:
    log = open_bandit.read_impressions("random", "men")
    assert len(log.item) == 10_000
    assert set(log.slot) == {0, 1, 2}
    np.testing.assert_allclose(log.propensity, 1 / 34, rtol=1e-3)
    chance = open_bandit.slot_probabilities(open_bandit.read_impressions("bts", "men"), "bts", 34)
    np.testing.assert_allclose(chance.sum(1), 1)
