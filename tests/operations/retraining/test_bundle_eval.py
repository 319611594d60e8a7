"""A bundle's predictions over another log: rows, codes and source bits by what they stand for."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.feature_schema import Attribute
from models.ranking.tasks import Task, TaskOutputs
from models.schema import Candidates, Outcomes
from operations.retraining.bundle_eval import (
    RowMaps,
    _attribute_maps,
    _map_codes,
    bundle_candidates,
    output_logits,
)

TASKS = (
    Task(name="click", kind="binary", label="click"),
    Task(name="purchase", kind="binary", label="purchase", given="click"),
    Task(name="value", kind="amount", label="spend", given="purchase"),
    Task(name="returned", kind="binary", label="return", given="purchase", joint=False),
    Task(name="kept", kind="binary", label="keep", given="returned"),
    Task(name="organic", kind="binary", label="organic"),
    Task(name="uplift", kind="binary", label="bought", control="organic"),
)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.floats(-8, 8), min_size=7, max_size=7), min_size=1, max_size=20))
def test_output_logits_invert_task_outputs(rows: list[list[float]]) -> None:
    logits = torch.tensor(rows, dtype=torch.float64)
    to_outputs = TaskOutputs(TASKS)
    outputs = to_outputs(logits)
    torch.testing.assert_close(to_outputs(output_logits(outputs, TASKS)), outputs, atol=1e-6, rtol=1e-4)


def test_probabilities_of_0_and_1_have_finite_logits() -> None:
    outputs = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0], *[[0.0, 1.0]] * 4])
    assert output_logits(outputs, TASKS).isfinite().all()


def test_attributes_are_mapped_by_name_and_value() -> None:
    bundle = [
        Attribute(name="store", values=["a", "b", "c"]),
        Attribute(name="gone", values=["x"]),
        Attribute(name="age", edges=[1.0, 2.0]),
    ]
    log = [Attribute(name="age", edges=[1.5, 2.5, 3.5]), Attribute(name="store", values=["c", "new", "a"])]
    codes = torch.tensor([[1, 1], [4, 2], [0, 3], [3, 0]])
    mapped = _map_codes(codes, _attribute_maps(bundle, log))
    assert mapped.tolist() == [[3, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 3]]


def test_candidates_are_those_that_the_bundle_would_have() -> None:
    """Log rows 1 to 5 are bundle rows 2, 3, 1, none, 4; the run has the sources ann, new and popular."""
    maps = RowMaps(
        bundle_item=torch.tensor([0, 2, 3, 1, 0, 4]),
        log_item=torch.tensor([0, 3, 1, 2, 5]),
        context=[],
        profile=[],
        source_bits=[(4, 2)],  # popular, which is the bundle's second source
        score_columns=[1, None],  # the run's second source with lists, and one that it lacks
    )
    candidates = Candidates(
        offsets=torch.tensor([0, 4, 5]),
        item=torch.tensor([1, 2, 4, 5, 3]),
        source_mask=torch.tensor([4, 1, 4, 2, 5]),
        score=torch.ones(5),
        list_scores=torch.tensor([[0.1, 1.0], [0.2, 2.0], [0.3, 3.0], [0.4, 4.0], [0.5, 5.0]]),
    )
    outcomes = Outcomes(
        offsets=torch.tensor([0, 2, 2]),
        item=torch.tensor([4, 5]),
        impression=torch.tensor([True, False]),
        click=torch.zeros(2, dtype=torch.bool),
        purchase=torch.zeros(2, dtype=torch.bool),
        value=torch.zeros(2),
        position=torch.tensor([1, 0]),
        ghost=torch.zeros(2, dtype=torch.bool),
        withhold=torch.zeros(2),
        further=torch.zeros(2, 0),
    )
    nearest = torch.tensor([[3, 1], [1, -1]])
    own = bundle_candidates(maps, candidates, outcomes, nearest)
    # 1: popular. 2: near. 3: near, of no other source. 4: shown, the bundle lacks it. 5: of `new` alone.
    assert own.offsets.tolist() == [0, 4, 5]
    assert own.item.tolist() == [1, 2, 3, 4, 3]
    assert own.source_mask.tolist() == [2, 1, 1, 0, 3]
    assert own.list_scores.tolist() == [[1, 0], [2, 0], [0, 0], [3, 0], [5, 0]]
