"""The rules of a service, from a file and the live state.

A live rule replaces the file's rule of the same name.

rules.toml ──╮
live state ──┴─▶ rules by name ─ compiled for each version that serves ─▶ Recommender.rules
"""

import json
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..pipeline.rules.check import name_problems
from ..pipeline.rules.document import MAX_RULES, Rule, read_rule, read_rules
from ..recommender import Recommender
from ..resilience.deadline import error_message
from ..stores.live_state import Change
from .middleware import logger


class NamedRule(NamedTuple):
    """A rule and where it comes from."""

    rule: Rule
    source: str  # file or live


class RuleBook:
    """The rules in force, kept compiled for all recommenders that serve. Safe to share between threads.

    Args:
        file: TOML file of rules, which is read again when it changes; None for no file.
        poll_seconds: seconds between two checks of the file.

    Rules that name something unknown or match no item are logged: at start, when the file was read again,
    and when a version or a rule is new.

    Attributes:
        on_problems: called with the number of rules that are not in force or match nothing.

    Raises OSError or ValueError for a file that cannot be read.
    """

    def __init__(self, file: Path | None, poll_seconds: float = 1.0) -> None:
        self.file, self.poll_seconds = file, poll_seconds
        self.file_problem = ""  # why the file as it is now is not in force
        self.on_problems: Callable[[int], None] = lambda number: None
        self._reported: set[tuple[str, str, str]] = set()  # version, rule and text of each line
        self._live_problems: dict[str, str] = {}  # by rule
        self._file_rules: dict[str, Rule] = {}
        self._live_rules: dict[str, Rule] = {}
        self._recommenders: weakref.WeakSet[Recommender] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rules", daemon=True)
        self._file_state: Any = None
        if file is not None:
            self._file_state = _file_state(file)
            self._file_rules = read_rules(file)

    @property
    def rules(self) -> dict[str, NamedRule]:
        """All rules, by name."""
        with self._lock:
            rules = {name: NamedRule(rule, "file") for name, rule in self._file_rules.items()}
            rules |= {name: NamedRule(rule, "live") for name, rule in self._live_rules.items()}
        return dict(sorted(rules.items()))

    @property
    def problems(self) -> list[str]:
        """Reasons why some rules of the shop are not in force."""
        with self._lock:
            return [text for text in (self.file_problem, *self._live_problems.values()) if text]

    def attach(self, recommender: Recommender) -> None:
        """Compile the rules for a recommender, now and whenever they change."""
        with self._lock:
            self._recommenders.add(recommender)
            self._compile(recommender)
            self._report_problems()

    def reload(self) -> None:
        """Read the file again. Raises OSError or ValueError; the current rules then stay in force."""
        if self.file is None:
            return
        with self._lock:
            self._file_state = _file_state(self.file)
            try:
                self._file_rules = read_rules(self.file)
            except (OSError, ValueError) as error:
                self.file_problem = error_message(error)
                self._report_problems()
                raise
            self.file_problem = ""
            self._reported.clear()
            self._compile_all()

    def apply(self, changes: Sequence[Change], is_complete: bool) -> None:
        """Apply changes of the live state; a rule that cannot be read is logged and not in force."""
        with self._lock:
            if is_complete:
                self._live_rules, self._live_problems = {}, {}
            for _, name, value in changes:
                self._live_rules.pop(name, None)
                self._live_problems.pop(name, None)
                if value is None:
                    continue
                try:
                    self._live_rules[name] = read_rule(name, json.loads(value))
                except (ValueError, RecursionError) as error:
                    self._live_problems[name] = f"live rule '{name}': {error_message(error)}"
                    logger.error(self._live_problems[name])
            if len(self.rules) > MAX_RULES:
                logger.error("%d rules are in force, more than %d", len(self.rules), MAX_RULES)
            self._compile_all()

    def start(self) -> None:
        """Start checking the file for changes."""
        if self.file is not None:
            self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Stop checking the file."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _compile_all(self) -> None:
        for recommender in list(self._recommenders):
            try:
                self._compile(recommender)
            except Exception:
                logger.exception(
                    "%s keeps the earlier rules: the new ones failed", recommender.bundle.version
                )
        self._report_problems()

    def _compile(self, recommender: Recommender) -> None:
        recommender.rules.replace(named.rule for named in self.rules.values())

    def _report_problems(self) -> None:
        """Log each rule that names something unknown or matches no item, once, and count them."""
        found = set()
        for recommender in list(self._recommenders):
            compiled, version = recommender.rules.compiled, recommender.bundle.version
            if compiled is not None:
                found |= {(version, name, "; ".join(t)) for name, t in name_problems(compiled).items()}
        for version, name, text in sorted(found - self._reported):
            logger.warning("rule '%s' in bundle %s: %s", name, version, text)
        self._reported = found
        self.on_problems(len({name for _, name, _ in found}) + len(self.problems))

    def _watch(self) -> None:
        assert self.file is not None
        while not self._stop.wait(self.poll_seconds):
            if _file_state(self.file) == self._file_state:
                continue
            try:
                self.reload()
                n = len(self._file_rules)
                logger.info("rules are read again: %d rule%s in %s", n, "s" * (n != 1), self.file)
            except (OSError, ValueError) as error:
                logger.error("the earlier rules stay in force: %s", error_message(error))
            except Exception:
                logger.exception("the rules could not be read")


def _file_state(file: Path) -> Any:
    """A value that changes when the file is written or replaced; None without a file."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
