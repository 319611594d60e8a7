"""`python -m documentation.pictures`: write the diagrams to docs/pictures/."""

import sys

from documentation.markdown import DOCS
from documentation.pictures.drawings import DRAWINGS


def main() -> int:
    """Write the files and print their names. Returns the exit code."""
    for name, draw in DRAWINGS.items():
        file = DOCS / "pictures" / f"{name}.svg"
        file.write_text(draw().svg())
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
