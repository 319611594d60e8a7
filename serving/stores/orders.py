"""Changes of an order: it is recorded or amended, cancelled, or partly returned.

    record   set the lines of the order; lines that were recorded before are replaced
    cancel   remove the order from the history
    return   subtract quantities from the order's lines

Changes apply in order of arrival. The same content counts once per order: a repeated call changes nothing,
even after an amendment or a cancellation. A record with new content applies even after a cancellation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, Protocol, TypeGuard, runtime_checkable

from ..checkout import Event
from .base import KEY_BYTES, UserHistory


@dataclass(frozen=True, slots=True)
class OrderChange:
    """One change of an order.

    Args:
        order_id: not empty.
        events: for a record the order's lines; for a return the items and the returned quantities.
        content: a text that is equal for a repeated change and different for any other change.
        profile: attributes of the user, for a record.
    """

    kind: Literal["record", "cancel", "return"]
    order_id: str
    events: Sequence[Event] = ()
    content: str = ""
    profile: Mapping[str, str] | None = None

    def content_hash(self) -> bytes:
        """A hash of kind and content: KEY_BYTES bytes, never all zero."""
        text = f"{self.kind} {self.content}".encode(errors="surrogatepass")
        digest = blake2b(text, digest_size=KEY_BYTES).digest()
        return digest if any(digest) else b"\1" * KEY_BYTES


@runtime_checkable
class OrderStore(Protocol):
    """A store in which orders can be amended, cancelled and returned.

    Both methods raise the errors of `Store.append`.
    """

    def record_order(self, user_id: str, order: OrderChange) -> None:
        """Store the lines of an order in one small write. The lines are stored when the call returns."""

    def change_order(self, user_id: str, change: OrderChange) -> UserHistory | None:
        """Store a cancellation or a return. Returns the events of the order that remain.

        Returns None, and stores nothing, if the order is not among the user's last 256 keys.
        """


def keeps_orders(store: object) -> TypeGuard[OrderStore]:
    """Whether orders in the store can be changed. An exported `store.arrow` is read-only."""
    return isinstance(store, OrderStore)
