"""`python -m sextet`; in the repository `python -m serving`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main(prog=f"python -m {__package__}"))
