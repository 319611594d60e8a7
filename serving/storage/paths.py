"""Names in a bundle root."""

CURRENT = "current"  # the link to the version that serves
CHALLENGER_FOLDER = ".challenger"  # versions that retraining made and did not publish
