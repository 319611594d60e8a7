"""The real command with parts that fail: python -m tests.serving.resilience.broken HOW http --bundle …

HOW is `slow`: the ranker takes 30 ms more, or `hangs`: it never returns, nor does what writes to the store.
"""

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving import Recommender
from serving.__main__ import main
from serving.stores.base import Store
from serving.stores.sqlite import EmbeddedStore
from tests.serving.http.services import Slow

load, hanging = Recommender.load, sys.argv[1] == "hangs"


def hangs(*_: Any) -> Any:
    threading.Event().wait()


def loaded(path: str | Path, store: Store | str | Path | None = None) -> Recommender:
    recommender = load(path, store)
    ranker = hangs if hanging else Slow(recommender.bundle.ranker, 0.03)
    recommender.bundle = replace(recommender.bundle, ranker=ranker)
    return recommender


# Not below: a worker imports this module, too.
Recommender.load = loaded  # type: ignore[method-assign, assignment]
if hanging:
    EmbeddedStore.append = hangs  # type: ignore[method-assign]
if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
