"""The command `sextet`, with a file for each subcommand.

`python -m sextet` is the same command; in the repository it is `python -m serving`.
"""

import sys
from collections.abc import Sequence

import pyarrow as pa

from ..command_line import run
from ..storage.bundle import BundleError
from .batch import batch
from .embeddings import embeddings
from .forget import forget
from .items import items
from .load import load
from .pull import pull
from .recommend import recommend
from .rollback import rollback
from .rules import rules
from .serve import serve
from .store import store

COMMANDS = (recommend, batch, embeddings, load, store, items, serve, rollback, pull, rules, forget)
ERRORS = (BundleError, OSError, ValueError, ImportError, pa.ArrowException)
RENAMED_COMMANDS = {"http": "serve"}


def main(arguments: Sequence[str] | None = None, prog: str = "sextet") -> int:
    """Run the command in `arguments`, by default those of the process. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and (new_name := RENAMED_COMMANDS.get(arguments[0])):
        print(f"error: `{arguments[0]}` is now `{new_name}`: {prog} {new_name}", file=sys.stderr)
        return 2
    description = "Recommend six items after a checkout, from a bundle."
    return run(prog, *COMMANDS, description=description, arguments=arguments, errors=ERRORS)
