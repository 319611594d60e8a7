"""`features.drop` and `features.blocks`: which columns stay, and what is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ranking.features.interactions import InteractionFeatures
from models.ranking.features.user import GROWING_USER_FEATURES
from tests.models.shops import random_candidates, random_catalog, random_query
from tests.models.source_tables import SELECTION, SHIPPED_SCORED, SHIPPED_SOURCES

ALL = InteractionFeatures(categories=16, brands=5, has_content=True, selection=SELECTION)
COLUMNS = [
    column
    for column in ALL.all_columns(SHIPPED_SOURCES, SHIPPED_SCORED)
    if column.name not in GROWING_USER_FEATURES  # of earlier runs alone
]
BLOCKS = sorted({column.block for column in COLUMNS})


def select(has_content: bool = True, **selection: list[str]) -> InteractionFeatures:
    return InteractionFeatures(
        categories=16,
        brands=5,
        has_content=has_content,
        selection=replace(SELECTION, **selection),
    )


@settings(max_examples=25, deadline=None)
@given(
    blocks=st.none() | st.lists(st.sampled_from(BLOCKS), min_size=1, unique=True),
    drop=st.lists(st.sampled_from([column.name for column in COLUMNS]), max_size=4),
    seed=st.integers(0, 1000),
)
def test_selected_columns_are_those_of_all_features(
    blocks: list[str] | None, drop: list[str], seed: int
) -> None:
    kept = [c.name for c in COLUMNS if (blocks is None or c.block in blocks) and c.name not in drop]
    if not kept:
        return
    model = select(blocks=blocks, drop=drop)
    assert model.feature_names == kept
    query, candidates, catalog = (
        random_query(seed),
        random_candidates(seed, scored=len(SHIPPED_SCORED)),
        random_catalog(seed, content_dim=6),
    )
    features, log_spend = model(query, candidates, catalog)
    every_feature, same_spend = ALL(query, candidates, catalog)
    position = [ALL.feature_names.index(name) for name in kept]
    assert torch.equal(features, every_feature[:, position])
    assert torch.equal(log_spend, same_spend)


def test_patterns_drop_names_and_blocks() -> None:
    names = select(drop=["price_*", "views.*", "source_ease"]).feature_names
    dropped = set(ALL.feature_names) - set(names)
    assert dropped == {
        "price_known", "price_to_user_item_price", "price_to_user_mean_spend", "price_to_leaf", "clicks",
        "click_age", "source_ease",
    }  # fmt: skip


def test_a_shop_without_vectors_has_no_block_content() -> None:
    assert not any(name.startswith("content_") for name in select(has_content=False).feature_names)
    assert select(has_content=False, drop=["content_known"]).feature_names == ALL.feature_names[:-5]
    with pytest.raises(ValueError, match="leave no feature"):
        select(has_content=False, blocks=["content"])


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"drop": ["item_du"]}, r"features.drop: no feature fits 'item_du'. Did you mean item_due"),
        ({"drop": ["view.*"]}, r"no feature fits 'view.\*'. Did you mean views.\*"),
        ({"drop": ["zzzz_*"]}, r"Choose a feature of item, leaf, "),
        ({"blocks": ["zzzz"]}, r"Choose from item, leaf, "),
        ({"blocks": ["purchase"]}, r"features.blocks: there is no block 'purchase'. Did you mean purchases"),
        ({"blocks": []}, "leave no feature"),
        ({"drop": ["*"]}, "leave no feature"),
    ],
)
def test_wrong_names_are_refused(selection: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(**selection)
