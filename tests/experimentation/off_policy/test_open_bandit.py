"""The Open Bandit sample: a verdict agrees with the means of the two logs."""

import numpy as np

from experimentation.off_policy import open_bandit


def test_every_verdict_is_right_or_reports_missing_data() -> None:
    rows = open_bandit.compare_policies()
    assert len(rows) == 3 * 2 * 4
    for campaign in open_bandit.CAMPAIGNS:
        means = {p: open_bandit.read_impressions(p, campaign).click.mean() for p in open_bandit.POLICIES}
        campaign_rows = [row for row in rows if row["campaign"] == campaign]
        orders = {row["verdict"] for row in campaign_rows} - {"not enough data", "no support", "–"}
        assert orders <= {"bts > random"} if means["bts"] > means["random"] else not orders
        for row in campaign_rows:
            assert row["on_policy_value"] == means[row["target_policy"]]
            assert 0 <= row["effective_sample_size"] <= 10_000
    # One of 10,000 impressions has a weight of 22,000: no verdict is possible.
    women = [row for row in rows if (row["campaign"], row["logging_policy"]) == ("women", "bts")]
    assert {row["effective_sample_size"] for row in women} == {2}
    assert {row["verdict"] for row in women} == {"not enough data", "–"}
    assert any(row["verdict"] == "bts > random" for row in rows)


def test_the_sample_is_read_as_it_is() -> None:
    log = open_bandit.read_impressions("random", "men")
    assert len(log.item) == 10_000
    assert set(log.slot) == {0, 1, 2}
    np.testing.assert_allclose(log.propensity, 1 / 34, rtol=1e-3)
    probability = open_bandit.slot_probabilities(open_bandit.read_impressions("bts", "men"), "bts", 34)
    np.testing.assert_allclose(probability.sum(1), 1)
