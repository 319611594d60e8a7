"""Texts of reasons by language: from messages.toml, or the shop's own."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from ..checkout import DEFAULT_LANGUAGE

DEFAULT_FILE = Path(__file__).with_name("messages.toml")
# Code of a reason → the fields that its text may name.
REASON_FIELDS: Mapping[str, tuple[str, ...]] = {
    "pinned": (),
    "co_purchase": ("item",),
    "basket": (),
    "buy_again": (),
    "transitions": (),
    "ease": (),
    "category": ("category",),
    "popular": (),
    "for_you": (),
}


class Messages:
    """Texts by language and code. Every language has all codes; missing texts are in English.

    Args:
        texts: language → code → template.
    """

    def __init__(self, texts: Mapping[str, Mapping[str, str]]) -> None:
        english = texts[DEFAULT_LANGUAGE]
        self._texts = {language.casefold(): {**english, **table} for language, table in texts.items()}

    @property
    def languages(self) -> list[str]:
        return [*self._texts]

    def text(self, language: str, code: str, params: Mapping[str, str]) -> str:
        """The text of a reason. de-AT falls back to de; a language without texts falls back to English."""
        folded = language.casefold().replace("_", "-")
        texts = self._texts.get(folded) or self._texts.get(folded.partition("-")[0])
        template = (texts or self._texts[DEFAULT_LANGUAGE])[code]
        return template.format_map(params) if params else template


def read_messages(path: Path | None = None) -> Messages:
    """The texts of this release, overridden by a file's texts.

    Raises OSError, or ValueError that names the file, the language and the fault.
    """
    texts = _read_file(DEFAULT_FILE)
    if path is not None:
        try:
            own = _read_file(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        texts = {language: {**texts.get(language, {}), **table} for language, table in (texts | own).items()}
    return Messages(texts)


def _read_file(path: Path) -> dict[str, dict[str, str]]:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    for language, table in content.items():
        if not isinstance(table, dict):
            raise ValueError(f"{language} is {table!r}: expected a table of texts by code")
        for code, template in table.items():
            _check_template(f"{language}.{code}", code, template)
    return content


def _check_template(where: str, code: str, template: Any) -> None:
    if code not in REASON_FIELDS:
        near = difflib.get_close_matches(code, REASON_FIELDS, 1)
        hint = f"; do you mean '{near[0]}'?" if near else ""
        raise ValueError(f"{where}: unknown code; expected {', '.join(REASON_FIELDS)}{hint}")
    if not isinstance(template, str) or not template:
        raise ValueError(f"{where} is {template!r}: expected a text that is not empty")
    try:
        names = [name for _, name, spec, conversion in Formatter().parse(template) if name is not None]
        is_plain = all(not spec and not conversion for _, _, spec, conversion in Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{where}: {error}: write {{{{ for a brace") from None
    allowed = REASON_FIELDS[code]
    if not is_plain or any(name not in allowed for name in names):
        fields = " and ".join(f"{{{name}}}" for name in allowed)
        expected = f"only {fields}" if allowed else "no field"
        raise ValueError(f"{where} is {template!r}: the text may use {expected}")
