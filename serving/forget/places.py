"""Default places of a service's files."""

from pathlib import Path

from ..files import is_uri
from ..storage.bundle_mirror import is_mirror

USER_LIST = "forgotten.txt"


def user_list_path(store: str | None, log: Path | None, bundle: Path | None) -> Path | None:
    """The path of the list for training; None if no place has a local folder.

    The list lies beside the log, where the tables of the shop are, else beside the store's file, else in the
    bundle root.
    """
    if log is not None:
        return log.parent / USER_LIST
    if store is not None and not is_uri(store):
        return Path(store).parent / USER_LIST
    return None if bundle is None or is_mirror(bundle) else bundle / USER_LIST
