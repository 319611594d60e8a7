"""Charts, tables and HTML pages of plain values; it imports no other room."""
