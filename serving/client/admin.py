"""`SextetAdminClient`: the routes of administrators as methods."""

import json
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from .calls import JsonCaller, path_of
from .values import ItemPatch, ItemResult, LiveValue, Removal, RuleState, RuleStates, ServedItem


class SextetAdminClient:
    """A client of the administrators' routes. Threads may share it.

    Calls are safe to repeat. All calls except `delete_rule` are sent again once if an idle connection was
    closed.

    Args:
        url: the URL of the service, with its path prefix.
        admin_key: a line of the file of --admin-key-file.
        timeout: seconds for a whole call.
        max_idle: maximum number of idle connections that are kept open.
        context: TLS context; None for that of the system.

    Raises ValueError as `SextetClient` does.
    """

    def __init__(
        self, url: str, admin_key: str, *, timeout: float = 30.0, max_idle: int = 4,
        context: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._caller = JsonCaller(url, admin_key, timeout, max_idle, context)

    def put_items(self, patches: Sequence[ItemPatch]) -> tuple[ItemResult, ...]:
        """Change stock, prices and texts of items, and add items.

        Returns one result per item, in order. Either all changes are written or none. Raises SextetError.
        """
        body = json.dumps(list(patches)).encode()
        return self._caller.call("PUT", "/v1/items", _item_results, body, repeatable=True)

    def get_item(self, item_id: str) -> ServedItem:
        """The current state of an item. Raises SextetError, with status 404 for an unknown item."""
        return self._caller.call("GET", path_of("v1", "items", item_id), _served_item, repeatable=True)

    def delete_item(self, item_id: str) -> int:
        """Remove the live values of an item, so that the bundle's values apply again. Returns their number.

        Raises SextetError.
        """
        return self._caller.call("DELETE", path_of("v1", "items", item_id), _n_forgotten, repeatable=True)

    def list_rules(self) -> RuleStates:
        """The rules of the shop, and their problems. Raises SextetError."""
        return self._caller.call("GET", "/v1/rules", _rule_states, repeatable=True)

    def put_rule(self, name: str, rule: Mapping[str, Any]) -> RuleState:
        """Add or replace a live rule, such as {"hide": {"category": "pets"}}; docs/how_to/rules.md has all
        kinds.

        Raises SextetError.
        """
        body = json.dumps(dict(rule)).encode()
        return self._caller.call("PUT", path_of("v1", "rules", name), _rule_state, body, repeatable=True)

    def delete_rule(self, name: str) -> None:
        """Remove a live rule. Raises SextetError: 404 for an unknown name, 409 for a rule of the file."""
        self._caller.call("DELETE", path_of("v1", "rules", name), dict)

    def forget_user(self, user_id: str, timeout: float = 600.0) -> Removal:
        """Remove a user from all places of the service; repeat the call while places are waiting.

        Args:
            timeout: seconds. A large log or store takes minutes.

        Raises SextetError.
        """
        path = path_of("v1", "users", user_id)
        return self._caller.call("DELETE", path, _removal, repeatable=True, timeout=timeout)

    def close(self) -> None:
        """Close the idle connections."""
        self._caller.close()

    def __enter__(self) -> "SextetAdminClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _item_results(content: Any) -> tuple[ItemResult, ...]:
    return tuple(
        ItemResult(
            item["item_id"], item["result"], item["available"], item["price"], tuple(item["waits"]),
            item["detail"],
        )
        for item in content["items"]
    )  # fmt: skip


def _served_item(content: Any) -> ServedItem:
    values = {name: content[name] for name in ServedItem.__slots__}
    live = {field: LiveValue(entry["value"], entry["ts"]) for field, entry in content["live"].items()}
    return ServedItem(**{**values, "live": live})


def _n_forgotten(content: Any) -> int:
    return int(content["forgotten"])


def _rule_states(content: Any) -> RuleStates:
    rules = tuple(map(_rule_state, content["rules"]))
    return RuleStates(content["bundle_version"], rules, tuple(content["problems"]))


def _rule_state(content: Any) -> RuleState:
    return RuleState(
        content["name"], content["source"], content["rule"], content["items"], tuple(content["warnings"])
    )


def _removal(content: Any) -> Removal:
    return Removal(content["removed"], tuple(content["waiting"]), tuple(content["notes"]))
