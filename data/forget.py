"""Finds folders that still hold a forgotten user: `python -m data.forget U17 --prepared artifacts`.

A prepared folder holds the data of all users of its input. A run holds every user of its prepared folder: its
weights learned from their data, and its pages show slates of some of them. A folder made with `data.forget`
holds no user of the list that this setting names. Delete the folders that the command prints.
"""

import json
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.io.folders import META_FILE
from serving.command_line import argument, option, run
from serving.forget.user_list import read_user_list


@dataclass(frozen=True, kw_only=True)
class FindOptions:
    """Print the prepared and run folders that hold the given users, so that you can delete them.

    example: %(prog)s U17 --prepared artifacts/prepared artifacts/runs
    exit codes: 0 no folder holds one of them, 1 some do or cannot be read, 2 wrong arguments
    """

    user_ids: tuple[str, ...] = argument("ids of users", default=(), metavar="USER")
    source: Path | None = option(None, "file of user ids, one a line", flag="--from", metavar="FILE")
    prepared: tuple[Path, ...] = option(
        (Path("artifacts/prepared"), Path("artifacts/runs")), "folders to look through", metavar="DIR"
    )

    def __post_init__(self) -> None:
        if not self.user_ids and self.source is None:
            raise ValueError("name users, or a file of their ids: --from FILE")


def forget(options: FindOptions) -> int:
    """Print the folders. Returns the exit code."""
    listed = [] if options.source is None else read_user_list(options.source)
    users = pa.array(sorted({*options.user_ids, *listed}), pa.string())
    prepared: set[str] = set()
    n_folders = 0
    for root in options.prepared:
        for folder, reason in folders_with_users(root, users, prepared):
            print(f"{folder}: {reason}")
            n_folders += 1
    roots = ", ".join(str(root) for root in options.prepared)
    print(f"{n_folders} folder(s) below {roots} hold one of {len(users)} user(s)", file=sys.stderr)
    return 1 if n_folders else 0


def folders_with_users(root: Path, users: pa.Array, prepared: set[str]) -> Iterator[tuple[Path, str]]:
    """The folders below `root` that hold one of the users, each with the reason.

    Args:
        prepared: names of prepared folders that hold one of the users. Runs on these folders hold the user
            too. The function adds such folders below `root`.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for folder in folders:
        if folder.is_symlink():
            continue
        if reason := _reason(folder, users, prepared):
            if (folder / META_FILE).is_file():
                prepared.add(folder.name)
            yield folder, reason


def _reason(folder: Path, users: pa.Array, prepared: Collection[str]) -> str:
    """Why a folder holds one of the users, or may hold one. "" if it does not."""
    done = folder / "done.json"
    try:
        if done.is_file() and (source := json.loads(done.read_text()).get("prepared")):
            origin = folder / str(source)
            if origin.name in prepared:
                return f"made from the prepared folder {origin.name}"
            if not origin.is_dir():
                return f"made from the prepared folder {origin.name}, which is gone: it may hold them"
        for file in sorted(folder.rglob("*.parquet")):
            if _holds(file, users):
                return f"{file.relative_to(folder)} holds one of the users"
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"it cannot be read: {error}"
    return ""


def _holds(file: Path, users: pa.Array) -> bool:
    parquet = pq.ParquetFile(file)
    if "user_id" not in parquet.schema_arrow.names:
        return False
    batches = parquet.iter_batches(columns=["user_id"])
    return any(pc.any(pc.is_in(batch["user_id"].cast(pa.string()), users)).as_py() for batch in batches)


if __name__ == "__main__":
    sys.exit(run("python -m data.forget", forget, errors=(OSError, ValueError)))
