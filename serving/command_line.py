"""Makes the command lines of all packages. A command is a frozen dataclass of options and a function.

    @dataclass(frozen=True, kw_only=True)
    class RollbackOptions:
        "Serve an earlier version again."

        bundle: Path = option(Path("bundle"), "bundle root")
        to: str | None = option(None, "version (default: the newest good one)", metavar="VERSION")

    def rollback(options: RollbackOptions) -> int: ...

    if __name__ == "__main__":
        sys.exit(run("python -m serving", rollback))

Field names become flags (`max_items` → `--max-items`), annotations decide how values are parsed. `%(prog)s`
in a docstring becomes the name of the command. `__post_init__` checks the options together: its ValueError
counts as a wrong argument. A classmethod `from_arguments` may build the options from the command line and
other origins; switches then also have a --no- form.
"""

import argparse
import inspect
import os
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from .files import is_uri

Command = Callable[[Any], int]


class OptionSpec(NamedTuple):
    """An option of a command, for values that do not come from the command line."""

    field: str  # of the dataclass
    name: str  # that of the flag, with underscores
    flag: str  # --deadline-ms
    help: str
    default: Any  # MISSING for a required option
    type: Any  # of one value
    parse: Callable[[str], Any]
    choices: Sequence[Any] | None
    is_repeated: bool


def option(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    parse: Callable[[str], Any] | None = None,
    choices: Sequence[Any] | None = None,
    metavar: str | None = None,
) -> Any:
    """A dataclass field that is an option of the command line.

    Args:
        default: `...` for a required option. False makes a switch, a tuple a repeatable option.
        help: the meaning of the option; the default value is appended.
        flag: the option's name with dashes, if it differs from the field's name.
        parse: text → value, in place of the annotation. ValueError and ArgumentTypeError count as a wrong
            argument.
    """
    settings = {"help": help, "flag": flag, "parse": parse, "choices": choices, "metavar": metavar}
    return field(**({} if default is ... else {"default": default}), metadata=settings)


def argument(
    help: str, *, default: Any = ..., parse: Callable[[str], Any] | None = None, choices: Any = None,
    metavar: str | None = None,
) -> Any:  # fmt: skip
    """A dataclass field that is a positional argument.

    An argument annotated as a tuple takes one or more values, or any number if it has a default.
    """
    settings = {"help": help, "parse": parse, "choices": choices, "metavar": metavar, "positional": True}
    return field(**({} if default is ... else {"default": default}), metadata=settings)


def run(
    prog: str,
    *commands: Command,
    description: str = "",
    arguments: Sequence[str] | None = None,
    errors: tuple[type[Exception], ...] = (),
) -> int:
    """Parse the command line, call the command that it names, and return its exit code.

    A single command is the program itself; several become subcommands, named by their functions. An error
    of a type in `errors` is printed in one line and gives exit code 1; wrong arguments give 2.

    Args:
        prog: the program's name in usage and help.
        arguments: default: those of the process.
    """
    options_classes = {command: _options_class(command) for command in commands}
    if len(commands) == 1:
        parser = _parser(argparse.ArgumentParser, options_classes[commands[0]], prog=prog)
        parser.set_defaults(_command=commands[0], _parser=parser)
    else:
        parser = argparse.ArgumentParser(prog=prog, description=description)
        subparsers = parser.add_subparsers(dest="_name", required=True, metavar="COMMAND")
        for command, options_class in options_classes.items():
            name = command.__name__.replace("_", "-")
            summary = (options_class.__doc__ or "").split("\n")[0].rstrip(".")
            child = _parser(subparsers.add_parser, options_class, name=name, help=summary)
            child.set_defaults(_command=command, _parser=child)
    values = vars(parser.parse_args(arguments))
    selected: Command = values.pop("_command")
    selected_parser: argparse.ArgumentParser = values.pop("_parser")
    values.pop("_name", None)
    # An absent option keeps the default of its field.
    given = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v not in (None, [])
    }
    options: Any = given
    options_class = options_classes[selected]
    try:
        try:
            options = getattr(options_class, "from_arguments", options_class)(**given)
        except ValueError as error:  # of __post_init__
            selected_parser.error(str(error))
        return selected(options)
    except errors as error:
        print(f"error: {describe_error(error, options_class, options)}", file=sys.stderr)
        return 1


def describe_error(error: Exception, options_class: Any, options: Any) -> str:
    """The text of an error; for a missing file it also names the option.

    Args:
        options: an object of `options_class`, or the given values by field.
    """
    if not isinstance(error, OSError) or error.filename is None or error.strerror is None:
        return str(error)
    file, text = Path(os.fsdecode(error.filename)), f"{error.filename}: {error.strerror}"
    for spec in option_specs(options_class):
        value = options.get(spec.field) if isinstance(options, dict) else getattr(options, spec.field)
        paths = [Path(one) for one in (value if isinstance(value, tuple) else (value,)) if _may_be_path(one)]
        if any(path == file or path in file.parents for path in paths if path != Path()):
            return f"{spec.flag} {text}"
    return text


def _may_be_path(value: Any) -> bool:
    return isinstance(value, Path) or (isinstance(value, str) and not is_uri(value))


def _options_class(command: Command) -> Any:
    (hint,) = (hint for name, hint in get_type_hints(command).items() if name != "return")
    return hint


def _parser(
    make: Callable[..., argparse.ArgumentParser], options_class: Any, **named: Any
) -> argparse.ArgumentParser:
    """A parser of the options. Its help begins with the docstring's first paragraph, ends with the others."""
    name = {"prog": named["prog"]} if "prog" in named else {"help": named["help"]}
    positional = () if "prog" in named else (named["name"],)
    description, _, epilog = inspect.cleandoc(options_class.__doc__ or "").partition("\n\n")
    parser = make(
        *positional, **name, description=description, epilog=epilog or None,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    hints = get_type_hints(options_class)
    switch = argparse.BooleanOptionalAction if hasattr(options_class, "from_arguments") else "store_true"
    for spec in fields(options_class):
        if spec.metadata:  # else it is not an option
            _add_option(parser, spec, hints[spec.name], switch)
    return parser


def option_specs(options_class: Any) -> list[OptionSpec]:
    """The options of a command, without its positional arguments."""
    hints = get_type_hints(options_class)
    specs = []
    for spec in fields(options_class):
        settings = spec.metadata
        if not settings or settings.get("positional"):
            continue
        value_type, repeated, choices = _value_type(hints[spec.name])
        flag = _flag(spec)
        specs.append(
            OptionSpec(
                field=spec.name,
                name=flag.removeprefix("--").replace("-", "_"),
                flag=flag,
                help=settings["help"],
                default=spec.default,
                type=value_type,
                parse=settings["parse"] or (_local_path if value_type is Path else value_type),
                choices=choices or settings["choices"],
                is_repeated=repeated,
            )
        )
    return specs


def _flag(spec: Field[Any]) -> str:
    return spec.metadata["flag"] or "--" + spec.name.replace("_", "-")


def _add_option(parser: argparse.ArgumentParser, spec: Field[Any], hint: Any, switch: Any) -> None:
    settings = spec.metadata
    required = spec.default is MISSING
    value_type, repeated, choices = _value_type(hint)
    value_type = _local_path if value_type is Path else value_type
    named: dict[str, Any] = {"help": _help(settings["help"], spec.default), "metavar": settings["metavar"]}
    if choices or settings["choices"]:
        named["choices"] = choices or settings["choices"]
    if settings.get("positional"):
        nargs = ("+" if required else "*") if repeated else (None if required else "?")
        parser.add_argument(spec.name, type=settings["parse"] or value_type, nargs=nargs, **named)
        return
    flag = _flag(spec)
    named |= {"dest": spec.name, "required": required}
    if value_type is bool:
        del named["metavar"]
        parser.add_argument(flag, action=switch, default=None, **named)
    elif repeated:
        parser.add_argument(flag, type=settings["parse"] or value_type, action="extend", nargs="+", **named)
    else:
        parser.add_argument(flag, type=settings["parse"] or value_type, **named)


def _local_path(text: str) -> Path:
    if is_uri(text):  # it would become a folder of that name
        raise argparse.ArgumentTypeError(f"{text}: expected a path of this machine")
    return Path(text)


def _value_type(hint: Any) -> tuple[Any, bool, Sequence[Any] | None]:
    """Returns the type of one value, whether the option is repeatable, and the allowed values."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True, None
    if get_origin(hint) is Literal:
        return str, False, get_args(hint)
    return hint, False, None


def _help(text: str, default: Any) -> str:
    text = text.replace("%", "%%")
    if default is MISSING or default is None or default is False or default in ("", ()):
        return text
    return f"{text} (default: {default})"
