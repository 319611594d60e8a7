"""When the label of a candidate became positive."""

import pyarrow as pa
import torch

from data.io.batches import Batch
from models.ranking.tasks import DEFAULT_TASKS
from models.schema import Candidates, Outcomes
from training.known_outcomes import event_delays
from training.labels import LabelPolicy

# Items 1 and 2 are of leaf 1, item 3 of leaf 2, item 4 of none. The first checkout buys 2, 1 and 4, the
# second one 3; it clicks 4.
LEAF = torch.tensor([0, 1, 1, 2, 0])
DELAYS = pa.table({"purchase_delay": [[50, 20, 70], [30, 0]]})


def batch() -> Batch:
    item, bought = torch.tensor([1, 2, 4, 3, 4]), torch.tensor([True, True, True, True, False])
    zeros = torch.zeros(5)
    outcomes = Outcomes(
        torch.tensor([0, 3, 5]), item, bought, ~bought, bought, zeros, item, zeros.bool(), zeros,
        torch.empty(5, 0),
    )  # fmt: skip
    candidate_item = torch.tensor([1, 2, 3, 4, 1, 3, 4])
    candidates = Candidates(
        **{name: torch.zeros(7) for name in Candidates._fields}
        | {"offsets": torch.tensor([0, 4, 7]), "item": candidate_item}
    )
    ids = pa.array(["a", "b"])
    return Batch(query=None, outcomes=outcomes, candidates=candidates, order_id=ids, user_id=ids,
        n_prior_orders=torch.zeros(2))  # fmt: skip


def test_a_proxy_click_happens_with_the_first_purchase_of_the_category() -> None:
    delay = event_delays(DELAYS, batch(), LEAF, DEFAULT_TASKS, LabelPolicy(True, False))
    assert delay[:, 1].tolist() == [50, 20, 0, 70, 0, 30, 0]
    assert delay[:, 0].tolist() == [20, 20, 0, 70, 0, 30, 0]
    assert delay[:, 2].tolist() == [0] * 7  # an amount is not an event


def test_a_logged_click_happens_with_the_checkout() -> None:
    delay = event_delays(DELAYS, batch(), LEAF, DEFAULT_TASKS, LabelPolicy(False, False))
    assert delay[:, 0].tolist() == [0] * 7
    assert delay[:, 1].tolist() == [50, 20, 0, 70, 0, 30, 0]
