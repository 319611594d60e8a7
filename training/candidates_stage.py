"""The candidates stage: candidates of past checkouts from the trained towers and the item lists."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from data.examples.splits import CENSORED, SPLITS
from data.io.parquet import count_rows, iter_slices, sample_rows
from training import candidates
from training.candidate_sources import open_source_tables
from training.checkout_sampling import MAX_RECENT_CHECKOUTS, count_retrieval_rows, first_ranker_row
from training.prepared_data import PreparedData
from training.retrieval_stage import load_query_tower, towers_of_split
from training.slate_exclusion import SlateExclusion
from training.source_settings import scored_source_names, source_settings
from training.stage_folders import fetch_stage, lock_folder, stage_folder, write_stage_manifest


def gather_candidates(
    cfg: DictConfig,
    prepared: PreparedData,
    retrieval: Path,
    splits: tuple[str, ...] = (*SPLITS, *CENSORED),
) -> Path:
    """Write the candidates of the ranker's training checkouts and of the other splits. Return their folder.

    Each split uses its `towers_of_split`. Censored checkouts are sampled, because they are only used to set
    the level of the tasks.
    """
    folder = stage_folder(
        cfg.paths.runs,
        "candidates",
        __name__,
        OmegaConf.create(source_settings(cfg.retrieval.sources)),  # the order of the sources gives the bits
        scored_source_names(cfg),
        cfg.retrieval.train.share,
        cfg.ranker.train.max_checkouts,
        retrieval.name,
        splits,
    )
    with lock_folder(folder):
        if fetch_stage(folder):
            return folder
        recall = {}
        tables = open_source_tables(cfg, prepared, prepared.catalog)
        exclusion = SlateExclusion.of_folder(prepared.folder)
        for split in splits:
            tower, catalog = load_query_tower(cfg, prepared, towers_of_split(retrieval, split))
            trained = candidates.TrainedRetrieval(
                tower=tower, catalog=catalog, tables=tables, exclusion=exclusion
            )
            examples = prepared.folder / "examples" / f"{split}.parquet"
            if split in CENSORED:
                if examples.is_file():
                    sample = list(sample_rows(examples, MAX_RECENT_CHECKOUTS))
                    candidates.write_candidates(
                        trained, sample, sum(map(len, sample)), folder / f"{split}.parquet"
                    )
                continue
            stop, start = count_rows(examples), 0
            if split == "train":
                n_retrieval_rows = count_retrieval_rows(stop, cfg.retrieval.train.share)
                start = first_ranker_row(examples, n_retrieval_rows, prepared.meta["horizon"])
                start = max(start, stop - cfg.ranker.train.max_checkouts)
            chunks = iter_slices(examples, None, start, stop, candidates.CHECKOUTS_PER_CHUNK)
            recall[split] = candidates.write_candidates(
                trained, chunks, stop - start, folder / f"{split}.parquet"
            )
        write_stage_manifest(folder, {"recall": recall})
    return folder
