"""Ids in the paths of routes."""

from starlette.convertors import Convertor, register_url_convertor


class IdConvertor(Convertor[str]):
    """Matches any text, also with slashes and line breaks. Starlette's `path` matches no line break."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        """The id of a path."""
        return value

    def to_string(self, value: str) -> str:
        """The path of an id."""
        return value


def register_ids() -> None:
    """Register the convertor `id` for paths such as `/v1/items/{item_id:id}`."""
    register_url_convertor("id", IdConvertor())
