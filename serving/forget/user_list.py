"""Reads and writes lists of the users to forget, as text files. Training drops these users (`data.forget`).

A line is an id; blank lines and lines that begin with # are ignored. An id that begins with #, or holds
special characters, is written as a JSON string: "#7".
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from ..files import flush_to_disk, lock_file


def read_user_list(path: Path) -> list[str]:
    """The ids of a list, each once. Raises OSError, or ValueError for a file that is not a list of ids."""
    ids = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if text and not text.startswith("#"):
                ids.append(_parse(text, f"{path}: line {number}"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the file is not UTF-8 text: {error}") from error
    return list(dict.fromkeys(ids))


def append_to_user_list(path: Path, user_ids: Iterable[str]) -> int:
    """Add the ids that the list lacks, and flush the file to the disk. A missing file is created.

    Returns the number of added ids. Raises as `read_user_list`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(path.with_name(f".{path.name}.lock")):
        known = set(read_user_list(path)) if path.exists() else set()
        new = [user_id for user_id in dict.fromkeys(user_ids) if user_id not in known]
        if new:
            # A line that a killed process left unfinished ends here.
            is_torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
            with path.open("ab") as file:
                file.write(("\n" * is_torn + "".join(f"{_line(user_id)}\n" for user_id in new)).encode())
                file.flush()
                os.fsync(file.fileno())
            flush_to_disk(path.parent)
    return len(new)


def _parse(text: str, place: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        user_id = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: a line that begins with a quote is a JSON string: {error}") from error
    if not isinstance(user_id, str) or not user_id:
        raise ValueError(f"{place}: expected the id of a user")
    return user_id


def _line(user_id: str) -> str:
    is_plain = user_id.strip() == user_id and user_id[:1] not in ("#", '"') and len(user_id.splitlines()) == 1
    return user_id if is_plain else json.dumps(user_id)
