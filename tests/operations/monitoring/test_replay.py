"""Replays have the predictions of the tasks that a bundle has."""

import numpy as np
import pytest

from operations.monitoring.reconcile.logged_requests import task_columns
from operations.monitoring.replay import score_requests
from serving import Recommender
from serving.storage.formats import TaskOutput
from serving.storage.golden_requests import read_golden_requests
from serving.stores.base import EMPTY_HISTORY
from tests.serving.task_bundles import CLICK, PURCHASE, VALUE, with_tasks


@pytest.mark.parametrize(
    ("tasks", "heads", "finite"),
    [
        ([CLICK, PURCHASE, VALUE], [0, 1], [True, True, True]),
        ([PURCHASE._replace(given=None)], [1], [False, True, False]),
        ([CLICK], [0], [True, False, False]),
    ],
)
def test_scores_of_a_request(
    shared: Recommender, tasks: list[TaskOutput], heads: list[int], finite: list[bool]
) -> None:
    recommender = Recommender(with_tasks(shared.bundle, tasks, objective=tasks[0].name))
    assert task_columns(recommender) == heads
    requests = [(checkout, EMPTY_HISTORY) for checkout, _ in read_golden_requests(shared.bundle)]
    for (checkout, _), scores in zip(requests, score_requests(recommender, requests), strict=True):
        slate = recommender.recommend(checkout, float("inf"))
        rows = np.array(shared.bundle.item_rows.lookup([item.item_id for item in slate.items]))
        expected = np.array([[item.click, item.purchase, item.value] for item in slate.items], float)
        assert np.isfinite(expected).all(0).tolist() == finite
        np.testing.assert_allclose(scores.lookup(rows), expected, rtol=1e-3)
