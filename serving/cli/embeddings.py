"""`embeddings`: write the vectors of items and users."""

import sys
from dataclasses import dataclass
from pathlib import Path

from ..batch.embeddings import write_item_vectors, write_user_vectors
from ..command_line import option
from ..progress import ProgressReporter
from ..stores.arrow import ArrowStore
from .bundle_options import BundleOptions


@dataclass(frozen=True, kw_only=True)
class EmbeddingsOptions(BundleOptions):
    """Write the vectors of all items of a bundle, and of all users of its exported store, as Parquet.

    example: %(prog)s --bundle bundle --out embeddings
    The inner product of a user's and an item's vector is the retrieval score.
    exit codes: 0 written, 1 the bundle or store cannot be used, 2 wrong arguments
    """

    out: Path = option(Path("embeddings"), "folder for items.parquet and users.parquet")


def embeddings(options: EmbeddingsOptions) -> int:
    """Write the vectors. Returns the exit code."""
    recommender = options.load_recommender()
    options.out.mkdir(parents=True, exist_ok=True)
    n_items = write_item_vectors(recommender, options.out / "items.parquet")
    print(f"{options.out / 'items.parquet'}: {n_items:,} item{'s' * (n_items != 1)}", file=sys.stderr)
    store = recommender.store
    if not isinstance(store, ArrowStore):
        print("note: users.parquet is not written: only an exported store lists its users", file=sys.stderr)
        return 0
    progress = ProgressReporter()
    file, ts = options.out / "users.parquet", options.default_ts(recommender)
    n_users = write_user_vectors(recommender, store.iter_users(), file, ts, progress.update)
    print(f"{file}: {n_users:,} user{'s' * (n_users != 1)}", file=sys.stderr)
    return 0
