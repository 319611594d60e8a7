"""The page of serving's Python API, from signatures and docstrings; no module is imported."""

import re
from collections.abc import Collection
from functools import cache
from typing import Any

import griffe

from documentation.markdown import ROOT
from documentation.reference.tables import cell, code, table

FACTORY = re.compile(r"field\(default_factory=(\w+)\)")
INTRODUCTION = """# Python

The names that `from serving import …` has, or `from sextet import …` where the wheel is installed: classes,
functions, parameters and errors. This page is generated from the signatures and docstrings.
"""


@cache
def serving_package() -> griffe.Module:
    """The package, read without being imported."""
    module = griffe.load(
        "serving", search_paths=[str(ROOT)], docstring_parser="google", allow_inspection=False
    )
    assert isinstance(module, griffe.Module)
    return module


def public_names() -> dict[str, Any]:
    """Return the object of every name in `serving.__all__`."""
    package = serving_package()
    places = {
        name: member.target_path
        for name, member in package.members.items()
        if isinstance(member, griffe.Alias)
    }
    names = [str(name).strip("'\"") for name in package.exports or []]
    return {name: package[places[name].removeprefix("serving.")] for name in sorted(names)}


def python_page() -> str:
    """The page, with a section for each public name."""
    return "\n".join([INTRODUCTION, *(_section(name, each) for name, each in public_names().items())])


def _section(name: str, described: Any) -> str:
    lines = [f"## {name}\n"]
    if described.is_function:
        return "\n".join([*lines, _signature(described), _text(described)])
    fields = _fields(described)
    lines.append(_text(described, without={each[0] for each in fields}))
    if fields:
        n_columns = 4 if any(each[3] for each in fields) else 3  # a small class explains its fields at once
        rows = [[code(field), code(hint), code(default), cell(text)] for field, hint, default, text in fields]
        head = ("field", "type", "default", "meaning")
        lines.append(table(head[:n_columns], [row[:n_columns] for row in rows]))
    for method in described.functions.values():
        if not method.name.startswith("_"):
            lines += [f"### {name}.{method.name}\n", _signature(method), _text(method)]
    return "\n".join(lines)


def _fields(described: Any) -> list[tuple[str, str, str, str]]:
    """Return (name, type, default, meaning) of each field of a dataclass, or parameter of a class."""
    meanings = _meanings(described)
    if "dataclass" in described.labels:
        parameters = [
            (each.name, each.annotation, FACTORY.sub(r"\1()", str(each.value)) if each.value else None)
            for each in described.attributes.values()
            if not each.name.startswith("_") and each.annotation and "property" not in each.labels
        ]
    elif "__init__" in described.functions:
        parameters = [
            (each.name, each.annotation, each.default)
            for each in described.functions["__init__"].parameters
            if each.name != "self"
        ]
    else:
        parameters = []
    return [
        (name, str(hint or ""), "" if default is None else str(default), meanings.get(name, ""))
        for name, hint, default in parameters
    ]


def _meanings(described: Any) -> dict[str, str]:
    """Return parameter → its description in the docstring.

    An entry may name several parameters: `store, log: …`.
    """
    if described.docstring is None:
        return {}
    return {
        name.strip(): each.description
        for section in described.docstring.parsed
        if section.kind.value == "parameters"
        for each in section.value
        for name in each.name.split(",")
    }


def _signature(function: Any) -> str:
    parameters = [p for p in function.parameters if p.name not in ("self", "cls")]
    written = []
    for parameter in parameters:
        default = f" = {parameter.default}" if parameter.default is not None else ""
        written.append(f"{parameter.name}: {parameter.annotation}{default}")
    joined = ", ".join(written)
    if len(joined) > 70:
        joined = "\n    " + ",\n    ".join(written) + ",\n"
    return f"```python\n{function.name}({joined}) -> {function.returns}\n```\n"


def _text(described: Any, without: Collection[str] = ()) -> str:
    """Return the docstring with its parameters as a table, without the parameters in `without`."""
    if described.docstring is None:
        return ""
    parts = []
    for section in described.docstring.parsed:
        if section.kind.value == "text":
            parts.append(section.value + "\n")
        elif section.kind.value in ("parameters", "attributes"):
            rows = [[code(e.name), cell(e.description)] for e in section.value if e.name not in without]
            head = ("parameter" if section.kind.value == "parameters" else "attribute", "meaning")
            parts += [table(head, rows)] if rows else []
        elif section.kind.value == "raises":
            parts += [f"Raises {each.annotation}: {each.description}\n" for each in section.value]
    return "\n".join(parts)
