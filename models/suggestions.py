"""Suggestions for a name that does not exist."""

import difflib
from collections.abc import Sequence


def suggest(name: str, valid_names: Sequence[str]) -> str:
    """Suggests up to three similar valid names: ` Did you mean a or b?` "" if no valid name is similar."""
    matches = difflib.get_close_matches(name, valid_names, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(matches)}?" if matches else ""
