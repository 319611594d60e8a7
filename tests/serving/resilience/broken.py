"""The real command with failing parts: python -m tests.serving.resilience.broken HOW serve --bundle …

HOW is `slow` (the ranker takes 30 ms longer) or `hangs` (the ranker and writes to the store never return).
"""

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving import Recommender
from serving.cli import main
from serving.stores.base import Store
from serving.stores.sqlite import EmbeddedStore
from tests.serving.http.services import Slow

load, is_hanging = Recommender.load, sys.argv[1] == "hangs"


def hang(*_: Any) -> Any:
    threading.Event().wait()


def load_broken(path: str | Path, store: Store | str | Path | None = None) -> Recommender:
    recommender = load(path, store)
    ranker = hang if is_hanging else Slow(recommender.bundle.ranker, 0.03)
    recommender.bundle = replace(recommender.bundle, ranker=ranker)
    return recommender


# At import, because a worker imports this module too.
Recommender.load = load_broken  # type: ignore[method-assign, assignment]
if is_hanging:
    EmbeddedStore.append = hang  # type: ignore[method-assign]
if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
