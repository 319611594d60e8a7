"""Changes of an order: recorded or amended, cancelled, or partly returned.

    record   the order has these lines; an order that was recorded before has them in place of its own
    cancel   the order leaves the history
    return   quantities leave the order's lines

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
        events: the lines of a record; of a return the items and how many of each came back.
        content: a text that is equal for a repeated change and different for any other change.
        profile: attributes of the user, of a record.
    """

    kind: Literal["record", "cancel", "return"]
    order_id: str
    events: Sequence[Event] = ()
    content: str = ""
    profile: Mapping[str, str] | None = None

    def content_hash(self) -> bytes:
        """KEY_BYTES that stand for kind and content, never all zero."""
        text = f"{self.kind} {self.content}".encode(errors="surrogatepass")
        digest = blake2b(text, digest_size=KEY_BYTES).digest()
        return digest if any(digest) else b"\1" * KEY_BYTES


@runtime_checkable
class OrderStore(Protocol):
    """A store in which orders can be amended, cancelled and returned.

    Both methods raise what `Store.append` raises.
    """

    def record_order(self, user_id: str, order: OrderChange) -> None:
        """Store the lines of an order; one small write. They are stored when this returns."""

    def change_order(self, user_id: str, change: OrderChange) -> UserHistory | None:
        """Store a cancellation or a return. Returns the events of the order that remain.

        Returns None, and stores nothing, if the order is not among the user's last 256 keys.
        """


def keeps_orders(store: object) -> TypeGuard[OrderStore]:
    """Whether orders of the store can be changed: an exported `store.arrow` is read-only."""
    return isinstance(store, OrderStore)
