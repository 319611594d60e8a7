"""What a retrieval step draws, weighs and hides."""

import torch

from models.losses import sampled_softmax
from tests.models.shops import random_query
from training.retrieval import repeats


def test_a_repeat_is_what_the_history_or_basket_of_the_same_checkout_holds() -> None:
    query = random_query(0, count=2)._replace(
        history_offsets=torch.tensor([0, 2, 3]), history_item=torch.tensor([5, 6, 7]),
        basket_offsets=torch.tensor([0, 0, 1]), basket_item=torch.tensor([5]),
    )  # fmt: skip
    owner, item = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([5, 6, 7, 5, 6, 7])
    assert repeats(query, owner, item).tolist() == [True, True, False, True, False, True]


def test_a_weighted_loss_is_the_mean_over_what_counts() -> None:
    g = torch.Generator().manual_seed(0)
    query, positive, negative = (torch.randn(n, 4, generator=g) for n in (2, 3, 9))
    positive_id, negative_id = torch.tensor([1, 2, 3]), torch.arange(4, 13)
    probability = torch.full([13], 1 / 12)

    def loss(owner: list[int], weight: torch.Tensor | None) -> torch.Tensor:
        return sampled_softmax(
            query, positive, negative, positive_id, negative_id, torch.tensor(owner), probability, 9, 12, 1.0,
            weight,
        )  # fmt: skip

    owner = [0, 1, 1]
    torch.testing.assert_close(loss(owner, torch.full([3], 0.3)), loss(owner, None))
    alone = [loss(owner, weight) for weight in torch.eye(3)]
    mixed = loss(owner, torch.tensor([1.0, 0.0, 3.0]))
    torch.testing.assert_close(mixed, (alone[0] + 3 * alone[2]) / 4)
