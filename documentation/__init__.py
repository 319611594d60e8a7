"""The documentation site: hooks of MkDocs, the generated reference, the pictures. `make docs` runs it."""
