"""The page of config keys: type, range, default and meaning of every key, by file."""

from functools import cache
from pathlib import Path

import yaml

from documentation.reference.config_comments import ConfigFile, ConfigKey, read_config_file
from documentation.reference.key_meanings import meaning_of
from documentation.reference.key_types import known_type
from documentation.reference.tables import cell, code, table
from training.config import CHOICES
from training.config_files import CONFIG_DIR
from training.config_limits import NO_LIMIT, VALUE_RANGES

MAIN_FILES = ("train", "export", "retrain")
WHOLE_CONFIG = "_global_"
EXPERIMENTS = "experiment"
INTRODUCTION = """# Config keys

Every setting of `train.py`, `export.py` and `retrain.py`: its type, range, default and meaning. This page is
generated from the files in `configs/`; the ranges are those that `training/config_limits.py` checks.

Set a key on the command line with `key=value`, and choose a file of a group with `group=file`:

```
python train.py experiment=quick ranker.train.learning_rate=1e-3 query=sasrec
```

A wrong key or value is refused with the nearest right one.
"""


def config_page() -> str:
    """The page, with a section for each main file and for each group."""
    parts = [INTRODUCTION]
    for name in MAIN_FILES:
        parts.append(f"## {name}.py\n")
        parts.append(_file_section(CONFIG_DIR / f"{name}.yaml", ""))
    for folder in sorted(path for path in CONFIG_DIR.rglob("*") if path.is_dir()):
        files = sorted(folder.glob("*.yaml"))
        group = folder.relative_to(CONFIG_DIR).as_posix()
        parts.append(f"## {group}\n")
        for file in files:
            parts.append(f"### {group}={file.stem}\n")
            parts.append(_file_section(file, group.replace("/", ".")))
    return "\n".join(parts)


def _file_section(file: Path, group: str) -> str:
    config_file = read_config_file(file)
    rows = [_row(key, key_path(config_file, group, key)) for key in config_file.keys]
    head = f"```\n{config_file.head}\n```\n" if config_file.head else ""
    if not rows:
        return head
    return f"{head}\n{table(('key', 'default', 'meaning', 'values'), rows)}"


def key_path(config_file: ConfigFile, group: str, key: ConfigKey) -> str:
    """The key as it is written on the command line."""
    package = group if config_file.package is None else config_file.package
    return key.path if package in ("", WHOLE_CONFIG) else f"{package}.{key.path}"


def _row(key: ConfigKey, path: str) -> list[str]:
    meaning = meaning_of(path) or meanings().get(path, "")
    values = ": ".join(part for part in (key_type(path, key.default), value_range(path)) if part)
    return [code(path), code(key.default), cell(meaning), values]


@cache
def meanings() -> dict[str, str]:
    """Return key → its comment in the first file that has one for it.

    Files of `experiment` are skipped. They only set other values, and their comments give reasons.
    """
    found: dict[str, str] = {}
    for file in (*CONFIG_DIR.glob("*.yaml"), *sorted(CONFIG_DIR.rglob("*/*.yaml"))):
        if file.parent.name == EXPERIMENTS:
            continue
        config_file = read_config_file(file)
        for key in config_file.keys:
            if key.comment:
                found.setdefault(key_path(config_file, group_of(file), key), key.comment)
    return found


def group_of(file: Path) -> str:
    """Return the group of a config file as keys name it, such as ranker.train; empty for a main file."""
    return ".".join(file.relative_to(CONFIG_DIR).parent.parts)


def key_type(path: str, default: str) -> str:
    """The type of a key, from key_types.py or from its default."""
    return type_name(default) or known_type(path)


def type_name(default: str) -> str:
    """Return the type of a default as the file writes it.

    It is empty if the default is null, a date or a reference.
    """
    if default.startswith(("${", '"${')):
        return ""
    value = yaml.safe_load(default)
    names = {bool: "bool", int: "int", float: "float", str: "text", list: "list", dict: "mapping"}
    return names.get(type(value), "") if value is not None else ""


def value_range(path: str) -> str:
    """Return the allowed values of a key, as training checks them.

    The text is empty if every value of the type is allowed.
    """
    if path in CHOICES:
        return ", ".join(code(choice) for choice in CHOICES[path])
    limits = VALUE_RANGES.get(path) or VALUE_RANGES.get(path.rsplit(".", 1)[-1])
    if limits is None or path.startswith("logger."):
        return ""
    low, high = limits
    return f"{low:g} or more" if high >= NO_LIMIT else f"{low:g} to {high:g}"
