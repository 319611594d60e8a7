"""Ids in the paths of routes."""

from starlette.convertors import Convertor, register_url_convertor


class IdConvertor(Convertor[str]):
    """Any text, also with slashes and line breaks: starlette's own `path` matches no line break."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        """The id of a path."""
        return value

    def to_string(self, value: str) -> str:
        """The path of an id."""
        return value


def register_ids() -> None:
    """Let paths name ids: `/v1/items/{item_id:id}`."""
    register_url_convertor("id", IdConvertor())
