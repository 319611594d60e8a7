"""Command lines of every room: a frozen dataclass of options and a function for each command.

    @dataclass(frozen=True, kw_only=True)
    class RollbackOptions:
        "Serve an earlier version again."

        bundle: Path = option(Path("bundle"), "bundle root")
        to: str | None = option(None, "the version; without it the newest good one", metavar="VERSION")

    def rollback(options: RollbackOptions) -> int: ...

    if __name__ == "__main__":
        sys.exit(run("python -m serving", rollback))

Field names become flags (`max_items` → `--max-items`), annotations decide how values are parsed. What depends
on several options is checked in `__post_init__`: its ValueError is a wrong argument.
"""

import argparse
import inspect
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Command = Callable[[Any], int]


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
        default: `...` for an option that must be given. False makes a switch, a tuple a repeatable option.
        help: what it means; the default is added to it.
        flag: its name where it is not the field's, with dashes.
        parse: text → value, where the annotation does not say. ValueError and ArgumentTypeError end in usage.
    """
    settings = {"help": help, "flag": flag, "parse": parse, "choices": choices, "metavar": metavar}
    return field(**({} if default is ... else {"default": default}), metadata=settings)


def argument(
    help: str, *, default: Any = ..., parse: Callable[[str], Any] | None = None, choices: Any = None,
    metavar: str | None = None,
) -> Any:  # fmt: skip
    """A dataclass field that is a positional argument.

    Annotated as a tuple it takes one or more values; with a default any number.
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

    One command stands for the program itself, several become subcommands by their functions' names. An error
    of a type in `errors` is printed in one line and gives exit code 1; wrong arguments give 2.
    """
    options_classes = {command: _options_class(command) for command in commands}
    if len(commands) == 1:
        parser = _parser(argparse.ArgumentParser, options_classes[commands[0]], prog=prog)
        parser.set_defaults(_command=commands[0])
    else:
        parser = argparse.ArgumentParser(prog=prog, description=description)
        subparsers = parser.add_subparsers(dest="_name", required=True, metavar="COMMAND")
        for command, options_class in options_classes.items():
            name = command.__name__.replace("_", "-")
            summary = (options_class.__doc__ or "").split("\n")[0].rstrip(".")
            child = _parser(subparsers.add_parser, options_class, name=name, help=summary)
            child.set_defaults(_command=command)
    values = vars(parser.parse_args(arguments))
    command = values.pop("_command")
    values.pop("_name", None)
    # What is absent keeps the default of its field.
    given = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v not in (None, [])
    }
    try:
        options = options_classes[command](**given)
    except ValueError as error:  # of __post_init__
        parser.error(str(error))
    try:
        return command(options)
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _options_class(command: Command) -> Any:
    (hint,) = (hint for name, hint in get_type_hints(command).items() if name != "return")
    return hint


def _parser(
    make: Callable[..., argparse.ArgumentParser], options_class: Any, **named: Any
) -> argparse.ArgumentParser:
    """A parser of the options; the first paragraph of the class's docstring describes, the others follow."""
    name = {"prog": named["prog"]} if "prog" in named else {"help": named["help"]}
    positional = () if "prog" in named else (named["name"],)
    description, _, epilog = inspect.cleandoc(options_class.__doc__ or "").partition("\n\n")
    parser = make(
        *positional, **name, description=description, epilog=epilog or None,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    hints = get_type_hints(options_class)
    for one in fields(options_class):
        _add(parser, one, hints[one.name])
    return parser


def _add(parser: argparse.ArgumentParser, spec: Field[Any], hint: Any) -> None:
    """Add the option or argument of a dataclass field."""
    settings = spec.metadata
    required = spec.default is MISSING
    kind, repeated, choices = _kind(hint)
    named: dict[str, Any] = {"help": _help(settings["help"], spec.default), "metavar": settings["metavar"]}
    if choices or settings["choices"]:
        named["choices"] = choices or settings["choices"]
    if settings.get("positional"):
        nargs = ("+" if required else "*") if repeated else (None if required else "?")
        parser.add_argument(spec.name, type=settings["parse"] or kind, nargs=nargs, **named)
        return
    flag = settings["flag"] or "--" + spec.name.replace("_", "-")
    named |= {"dest": spec.name, "required": required}
    if kind is bool:
        del named["metavar"]
        parser.add_argument(flag, action="store_true", default=None, **named)
    elif repeated:
        parser.add_argument(flag, type=settings["parse"] or kind, action="extend", nargs="+", **named)
    else:
        parser.add_argument(flag, type=settings["parse"] or kind, **named)


def _kind(hint: Any) -> tuple[Any, bool, Sequence[Any] | None]:
    """The type of one value, whether there may be several, and the values that are allowed."""
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
