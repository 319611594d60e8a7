"""Selection of the ranker's features, for ablations: the blocks to keep and the features to drop."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from models.suggestions import suggest


class FeatureColumn(NamedTuple):
    """The name of a feature, and the name of its block."""

    block: str
    name: str


@dataclass(frozen=True, kw_only=True)
class FeatureSelection:
    """Configuration of the ranker's features.

    Args:
        drop: features to leave out: names, or patterns of names (`price_*`, `views.*` for a whole block).
        blocks: the blocks to keep; None for all.
        sources: names of the candidate sources, by bit of `Candidates.source_mask`. Each source gives a
            feature.
        scored: names of the sources by column of `Candidates.list_scores`. Each source gives two features.
        relative: whether counts and money are relative to the shop's usual item, and features that grow with
        the length of the log are left out. False: absolute features, as in runs before config version 4.
    """

    drop: Sequence[str] = ()
    blocks: Sequence[str] | None = None
    sources: Sequence[str] = ()
    relative: bool = True
    scored: Sequence[str] = ()


def select_columns(columns: Sequence[FeatureColumn], selection: FeatureSelection) -> list[int]:
    """Positions of the selected columns, rising.

    Raises ValueError for a block, name or pattern that matches no column. The message suggests similar names.
    """
    blocks = list(dict.fromkeys(column.block for column in columns))
    for block in selection.blocks or ():
        if block not in blocks:
            hint = suggest(block, blocks) or f" Choose from {', '.join(blocks)}"
            raise ValueError(f"features.blocks: there is no block {block!r}.{hint}")
    for pattern in selection.drop:
        if not any(_matches(column, pattern) for column in columns):
            raise ValueError(
                f"features.drop: no feature fits {pattern!r}.{_suggest_patterns(pattern, columns, blocks)}"
            )
    return [
        i
        for i, column in enumerate(columns)
        if (selection.blocks is None or column.block in selection.blocks)
        and not any(_matches(column, pattern) for pattern in selection.drop)
    ]


def _matches(column: FeatureColumn, pattern: str) -> bool:
    """Whether a pattern of names, or of `block.name`, matches the column."""
    return fnmatchcase(f"{column.block}.{column.name}" if "." in pattern else column.name, pattern)


def _suggest_patterns(pattern: str, columns: Sequence[FeatureColumn], blocks: list[str]) -> str:
    """Suggests similar names or, if no name is similar, all blocks."""
    names = [f"{column.block}.{column.name}" if "." in pattern else column.name for column in columns]
    valid_names = [*names, *(f"{block}.*" for block in blocks)]
    return suggest(pattern, valid_names) or f" Choose a feature of {', '.join(blocks)}"
