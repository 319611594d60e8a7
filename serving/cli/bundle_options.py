"""Options of the commands that answer checkouts from a bundle; opens bundle, store and rules."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkout import Checkout
from ..command_line import option
from ..pipeline.rules.check import name_problems
from ..pipeline.rules.document import read_rules
from ..pipeline.slate_policy import SlatePolicy
from ..recommender import Recommender
from ..remote_copies import input_option
from ..storage.bundle_mirror import bundle_path
from ..stores.base import Store
from ..stores.uri import exported_store_path, open_store
from .live_state import apply_live_state


def trust_option() -> Any:
    """The option `--trust`, for commands that load versions."""
    return option(
        (),
        "public key (PEM), or a folder of them, that must have signed the version; repeatable",
        metavar="KEY",
    )


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """Options that name the bundle and the store. Raises ValueError for a value out of range."""

    bundle: Path = option(
        Path("bundle"), "bundle root or version folder; or s3://, gs://, abfs://", parse=bundle_path
    )
    store: str | None = option(
        None, "event store: a path, redis:// or valkey:// (default: store.arrow of the bundle root, if any)"
    )
    ts: int | None = option(
        None, "time of checkouts without a time, Unix seconds (default: the end of the bundle's data)"
    )
    revenue_weight: float | None = option(
        None, "from 0 (most purchases) to 1 (most revenue) (default: as exported)", metavar="W"
    )

    trust: tuple[Path, ...] = trust_option()
    rules: Path | None = input_option(None, "file of the shop's rules (docs/how_to/rules.md)", metavar="FILE")
    live: str | None = option(
        None, "live rules and items of the services: a file, redis:// or valkey:// (default: none)",
        metavar="URI",
    )  # fmt: skip

    def __post_init__(self) -> None:
        Checkout(None, [], self.ts)
        if self.revenue_weight is not None:
            SlatePolicy(revenue_weight=self.revenue_weight)

    def load_recommender(self) -> Recommender:
        """The recommender of the bundle, the store and the rules. Raises the errors of opening them.

        Rules that name something unknown or match no item are notes on stderr.
        """
        rules = {} if self.rules is None else read_rules(self.rules)
        recommender = Recommender.load(self.bundle, self.open_store(), self.trust)
        if self.live is not None:
            apply_live_state(recommender, self.live, rules)
        else:
            recommender.rules.replace(rules.values())
        compiled = recommender.rules.compiled
        for name, texts in ({} if compiled is None else name_problems(compiled)).items():
            print(f"note: rule '{name}': {'; '.join(texts)}", file=sys.stderr)
        return recommender

    def open_store(self) -> Store | None:
        """The store of --store, else the exported store. Raises as serving.stores.uri.open_store."""
        if self.store:
            return open_store(self.store, create=False)
        exported = exported_store_path(self.bundle)
        return None if exported is None else open_store(exported)

    def default_ts(self, recommender: Recommender) -> int:
        """`ts`, else the end of the bundle's data.

        The demo's log ended years ago, so with the current time all of its events would be old.
        """
        end: int = recommender.bundle.manifest["data"]["window"]["end"]
        return end if self.ts is None else self.ts
