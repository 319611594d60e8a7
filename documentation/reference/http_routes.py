"""The page of HTTP routes, from the OpenAPI document of the service."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from documentation.reference.tables import cell, code, table

INTRODUCTION = """# HTTP routes

Here you look up the bodies, answers and errors of each route of `sextet serve`. The page is generated from
the service's OpenAPI document. A running service has the document at `/openapi.json`, and as a page at
`/docs`.

Keys, errors, the deadline, and what each route does beyond its schema:
[HTTP conventions](http_conventions.md). Examples: [Send requests](../how_to/send_requests.md). Limits:
[Service lifecycle and limits](service_lifecycle.md#limits).
"""


@cache
def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of a service, made without a bundle."""
    from serving.http.app import create_app
    from serving.http.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        return create_app(Settings(Path(folder))).openapi()


def route_page() -> str:
    """The page, with a section for each route and for each type of a body."""
    document = openapi_document()
    parts = [INTRODUCTION]
    for path, operations in document["paths"].items():
        parts += [_route_section(method, path, operation) for method, operation in operations.items()]
    parts.append("## Types\n")
    schemas = document.get("components", {}).get("schemas", {})
    parts += [_type_section(name, schema) for name, schema in schemas.items()]
    return "\n".join(parts)


def _route_section(method: str, path: str, operation: dict[str, Any]) -> str:
    lines = [f"## {method.upper()} {path}\n", f"{operation.get('summary', '')}.\n"]
    if "description" in operation:
        lines.append(operation["description"] + "\n")
    parameters = [
        [code(each["name"]), each["in"], type_of(each.get("schema", {})), cell(each.get("description", ""))]
        for each in operation.get("parameters", [])
    ]
    if parameters:
        lines.append(table(("parameter", "in", "type", "meaning"), parameters))
    for media in operation.get("requestBody", {}).get("content", {}).values():
        lines.append(f"Body: {type_of(media.get('schema', {}))}\n")
        for name, example in media.get("examples", {}).items():
            lines.append(f"Example `{name}`:\n\n```json\n{json.dumps(example['value'], indent=2)}\n```\n")
    answers = [
        [code(status), cell(answer.get("description", "")), _answer_types(answer)]
        for status, answer in operation.get("responses", {}).items()
    ]
    lines.append(table(("status", "meaning", "body"), answers))
    return "\n".join(lines)


def _answer_types(answer: dict[str, Any]) -> str:
    return ", ".join(type_of(media.get("schema", {})) for media in answer.get("content", {}).values())


def _type_section(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        [code(field), type_of(spec), "yes" if field in required else "", cell(spec.get("description", ""))]
        for field, spec in schema.get("properties", {}).items()
    ]
    head = f"### {name}\n\n{cell(schema.get('description', ''))}\n"
    return f"{head}\n{table(('field', 'type', 'required', 'meaning'), rows)}" if rows else head


def type_of(schema: dict[str, Any]) -> str:
    """The type of a schema in words, with links to the types of bodies."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(type_of(each) for each in schema[key]))
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"mapping of text to {type_of(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))
