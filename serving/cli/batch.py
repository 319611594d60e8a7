"""`batch`: write the slates of a file of checkouts."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch

from ..batch.recommend import BATCH_SIZE, BatchJob, run_batch_job
from ..batch.rows import CHECKOUT_ID, INPUT_SCHEMA
from ..command_line import option
from ..progress import ProgressReporter
from ..remote_copies import input_option
from .bundle_options import BundleOptions


@dataclass(frozen=True, kw_only=True)
class BatchOptions(BundleOptions):
    """Write the slates of all checkouts of a Parquet file.

    example: %(prog)s --bundle bundle --checkouts checkouts.parquet --out slates.parquet
    The columns are listed in docs/reference/batch_files.md; user_id and basket_item_id are required. No
    experiment assigns or withholds slates here.
    exit codes: 0 written, 1 the bundle, store or file cannot serve or a row is bad, 2 wrong arguments
    """

    checkouts: Path = input_option(..., "Parquet file with a row per checkout")
    out: Path = option(..., "Parquet file to write, a row per checkout")
    batch_size: int = option(BATCH_SIZE, "number of checkouts per batch")
    threads: int | None = option(None, "batches answered at the same time (default: one per core)")
    skip_bad_rows: bool = option(
        False, "write invalid rows without items and with a reason, instead of stopping"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError("--batch-size and --threads must be 1 or more")
        if not self.out.parent.is_dir() or self.out.is_dir():
            raise ValueError(f"--out {self.out}: expected a file in a folder that exists")
        if self.out.exists() and self.checkouts.exists() and self.out.samefile(self.checkouts):
            raise ValueError(f"--out {self.out}: the slates would replace the checkouts: name another file")


def batch(options: BatchOptions) -> int:
    """Write the slates. Returns the exit code."""
    columns = pq.read_schema(options.checkouts).names
    if unread := [name for name in columns if name not in (*INPUT_SCHEMA, CHECKOUT_ID)]:
        print(f"note: columns that are not read: {', '.join(unread)}", file=sys.stderr)
    threads = torch.get_num_threads() if options.threads is None else options.threads
    recommender = options.load_recommender()
    if recommender.store is None:
        print("note: there is no event store: only the file's own history counts", file=sys.stderr)
    job = BatchJob(
        options.checkouts, options.out, options.default_ts(recommender), options.revenue_weight,
        options.batch_size, threads, options.skip_bad_rows,
    )  # fmt: skip
    progress = ProgressReporter()
    tiers = run_batch_job(recommender, job, progress.update)
    counts = ", ".join(f"{count:,} {tier}" for tier, count in tiers.most_common())
    print(f"{options.out}: {progress.format_line(tiers.total())}; tiers: {counts or 'none'}", file=sys.stderr)
    return 0
