"""Blocks of features: NamedTuples whose fields are the features of (checkout, candidate) pairs.

A feature has its name and its value in one place, the field. Names and order of the columns follow from the
fields of the blocks (`block_columns`), and TorchScript resolves fields at compile time.
"""

from typing import NamedTuple, get_type_hints

from torch import Tensor

from models.ranking.features.selection import FeatureColumn
from models.schema import Candidates, Catalog, Query


class PairInputs(NamedTuple):
    """The inputs that blocks share, for ΣC (checkout, candidate) pairs of B checkouts."""

    query: Query
    candidates: Candidates
    catalog: Catalog
    checkout: Tensor  # [ΣC] int64, the checkout of each pair
    event_checkout: Tensor  # [ΣH] int64, the checkout of each event of the history
    event_age: Tensor  # [ΣH] float32, days


def block_columns(blocks: type) -> list[FeatureColumn]:
    """The features in a NamedTuple of blocks, in order; the field of a block is the block's name."""
    types = get_type_hints(blocks)
    return [FeatureColumn(block, name) for block in types for name in types[block]._fields]
