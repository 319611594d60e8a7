"""The configured candidate sources with their tables as of a snapshot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from data.catalog import ItemNeighbours, load_neighbours
from models.candidates.item_lists import ItemLists
from models.candidates.source import INDEX_SOURCE, Source, SourceInputs
from models.candidates.sources import CandidateSources
from models.schema import Catalog
from training.errors import ConfigError
from training.prepared_data import PreparedData
from training.source_settings import CONFIG_KEY, parse_sources, scored_source_names


@dataclass(frozen=True, kw_only=True)
class SourceTables:
    """The sources of a run, and the prepared data from which their tables are made."""

    sources: Mapping[str, Source]
    catalog: Catalog  # all snapshots
    neighbours: Mapping[str, Mapping[int, ItemNeighbours]]  # prepared file → snapshot → neighbours
    snapshot_dates: list[int]  # Unix seconds
    folder: Path  # prepared
    scored: Sequence[str] | None = None  # sources by column of Candidates.list_scores; None: all with lists

    @property
    def n_index_candidates(self) -> int:
        """Items that the index returns for each checkout. 0 if no source searches the index."""
        return self.sources[INDEX_SOURCE].limit if INDEX_SOURCE in self.sources else 0

    def candidate_sources(self, snapshot: int) -> CandidateSources:
        """The sources with tables as of `snapshot`.

        Neighbours come from the latest table at or before `snapshot`.

        Raises ConfigError for a source whose table cannot be used.
        """
        n_items = self.catalog.leaf.numel()
        inputs = SourceInputs(
            catalog=self.catalog,
            snapshot=snapshot,
            snapshot_ts=self.snapshot_dates[snapshot],
            neighbours={
                file: ItemLists(*neighbours_at(tables, snapshot, n_items))
                for file, tables in self.neighbours.items()
            },
            prepared_folder=self.folder,
        )
        try:
            return CandidateSources(self.sources, inputs, scored=self.scored)
        except ValueError as error:
            raise ConfigError(f"{CONFIG_KEY}: {error}") from error


def open_source_tables(cfg: DictConfig, prepared: PreparedData, catalog: Catalog) -> SourceTables:
    """The sources of a config over a prepared folder.

    Raises ConfigError for an unknown or unsuitable source, DataError for a table that was not prepared.
    """
    sources = parse_sources(cfg.retrieval.sources)
    files = dict.fromkeys(source.neighbours_file for source in sources.values())
    return SourceTables(
        sources=sources,
        catalog=catalog,
        neighbours={
            file: load_neighbours(prepared.folder, prepared.table_sizes["items"], file)
            for file in files
            if file is not None
        },
        snapshot_dates=prepared.meta["snapshot_dates"],
        folder=prepared.folder,
        scored=scored_source_names(cfg),
    )


def neighbours_at(tables: Mapping[int, ItemNeighbours], snapshot: int, items: int) -> ItemNeighbours:
    """The latest table at or before `snapshot`.

    Before the first table: an empty table of `items` rows (N+1).
    """
    usable = [table_snapshot for table_snapshot in tables if table_snapshot <= snapshot]
    if usable:
        return tables[max(usable)]
    no_items = torch.zeros(0, dtype=torch.int64)
    return ItemNeighbours(torch.zeros(items + 1, dtype=torch.int64), no_items, torch.zeros(0))
