"""Names of the candidate sources, and their bits in `Candidates.source_mask`."""

# Bit i of Candidates.source_mask is CANDIDATE_SOURCES[i].
CANDIDATE_SOURCES = ("ann", "buy_again", "co_purchase", "category", "popularity", "recency", "ease")
GLOBAL_SOURCES = ("popularity", "recency")  # the same items for all checkouts
EVENT_SOURCES = ("buy_again", "recency")  # rank a user's own items by decayed counts of events
LIST_SOURCES = ("co_purchase", "category", "ease")  # sum item lists over seed items
PERSONALISED_SOURCES = EVENT_SOURCES + LIST_SOURCES  # by position: `source` in keys and SourceRanking


def source_bit(source: str) -> int:
    """The bit of one of CANDIDATE_SOURCES in Candidates.source_mask."""
    return 1 << CANDIDATE_SOURCES.index(source)
