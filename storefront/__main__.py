"""`python -m storefront`: a small shop on a bundle, until a signal."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from serving import BundleError, open_store
from serving.command_line import option, run
from serving.progress import ProgressReporter
from serving.storage.bundle import version_folder
from serving.storage.bundle_mirror import bundle_path
from serving.stores.loading import bulk_load
from serving.stores.uri import exported_store_path


@dataclass(frozen=True, kw_only=True)
class ShopOptions:
    """Open a small shop on a bundle's data, to see six more items after a checkout.

    Orders go into a copy of the bundle's store.arrow, made at every start: a paid order affects the next
    slate and is gone when the shop closes. Slates, clicks and purchases are logged permanently.
    exit codes: 0 closed, 1 the shop cannot start, 2 wrong arguments
    """

    bundle: Path = option(Path("bundle"), "bundle root or version folder", parse=bundle_path)
    port: int = option(8000, "port; 0 for any free port")
    data_dir: Path = option(Path("artifacts/shop"), "folder of store.db and of the impression log, events/")
    experiments: Path | None = option(None, "TOML file of experiments, such as one that withholds slates")

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError("--port must be 0 to 65535")


def open_shop(options: ShopOptions) -> int:
    """Fill the store and serve until a signal. Returns the exit code."""
    from serving.http import server  # here, because it needs the extra `http`
    from serving.http.settings import Settings
    from storefront.app import create_shop_app

    version_folder(options.bundle)
    with lock_folder(options.data_dir):
        exported_store = exported_store_path(options.bundle)
        store = rebuild_store(options.data_dir / "store.db", exported_store)
        log = options.data_dir / "events"
        settings = Settings(options.bundle, str(store), log=log, experiments=options.experiments)
        app_factory = partial(create_shop_app, settings, exported_store)
        with suppress(KeyboardInterrupt):
            server.serve(app_factory, "127.0.0.1", options.port, workers=1)
    return 0


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Create the folder and lock it against other shops. Raises OSError if another shop uses it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        acquired = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout:
        raise OSError(f"{folder}: another shop uses it: close it or name another --data-dir") from None
    with acquired:
        yield


def rebuild_store(path: Path, exported_store: Path | None) -> Path:
    """Replace the store at `path` by a copy of the exported one.

    An earlier store may belong to another bundle, and its orders would lie in the future.
    """
    for file in path.parent.glob(f"{path.name}*"):  # with its write-ahead log
        file.unlink()
    store = open_store(path)
    try:
        if exported_store is not None:
            progress = ProgressReporter()
            counts = bulk_load(store, exported_store, progress.update)
            print(f"{path}: {progress.format_line(counts)} from {exported_store}", flush=True)
    finally:
        store.close()
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    errors = (BundleError, OSError, ValueError, ImportError, pa.ArrowException)
    return run("python -m storefront", open_shop, arguments=arguments, errors=errors)


if __name__ == "__main__":
    sys.exit(main())
