"""The documentation site: MkDocs hooks, the generated reference, the pictures. `make docs` builds it."""
