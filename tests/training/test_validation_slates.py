"""Slates of validation checkouts: the metrics are those of the evaluation."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics import Purchases, ndcg_at, revenue_at
from models.schema import Outcomes
from training.validation_slates import slate_metrics


def outcomes(bought: list[dict[int, float]]) -> Outcomes:
    """Outcomes of checkouts: item → spend, 0 for a click without a purchase."""
    item = torch.tensor([item for of_checkout in bought for item in of_checkout], dtype=torch.long)
    value = torch.tensor([value for of_checkout in bought for value in of_checkout.values()])
    nothing = torch.zeros(len(item), dtype=torch.long)
    return Outcomes(
        offsets=torch.tensor([0, *np.cumsum([len(each) for each in bought])]),
        item=item, impression=nothing > 0, click=value == 0, purchase=value > 0, value=value.float(),
        position=nothing, ghost=nothing > 0, withhold=nothing.float(), further=nothing.float().unsqueeze(1),
    )  # fmt: skip


checkout = st.tuples(
    st.lists(st.integers(1, 12), max_size=12, unique=True),  # candidates, the best first
    st.dictionaries(st.integers(1, 12), st.sampled_from([0.0, 1.5, 20.0]), max_size=8),
)


@given(st.lists(checkout, min_size=1, max_size=5))
def test_the_metrics_are_those_of_the_evaluation(checkouts: list) -> None:
    lists, bought = zip(*checkouts, strict=True)
    owner = torch.repeat_interleave(torch.arange(len(lists)), torch.tensor([len(each) for each in lists]))
    item = torch.tensor([item for of_checkout in lists for item in of_checkout], dtype=torch.long)
    score = torch.tensor([-float(rank) for of_checkout in lists for rank in range(len(of_checkout))])
    measured = slate_metrics(score, owner, item, outcomes(list(bought)))

    slates = np.full((len(lists), 6), -1)
    for row, of_checkout in enumerate(lists):
        slates[row, : len(of_checkout[:6])] = of_checkout[:6]
    spent = [{item: value for item, value in each.items() if value > 0} for each in bought]
    purchases = Purchases(
        offsets=np.array([0, *np.cumsum([len(each) for each in spent])]),
        item=np.array([item for each in spent for item in each], dtype=np.int64),
        value=np.array([value for each in spent for value in each.values()]),
    )
    has_purchase = np.diff(purchases.offsets) > 0
    expected = np.stack([ndcg_at(slates, purchases), revenue_at(slates, purchases)], axis=1)[has_purchase]
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-5)


def test_an_item_of_no_source_is_on_no_slate() -> None:
    score = torch.tensor([-torch.inf, 1.0])
    measured = slate_metrics(score, torch.tensor([0, 0]), torch.tensor([5, 7]), outcomes([{5: 2.0}]))
    assert measured.tolist() == [[0.0, 0.0]]
