"""The rules of the shop for one loaded bundle. Rules and items can change while the bundle serves."""

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .catalog import ItemTexts, RuleCatalog
from .compiled import CompiledRules
from .document import Rule


class RuleSet:
    """The rules in force. Safe to share between threads; a request reads `compiled` once.

    Attributes:
        compiled: None for no rules.
    """

    def __init__(self, catalog: RuleCatalog) -> None:
        self.catalog = catalog
        self.compiled: CompiledRules | None = None
        # Rules come from a file and a route, items from another thread: each builds on what the other did.
        self._lock = threading.Lock()

    def replace(self, rules: Iterable[Rule]) -> None:
        """Replace the rules."""
        rules = tuple(rules)
        with self._lock:
            self.compiled = CompiledRules(rules, self.catalog, self.compiled) if rules else None

    def update_items(self, rows: NDArray[np.int64], new_items: dict[int, ItemTexts]) -> None:
        """Match the items at `rows` [n] again, because their prices or the items themselves changed.

        Args:
            new_items: row → texts of all items that the bundle lacks.
        """
        with self._lock:
            self.catalog.new_items = new_items
            if self.compiled is not None:
                rules = [entry.rule for entry in self.compiled.rules]
                self.compiled = CompiledRules(rules, self.catalog, self.compiled, rows)
