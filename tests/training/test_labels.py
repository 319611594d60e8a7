"""Labels of candidates against a plain reading of the outcomes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.inputs import Outcomes
from tests.models.shops import offsets, random_candidates, random_catalog
from training.labels import label


def random_outcomes(seed: int, count: int = 4, items: int = 30) -> Outcomes:
    g = torch.Generator().manual_seed(seed + 1)
    per = [
        torch.randperm(items, generator=g)[: int(torch.randint(0, 12, [1], generator=g))] + 1
        for _ in range(count)
    ]
    item = torch.cat(per)
    click = torch.rand(item.shape, generator=g) < 0.4
    purchase = torch.rand(item.shape, generator=g) < 0.5
    value = torch.rand(item.shape, generator=g) * 9
    return Outcomes(
        offsets(torch.tensor([len(p) for p in per])), item, torch.ones_like(click), click, purchase, value
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_labels(seed: int, proxy: bool) -> None:
    candidates, outcomes, leaf = random_candidates(seed), random_outcomes(seed), random_catalog(seed).leaf
    click, purchase, value = label(candidates, outcomes, leaf, proxy)
    for row in range(4):
        o0, o1 = outcomes.offsets[row : row + 2].tolist()
        facts = {int(outcomes.item[o]): o for o in range(o0, o1)}
        bought = {item for item, o in facts.items() if outcomes.purchase[o]}
        leaves = {int(leaf[item]) for item in bought} - {0}
        c0, c1 = candidates.offsets[row : row + 2].tolist()
        for c in range(c0, c1):
            item = int(candidates.item[c])
            assert bool(purchase[c]) == (item in bought)
            if proxy:
                assert bool(click[c]) == (item in bought or int(leaf[item]) in leaves)
            else:
                assert bool(click[c]) == (
                    item in bought or (item in facts and bool(outcomes.click[facts[item]]))
                )
            expected = float(outcomes.value[facts[item]]) if item in bought else 0.0
            assert abs(float(value[c]) - expected) < 1e-5
