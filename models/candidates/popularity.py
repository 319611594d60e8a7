"""`popularity`: the bestsellers of the last 28 days.

Table: `SourceInputs.bestsellers`, from the catalog. Seeds: none. All checkouts get the same items.
"""

from models.candidates.source import Source


def source(limit: int) -> Source:
    """The source."""
    return Source(limit, global_items=lambda inputs: inputs.bestsellers)
