"""Blocks of features: NamedTuples whose fields are the features of (checkout, candidate) pairs.

A field defines a feature's name and holds its value. The fields of the blocks give names and order of the
columns (`block_columns`). TorchScript resolves fields at compile time.
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
    """The features in a NamedTuple of blocks, in order.

    The name of a block is its field in that NamedTuple.
    """
    types = get_type_hints(blocks)
    return [FeatureColumn(block, name) for block in types for name in types[block]._fields]
