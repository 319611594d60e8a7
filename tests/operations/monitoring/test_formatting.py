"""Limits and statistics read as people write them."""

import numpy as np

from operations.monitoring.daily import ThresholdCheck
from operations.monitoring.drift import Distribution, Scalar
from operations.monitoring.formatting import check_row, describe_change


def test_ages_are_durations() -> None:
    age = ThresholdCheck("age of the newest slate", 3 + 1 / 3, 24.0, True, " h")
    assert check_row(age) == {
        "check": "age of the newest slate", "value": "3 h 20 min", "limit": "alarm above 1 day", "alarm": ""
    }  # fmt: skip
    old = check_row(ThresholdCheck("age of the bundle's data", 3000.0, 14.0, True, " days"))
    assert (old["value"], old["limit"], old["alarm"]) == ("8 years", "alarm above 14 days", "ALARM")
    recall = check_row(ThresholdCheck("index recall", 0.97, 0.98, False))
    assert (recall["value"], recall["limit"]) == ("0.97", "alarm below 0.98")


def test_changes_are_medians_shares_or_values() -> None:
    counts = np.array([[8, 1, 1], [8, 1, 1], [0, 1, 9]])
    price = Distribution("price", "inputs", counts, ("1", "2", "more"), ordered=True)
    assert describe_change(price) == ("median above 2", "median 1")
    device = Distribution("device", "inputs", counts, ("phone", "desktop", "others"), ordered=False)
    assert describe_change(device) == ("phone 0.0%", "80.0%")
    rate = Scalar("rate", "outcomes", np.array([0.1, np.nan, 0.3, 0.5]), counts, counts, 1.0, ".1%")
    assert describe_change(rate) == ("50.0%", "20.0%")
