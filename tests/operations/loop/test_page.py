"""The page of the loop shows every day, its decisions, and money with two digits."""

from typing import Any

from operations.loop.page import page
from operations.loop.simulate import SimulationPlan, summary


def day(number: int, decision: str, shuffled: bool = False) -> dict[str, Any]:
    return {
        "day": number, "sessions": 1200, "revenue": 17.0, "popularity": 3.0, "rule_policy": 6.5,
        "oracle": 18.5, "attributed_spend": 1234.5, "labels_shuffled": shuffled, "decision": decision,
    }  # fmt: skip


def test_the_page_shows_days_and_decisions() -> None:
    rows = [day(1, "published v1"), day(2, "kept the champion: <slope>", shuffled=True)]
    text = page(rows, summary(rows), SimulationPlan(rule_days=90))
    assert "Sextet earns 17.00 per session, popularity 3.00 and the rule policy 6.50." in text
    assert "<b>91.9%</b>" in text  # of the oracle's revenue
    assert "1 of 2 nights published a challenger. On day 2 labels were shuffled: the gates stopped" in text
    assert "2,400 checkouts of simulated users" in text
    assert "kept the champion: &lt;slope&gt;" in text
    assert "1,234.50" in text
    assert text.count('class="chart wide"') == 1
