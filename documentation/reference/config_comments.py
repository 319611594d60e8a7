"""The keys of a config file with their defaults and comments."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml


class ConfigKey(NamedTuple):
    """A key of a config file, with its dotted path in the file, its default as written, and its comment."""

    path: str
    default: str
    comment: str


class ConfigFile(NamedTuple):
    """A config file with its keys.

    It also has the head comment, and the place of the keys in the config (`# @package`).
    """

    head: str
    package: str | None
    keys: list[ConfigKey]


def read_config_file(file: Path) -> ConfigFile:
    """The keys of a config file, in order, without the keys that belong to Hydra.

    A comment of a key is at the end of the key's line and continues in the comment lines below. If a mapping
    is in one line, each key of the mapping has the comment of the line.
    """
    text = file.read_text()
    lines = text.split("\n")
    first_key = next((n for n, line in enumerate(lines) if line and not line.startswith("#")), len(lines))
    head = [line.lstrip("# ").rstrip() for line in lines[:first_key] if line.startswith("#")]
    package = next((line.split()[-1] for line in head if line.startswith("@package")), None)
    root = yaml.compose(text)
    keys = [
        ConfigKey(path, _written(node, text), _comment(lines, line))
        for path, node, line in _leaves(root, "")
        if not path.startswith(("defaults", "hydra"))
    ]
    return ConfigFile("\n".join(line for line in head if not line.startswith("@package")), package, keys)


def _leaves(node: yaml.Node, path: str) -> Iterator[tuple[str, yaml.Node, int]]:
    """Yield (dotted path, value, line of the key) of every leaf. An empty mapping is a leaf."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{path}.{key.value}" if path else key.value
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, name)
        else:
            yield name, value, key.start_mark.line


def _written(node: yaml.Node, text: str) -> str:
    """The value as the file writes it."""
    return text[node.start_mark.index : node.end_mark.index].strip()


def _comment(lines: list[str], number: int) -> str:
    """Return the comment of a line, with the comment lines that continue it.

    If the line has no comment, the comment lines above it count. A comment for several keys is at the end of
    their mapping, which may be on a later line.
    """
    match = re.search(r"\s#\s(.*)$", lines[number])
    if match is None:
        above = number - 1
        words: list[str] = []
        while above >= 0 and re.match(r"\s+#", lines[above]):
            words.insert(0, lines[above].strip().lstrip("# "))
            above -= 1
        return " ".join(words) if _starts_block(lines, above + 1) else ""
    words = [match[1].strip()]
    column = match.start()
    for line in lines[number + 1 :]:
        continued = re.match(r"(\s*)#\s(.*)$", line)
        if continued is None or len(continued[1]) < min(column, 10):
            break
        words.append(continued[2].strip())
    return " ".join(words)


def _starts_block(lines: list[str], number: int) -> bool:
    """Whether the comment lines from `number` on belong to the line below them, not to the line above."""
    indent = len(lines[number]) - len(lines[number].lstrip())
    return number == 0 or indent < 10
