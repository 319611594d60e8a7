"""The diagrams of the documentation, as SVG that follows light and dark mode. `make pictures` writes them."""
