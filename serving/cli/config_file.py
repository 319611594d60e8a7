"""Reads a command's options from four origins: flag, environment, TOML file, default. The first wins.

    sextet serve --config serve.toml --port 9000      port: the flag
    SEXTET_DEADLINE_MS=80                             deadline_ms: the environment
    serve.toml:  workers = 4                          workers: the file

An option has the name of its flag, with underscores. The types of all values are checked, even of values
that another origin overrides.
"""

import argparse
import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NamedTuple

from ..command_line import OptionSpec, option_specs
from ..files import is_uri
from ..remote import without_secrets

PREFIX = "SEXTET_"
FILE_OPTION = "config"
FLAGS_ONLY = ("print_config",)
MIN_SIMILARITY = 0.6  # of a name to a known one, to be proposed
EXPECTED = {
    str: "a string", Path: "a string, the path", int: "an integer", float: "a number", bool: "true or false",
}  # fmt: skip
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# What Kubernetes sets for Services whose names begin with `sextet`. SEXTET_PORT is the name of an option too.
SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP)(_\w+)?$|_PORT$")
SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class OptionValue(NamedTuple):
    """The value of an option and where it comes from."""

    value: Any
    origin: str  # "flag", "environment SEXTET_X", "file PATH" or "default"
    text: Any = None  # the value before it was parsed


def resolve_options(
    options_class: type, flags: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, OptionValue]:
    """Returns field name → option, for all options and in the order of the fields. Includes defaults.

    Args:
        flags: parsed values of the command line, by field name.

    Raises ValueError for an unknown name or a value of another type, OSError for a file that cannot be read.
    """
    specs = {spec.name: spec for spec in option_specs(options_class)}
    values = read_environment(environment, specs)
    for name, spec in specs.items():
        if spec.field in flags:
            values[name] = OptionValue(flags[spec.field], "flag", flags[spec.field])
    if FILE_OPTION in values and FILE_OPTION in specs:
        file = Path(values[FILE_OPTION].value)
        values = {**read_config_file(file, specs), **values}
    combined = {}
    for name, spec in specs.items():
        given = values.get(name)
        if given is None:
            if spec.default is MISSING:
                raise ValueError(f"{name} is required: give {spec.flag}, {PREFIX}{name.upper()} or a key")
            given = OptionValue(spec.default, "default", spec.default)
        elif given.origin != "flag":
            given = given._replace(value=_parse(spec, given))
        combined[spec.field] = given
    return combined


def read_config_file(file: Path, specs: Mapping[str, OptionSpec]) -> dict[str, OptionValue]:
    """The options of a TOML file, their types checked. Raises ValueError or OSError."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of the syntax, a key that stands twice, or not UTF-8
        raise ValueError(f"{file}: not a TOML file of options: {error}") from None
    values = {}
    for key, value in content.items():
        if key in (FILE_OPTION, *FLAGS_ONLY):
            raise ValueError(
                f"{file}: {key} is not allowed in the file: give it as --{key.replace('_', '-')}"
            )
        if key not in specs:
            kind = "a table" if isinstance(value, dict) else "an option"
            raise ValueError(f"{file}: {key} is not {kind} of this command{_nearest_option(key, specs)}")
        if not _has_type(specs[key], value):
            expected = f"{_expected_type(specs[key])} ({specs[key].help})"
            raise ValueError(f"{file}: {key} is {_toml_value(value)}: expected {expected}")
        values[key] = OptionValue(value, f"file {file}", value)
    return values


def read_environment(
    environment: Mapping[str, str], specs: Mapping[str, OptionSpec]
) -> dict[str, OptionValue]:
    """The options in variables SEXTET_<OPTION>; empty variables count as absent. Raises ValueError.

    A variable whose name resembles that of an option is refused. Other variables may have other uses.
    """
    values = {}
    for variable in sorted(environment):
        text = environment[variable]
        if not variable.startswith(PREFIX) or not text:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in FLAGS_ONLY:
            raise ValueError(f"the environment's {variable} has no effect: give the flag {specs[name].flag}")
        if name not in specs:
            if not SERVICE_LINK.search(variable) and (nearest := _nearest_option(name, specs, PREFIX)):
                raise ValueError(f"the environment's {variable} is not an option of this command{nearest}")
            continue
        if SERVICE_LINK.search(variable) and SERVICE_ADDRESS.match(text):
            continue
        value = _value_of_text(specs[name], text)
        if not _has_type(specs[name], value):
            raise ValueError(
                f"the environment's {variable} is {_toml_value(text)}:"
                f" expected {_expected_type(specs[name])} ({specs[name].help})"
            )
        values[name] = OptionValue(value, f"environment {variable}", value)
    return values


def format_config(options: Mapping[str, OptionValue], specs: Sequence[OptionSpec]) -> list[str]:
    """A line of TOML for each option, with its origin as a comment. Passwords of URLs are `***`."""
    lines = []
    for spec in specs:
        if spec.name in (FILE_OPTION, *FLAGS_ONLY):
            continue
        given = options[spec.field]
        is_set = given.value is not None and given.value != ()
        line = f"{spec.name} = {_toml_value(given.text)}" if is_set else f"# {spec.name} is not set"
        lines.append(f"{line:<46} # {given.origin}")
    return lines


def name_origins(message: str, options: Mapping[str, OptionValue], specs: Sequence[OptionSpec]) -> str:
    """Appends to an error's message which of its options come from the environment or the file."""
    places = [
        f"{spec.flag} comes from {options[spec.field].origin}"
        for spec in specs
        if re.search(rf"{re.escape(spec.flag)}(?![\w-])", message)
        and options[spec.field].origin not in ("flag", "default")
    ]
    return f"{message} ({'; '.join(places)})" if places else message


def _parse(spec: OptionSpec, given: OptionValue) -> Any:
    """The value of an option, parsed as the command line parses it. Raises ValueError."""
    values = given.value if spec.is_repeated else [given.value]
    try:
        parsed = [spec.parse(value) if isinstance(value, str) else spec.type(value) for value in values]
    except (argparse.ArgumentTypeError, ValueError, TypeError) as error:
        raise ValueError(f"{given.origin}: {spec.name}: {error}") from None
    return tuple(parsed) if spec.is_repeated else parsed[0]


def _value_of_text(spec: OptionSpec, text: str) -> Any:
    """Converts the text of a variable to the type of its option. Other text is returned as it is."""
    if spec.is_repeated:
        return [_scalar_of_text(spec.type, part) for part in text.split()]
    return _scalar_of_text(spec.type, text)


def _scalar_of_text(value_type: type, text: str) -> Any:
    if value_type is bool:
        return BOOLEANS.get(text.strip().lower(), text)
    if value_type in (int, float):
        try:
            return value_type(text)
        except ValueError:
            return text
    return text


def _has_type(spec: OptionSpec, value: Any) -> bool:
    if spec.is_repeated:
        return isinstance(value, list) and all(_is_scalar(spec, part) for part in value)
    return _is_scalar(spec, value)


def _is_scalar(spec: OptionSpec, value: Any) -> bool:
    if spec.choices:
        return value in spec.choices
    if spec.type is bool:
        return isinstance(value, bool)
    if spec.type is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if spec.type is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


def _expected_type(spec: OptionSpec) -> str:
    if spec.choices:
        one = f"one of {', '.join(map(str, spec.choices))}"
    else:
        one = EXPECTED.get(spec.type, "a string")
    return f"a list, each {one}" if spec.is_repeated else one


def _nearest_option(name: str, specs: Mapping[str, OptionSpec], prefix: str = "") -> str:
    known = difflib.get_close_matches(name.replace("-", "_").lower(), specs, 1, MIN_SIMILARITY)
    if not known:
        return "" if prefix else f"; expected one of {', '.join(specs)}"
    written = prefix + (known[0].upper() if prefix else known[0])
    return f"; did you mean {written}? It expects {_expected_type(specs[known[0]])}"


def _toml_value(value: Any) -> str:
    """A value as TOML, without secrets."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    text = str(value)
    return json.dumps(without_secrets(text) if is_uri(text) else text, ensure_ascii=False)
