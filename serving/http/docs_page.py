"""Makes the page /docs: the OpenAPI document as HTML.

The page has no scripts and loads nothing from other hosts.
"""

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from .docs_style import STYLE

SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
CONSTRAINTS = {
    "minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}",
    "minLength": "at least {} character", "minItems": "at least {}",
}  # fmt: skip
Json = Mapping[str, Any]


def docs_page(document: Json) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    prefix = document.get("servers", [{"url": ""}])[0]["url"]
    by_tag: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    links: dict[str, list[str]] = {name: [] for name in by_tag}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            (tag,) = operation["tags"]
            by_tag[tag].append(_operation(prefix, path, method, operation))
            links[tag].append(f'<a href="#{operation["operationId"]}">{_method(method)} {escape(path)}</a>')
    sections = [
        f'<section><h2 id="{escape(tag["name"])}">{escape(tag["name"].capitalize())}</h2>'
        f"<p>{_text(tag['description'])}</p>{''.join(by_tag[tag['name']])}</section>"
        for tag in document["tags"]
        if by_tag[tag["name"]]
    ]
    types = "".join(
        _schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())
    )
    navigation = "".join(f"<b>{escape(name)}</b>{''.join(rows)}" for name, rows in links.items() if rows)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(info['title'])} API</h1><p>{_text(info.get('summary', ''))} "
        'The same for machines: <a href="openapi.json">openapi.json</a>.</p></header>'
        f'<nav>{navigation}<b>types</b><a href="#types">all types</a></nav><main>{"".join(sections)}'
        f'<section><h2 id="types">Types</h2>{types}</section>'
        "</main></body></html>"
    )


def _operation(prefix: str, path: str, method: str, operation: Json) -> str:
    """The section of a route: required key, parameters, body, examples and answers."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    body = f"<p>Body: {_type(content['schema'])}</p>" if content else ""
    examples = "".join(
        f"<pre><code>{escape(_curl(prefix, path, method, operation, example['value']))}</code></pre>"
        for example in content.get("examples", {}).values()
    )
    rows = [
        (escape(parameter["name"]), _type(parameter["schema"]), _text(parameter.get("description", "")))
        for parameter in operation.get("parameters", ())
    ]
    parameters = _table(("parameter", "type", "meaning"), rows) if rows else ""
    answers = _table(
        ("status", "type", "meaning"), map(_answer, *zip(*operation["responses"].items(), strict=True))
    )
    return (
        f'<article id="{escape(operation["operationId"])}">'
        f"<h3>{_method(method)} <code>{escape(path)}</code></h3>"
        f"<p>{_text(operation.get('summary', ''))}. {_keys(operation['security'])}</p>"
        f"{_text(operation.get('description', ''))}{parameters}{body}{examples}{answers}</article>"
    )


def _answer(status: str, response: Json) -> tuple[str, str, str]:
    contents = response.get("content", {})
    types = " or ".join(
        _type(content["schema"]) if content.get("schema") else escape(media)
        for media, content in contents.items()
    )
    example = next((content["example"] for content in contents.values() if "example" in content), None)
    pretty = (
        ""
        if example is None
        else f"<details><summary>example</summary><pre><code>{_pretty(example)}</code></pre></details>"
    )
    return escape(status), types, _text(response.get("description", "")) + pretty


def _schema(name: str, schema: Json) -> str:
    """The section of a type: its fields."""
    required = schema.get("required", ())
    rows = [
        (
            f"{escape(field)}{' <em>required</em>' if field in required else ''}",
            _type(definition),
            _text(definition.get("description", "")) + _default(definition),
        )
        for field, definition in schema.get("properties", {}).items()
    ]
    table = _table(("field", "type", "meaning"), rows) if rows else f"<p>{_type(schema)}</p>"
    meaning = _text(schema.get("description", ""))
    return f'<article id="{escape(name)}"><h3>{escape(name)}</h3><p>{meaning}</p>{table}</article>'


def _type(schema: Json) -> str:
    """The description of a type, with links to other types."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(branch) for branch in branches))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " · ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}{_constraints(schema)}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"object: name → {_type(schema['additionalProperties'])}"
    return escape(str(schema.get("type", "any"))) + _constraints(schema)


def _constraints(schema: Json) -> str:
    parts = [text.format(f"{schema[name]:g}") for name, text in CONSTRAINTS.items() if name in schema]
    return f" <small>{escape(', '.join(parts))}</small>" if parts else ""


def _default(schema: Json) -> str:
    if schema.get("default") is None:
        return ""
    return f" <small>default {escape(json.dumps(schema['default']))}</small>"


def _keys(security: list[Json]) -> str:
    """The keys that a route requires, in words."""
    if not security:
        return "No key."
    names = {"shopKey": "a shop key", "adminKey": "an admin key"}
    needed = " or ".join(names.get(name, name) for choice in security for name in choice)
    return "This service needs no key." if {} in security else f"Needs {needed}."


def _curl(prefix: str, path: str, method: str, operation: Json, body: Any) -> str:
    key = (
        "" if not operation["security"] or {} in operation["security"] else ' -H "Authorization: Bearer $KEY"'
    )
    verb = "" if method == "post" else f" -X {method.upper()}"
    return (
        f"curl{verb} $SEXTET{prefix}{path}{key} -H 'Content-Type: application/json' -d '\n"
        f"{json.dumps(body, indent=2, ensure_ascii=False)}'"
    )


def _method(method: str) -> str:
    return f'<span class="method {escape(method)}">{escape(method.upper())}</span>'


def _pretty(value: Any) -> str:
    return escape(json.dumps(value, indent=2, ensure_ascii=False))


def _text(text: str) -> str:
    """Turns text into HTML, with `code` marked up."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table that scrolls on narrow screens. The cells are HTML."""
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'
