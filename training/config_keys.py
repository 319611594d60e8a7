"""Dotted keys of a config, the overrides of a command, and suggestions for a wrong key."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from data.io.url_secrets import has_secret, mask_secrets
from training.errors import ConfigError


def flatten_config(config: DictConfig) -> dict[str, Any]:
    """Returns dotted key → value, with references resolved. A list is one value."""
    leaves: dict[str, Any] = {}

    def collect(node: Any, path: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                collect(value, f"{path}.{key}" if path else str(key))
        else:
            leaves[path] = node

    collect(OmegaConf.to_container(config, resolve=True), "")
    return leaves


def without_secrets(config: DictConfig) -> DictConfig:
    """The config as it may be saved: with *** for passwords in URLs of `data`, and references resolved."""
    kept = config.copy()
    if "data" in config:
        kept.data = mask_secrets(OmegaConf.to_container(config.data, resolve=True))
    return kept


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command has Hydra's flag of a sweep."""
    return not {"-m", "--multirun"}.isdisjoint(arguments)


def reject_swept_secrets(arguments: Sequence[str]) -> None:
    """Raises ConfigError for a URL with a password in a sweep, because Hydra saves the command."""
    if not is_sweep(arguments):
        return
    for argument in arguments:
        if argument.startswith("data.") and has_secret(argument):
            key = argument.partition("=")[0]
            raise ConfigError(
                f"{key} has a password, which a sweep would write to multirun.yaml: put the URL into an "
                f"environment variable, and set '{key}=${{oc.env:SHOP_DB_URL}}'"
            )


def suggest_names(name: str, valid_names: Iterable[str]) -> str:
    """Suggests names: ` Did you mean …?`

    Names of the same last part are suggested. If there are none: names that `name` abbreviates, else similar
    names, else the first ten names.
    """
    names = list(valid_names)
    last_parts = {valid: valid.rsplit(".", 1)[-1] for valid in names}
    *parents, last_part = name.split(".")
    same = [valid for valid in names if last_parts[valid] == last_part]
    abbreviated = [
        valid
        for valid in names
        if valid.split(".")[: len(parents)] == parents
        and is_abbreviation(last_part, last_parts[valid].split("_"))
    ]
    suggestions = (
        _nearest(parents, same)
        or abbreviated
        or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        or names[:10]
    )
    return f" Did you mean {' or '.join(suggestions)}?" if suggestions else ""


def is_abbreviation(short: str, words: Sequence[str]) -> bool:
    """Whether `short`, of two letters or more, joins beginnings of all words, as lr for learning_rate."""

    def joins(rest: str, left: Sequence[str]) -> bool:
        if not left:
            return not rest
        lengths = range(1, min(len(rest), len(left[0])) + 1)
        return any(rest[:n] == left[0][:n] and joins(rest[n:], left[1:]) for n in lengths)

    return len(short) > 1 and joins(short.replace("_", ""), words)


def _nearest(parents: Sequence[str], names: list[str]) -> list[str]:
    """The `names` that share the most leading parts with `parents`."""
    for length in range(len(parents), 0, -1):
        below = [name for name in names if name.split(".")[:length] == [*parents[:length]]]
        if below:
            return below
    return names


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """The overrides among the arguments, without Hydra's own."""
    flags = {n + 1 for n, argument in enumerate(arguments) if argument in ("--config-dir", "-cd")}
    lines = [
        argument
        for n, argument in enumerate(arguments)
        if "=" in argument and not argument.startswith("-") and n not in flags
    ]
    try:
        overrides = OverridesParser.create().parse_overrides(lines)
    except OverrideParseException as error:
        raise ConfigError(f"{error.override}: cannot be read; {_quoting_hint(error.override)}") from error
    return [override for override in overrides if not override.key_or_group.startswith("hydra")]


def _quoting_hint(override: str | None) -> str:
    """A hint for an override that Hydra cannot read: quote a word beyond ASCII, or else the value."""
    word = re.search(r"\w*[^\W\x00-\x7F]\w*", override or "")
    if word is None:
        return "quote the value: 'key=\"value\"'"
    return f'put "{word[0]}" in quotes, for its letters beyond ASCII'
