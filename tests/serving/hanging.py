"""The real command with parts that hang for good: python -m tests.serving.hanging http --bundle …

The ranker never returns, and neither does what writes to the store.
"""

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving import Recommender
from serving.__main__ import main
from serving.store import Store
from serving.store_embedded import EmbeddedStore

load = Recommender.load


def hangs(*_: Any) -> Any:
    threading.Event().wait()


def loaded(path: str | Path, store: Store | str | Path | None = None) -> Recommender:
    recommender = load(path, store)
    recommender.bundle = replace(recommender.bundle, ranker=hangs)
    return recommender


Recommender.load = loaded  # type: ignore[method-assign, assignment]
EmbeddedStore.append = hangs  # type: ignore[method-assign]
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
