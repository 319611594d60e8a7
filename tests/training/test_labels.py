"""Labels of candidates against a plain reading of the outcomes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.inputs import Outcomes
from tests.models.shops import offsets, random_candidates, random_catalog
from training.labels import Rule, label, rule


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
    shown = click | (torch.rand(item.shape, generator=g) < 0.5)
    position = torch.randint(1, 7, item.shape, generator=g) * shown
    return Outcomes(
        offsets(torch.tensor([len(p) for p in per])), item, shown, click, purchase, value, position
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(False, False), (True, False), (False, True)]))
def test_labels(seed: int, kind: tuple[bool, bool]) -> None:
    proxy, impressions = kind
    candidates, outcomes, leaf = random_candidates(seed), random_outcomes(seed), random_catalog(seed).leaf
    click, purchase, value, position, weight = label(candidates, outcomes, leaf, Rule(*kind))
    for row in range(4):
        o0, o1 = outcomes.offsets[row : row + 2].tolist()
        facts = {int(outcomes.item[o]): o for o in range(o0, o1)}
        bought = {item for item, o in facts.items() if outcomes.purchase[o]}
        leaves = {int(leaf[item]) for item in bought} - {0}
        c0, c1 = candidates.offsets[row : row + 2].tolist()
        for c in range(c0, c1):
            item = int(candidates.item[c])
            shown = item in facts and bool(outcomes.shown[facts[item]])
            assert position[c] == (outcomes.position[facts[item]] if item in facts else 0)
            assert weight[c] == (shown if impressions else 1)
            if impressions:
                clicked = item in facts and bool(outcomes.click[facts[item]])
                assert bool(click[c]) == clicked
                assert bool(purchase[c]) == (item in bought and clicked)
                assert value[c] == (outcomes.value[facts[item]] if item in bought and clicked else 0)
                continue
            assert bool(purchase[c]) == (item in bought)
            if proxy:
                assert bool(click[c]) == (item in bought or int(leaf[item]) in leaves)
            else:
                assert bool(click[c]) == (
                    item in bought or (item in facts and bool(outcomes.click[facts[item]]))
                )
            expected = float(outcomes.value[facts[item]]) if item in bought else 0.0
            assert abs(float(value[c]) - expected) < 1e-5


def test_only_shown_items_have_labels_where_every_split_has_impressions() -> None:
    logged = {"click": "logged", "impressions": {"train": 9, "validation": 3, "test": 3}}
    assert rule(logged) == Rule(proxy=False, impressions=True)
    assert rule(logged | {"impressions": {"train": 9, "validation": 0, "test": 3}}).impressions is False
    assert rule(logged | {"click": "leaf_category_proxy"}) == Rule(proxy=True, impressions=False)
