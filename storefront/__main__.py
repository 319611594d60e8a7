"""`python -m storefront`: open the shop until a signal."""

import argparse
import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa

from serving import BundleError, open_store
from serving.http.backends import exported_store_path
from serving.http.settings import Settings
from serving.progress import ProgressReporter
from serving.storage.bundle import version_folder
from serving.stores.loading import bulk_load

EPILOG = """\
Orders go into a copy of the bundle's store.arrow that is made at every start: one that was paid counts in the
next slate, and none outlives the shop. Slates, clicks and purchases are logged, and stay.
exit codes: 0 closed, 1 it cannot start, 2 wrong arguments"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the store, serve. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m storefront",
        description="Open a small shop on a bundle's data, to see six more items after a checkout.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=Path("bundle"), help="bundle root or version folder (default: bundle)")
    add("--port", type=int, default=8000, help="default: 8000; 0 for any that is free")
    add(
        "--folder", type=Path, default=Path("artifacts/shop"),
        help="where store.db and the impression log, events/, are (default: artifacts/shop)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if not 0 <= options.port < 65536:
        parser.error("--port must be 0 to 65535")  # exits with 2
    try:
        from serving.http import server
        from storefront.app import create_shop_app
    except ImportError as error:
        print(f"error: {error}. To do: pip install 'sextet[http]'", file=sys.stderr)
        return 1
    try:
        version_folder(options.bundle)
        with lock_folder(options.folder):
            source = exported_store_path(options.bundle)
            store = rebuild_store(options.folder / "store.db", source)
            settings = Settings(options.bundle, str(store), options.folder / "events")
            server.serve(partial(create_shop_app, settings, source), "127.0.0.1", options.port, workers=1)
    except (BundleError, OSError, ValueError, pa.ArrowException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make the folder and keep other shops out of it. Raises OSError if one is open there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"{folder}: a shop is open there. To do: close it, or name another --folder"
            ) from None
        yield


def rebuild_store(path: Path, exported_store: Path | None) -> Path:
    """The store at `path`, made anew: an old one may be another shop's, and its orders lie in the future."""
    for file in path.parent.glob(f"{path.name}*"):  # with its write-ahead log
        file.unlink()
    store = open_store(path)
    try:
        if exported_store is not None:
            progress = ProgressReporter()
            print(
                f"{path}: {progress.format_line(bulk_load(store, exported_store, progress))} from {exported_store}",
                flush=True,
            )
    finally:
        store.close()
    return path


if __name__ == "__main__":
    sys.exit(main())
