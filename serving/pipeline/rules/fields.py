"""Reads tables of a rule, from TOML or JSON, with errors that name the field."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeGuard

from ...checkout import MAX_NUMBER


class RuleError(ValueError):
    """A rule that cannot be read. `field` is the path of the wrong field: when.hours."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}" if field else detail)
        self.field, self.detail = field, detail


def close_names(name: str, known: Sequence[str], n: int = 3) -> list[str]:
    """The known names of a similar spelling, most similar first."""
    by_folded = {text.casefold(): text for text in known}
    return [by_folded[text] for text in difflib.get_close_matches(name.casefold(), by_folded, n, cutoff=0.5)]


class FieldReader:
    """A table of a rule. All methods raise RuleError for a value of the wrong type.

    Args:
        content: the parsed table.
        path: path of the table in the rule; "" for the rule itself.
    """

    def __init__(self, content: Any, path: str = "") -> None:
        self.path = path
        if not isinstance(content, Mapping):
            self._fail("", f"it is {content!r}: expected a table of names and values")
        self.content: Mapping[str, Any] = content

    def error(self, name: str, detail: str) -> RuleError:
        """The error of one of the fields."""
        return RuleError(".".join(filter(None, (self.path, name))), detail)

    def _fail(self, name: str, detail: str) -> NoReturn:
        raise self.error(name, detail)

    def check_names(self, names: Sequence[str]) -> None:
        """Raises RuleError, with the nearest name, for a field that is not in `names`."""
        for name in self.content:
            if name not in names:
                near = close_names(str(name), names, 1)
                hint = f"; do you mean '{near[0]}'?" if near else ""
                self._fail(str(name), f"unknown field; expected {', '.join(names)}{hint}")

    def table(self, name: str) -> "FieldReader | None":
        """The table under a name; None if the name is absent."""
        if name not in self.content:
            return None
        return FieldReader(self.content[name], self.error(name, "").field)

    def text(self, name: str) -> str | None:
        """The text under a name; None if the name is absent."""
        value = self.content.get(name)
        if value is not None and not (_is_text(value) and value.strip()):
            self._fail(name, f"it is {value!r}: expected a text that is not empty")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """The value or list of values under a name, numbers as text; empty if the name is absent."""
        value = self.content.get(name)
        if value is None:
            return ()
        values = value if isinstance(value, list) else [value]
        texts = []
        for element in values:
            is_number = isinstance(element, int | float) and not isinstance(element, bool)
            is_number = is_number and (isinstance(element, int) or abs(element) <= MAX_NUMBER)
            if is_number and isinstance(element, float) and element.is_integer():
                element = int(element)
            if not (is_number or _is_text(element)):
                self._fail(name, f"it holds {element!r}: expected a text or a list of texts")
            texts.append(str(element))
        if not texts:
            self._fail(name, "the list is empty: name one value or more, or leave it out")
        return tuple(texts)

    def number(self, name: str) -> float | None:
        """The finite number under a name; None if the name is absent."""
        value = self.content.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
            self._fail(name, f"it is {value!r}: expected a number of at most {MAX_NUMBER:g}")
        return float(value)

    def whole_number(self, name: str, least: int, most: int) -> int:
        """The whole number under a name. Raises RuleError if it is absent or not from `least` to `most`."""
        value = self.content.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._fail(name, f"it is {value!r}: expected a whole number from {least} to {most}")
        return value


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is a text that is not empty and can be encoded in UTF-8, as a bundle's columns are."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
