"""The diagrams of the documentation, as SVG for light and dark mode. `make pictures` writes the files."""
