"""Charts, tables and HTML pages from plain values; imports no other package of the repository."""
