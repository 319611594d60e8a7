"""The shops of the calibration benchmark have the change that they are named for."""

import pandas as pd
import pytest

from benchmarks.calibration import START, shop_tables


def lines_per_day(tables: dict[str, pd.DataFrame], first: float, last: float) -> float:
    day = (tables["orders"].ts - START).dt.total_seconds() / 86_400
    return float(((day >= first) & (day < last)).sum() / (last - first))


def test_half_of_the_lines_are_missing_from_a_day_on() -> None:
    steady, halved = (shop_tables(150, 50, 120, 5.0, 0, day) for day in (None, 100.0))
    assert lines_per_day(halved, 0, 100) == pytest.approx(lines_per_day(steady, 0, 100), rel=1e-9)
    assert lines_per_day(halved, 100, 120) == pytest.approx(0.5 * lines_per_day(steady, 100, 120), rel=0.1)


def test_a_shop_is_the_same_for_the_same_seed() -> None:
    first, second = (shop_tables(10, 20, 60, 5.0, 3) for _ in range(2))
    for name in first:
        pd.testing.assert_frame_equal(first[name], second[name])
