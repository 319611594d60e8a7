"""The candidates stage: the candidates of past checkouts, by the trained towers and the item lists."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from data.examples.splits import SPLITS
from data.io.parquet import count_rows, iter_slices
from training import candidates
from training.candidate_sources import open_source_tables
from training.checkout_sampling import count_retrieval_rows, first_ranker_row
from training.prepared_data import PreparedData
from training.retrieval_stage import load_query_tower
from training.slate_exclusion import SlateExclusion
from training.source_settings import source_settings
from training.stage_folders import is_done, lock_folder, stage_folder, write_stage_manifest


def gather_candidates(
    cfg: DictConfig,
    prepared: PreparedData,
    retrieval: Path,
    splits: tuple[str, ...] = SPLITS,
) -> Path:
    """Write the candidates of the ranker's training checkouts, validation and test; return their folder."""
    folder = stage_folder(
        cfg.paths.runs,
        "candidates",
        __name__,
        OmegaConf.create(source_settings(cfg.retrieval.sources)),  # their order gives the bits
        cfg.retrieval.train.share,
        cfg.ranker.train.max_checkouts,
        retrieval.name,
        splits,
    )
    with lock_folder(folder):
        if is_done(folder):
            return folder
        tower, catalog = load_query_tower(cfg, prepared, retrieval)
        trained = candidates.TrainedRetrieval(
            tower=tower,
            catalog=catalog,
            tables=open_source_tables(cfg, prepared, catalog),
            exclusion=SlateExclusion.of_folder(prepared.folder),
        )
        recall = {}
        for split in splits:
            examples = prepared.folder / "examples" / f"{split}.parquet"
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
