"""Routes of the shop's rules: read, write and remove them while the service runs."""

import asyncio
import json
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from ..pipeline.rules.check import check_rules
from ..pipeline.rules.compiled import CompiledRules
from ..pipeline.rules.document import MAX_RULES, TOPIC, Rule, read_rule
from ..pipeline.rules.fields import RuleError
from ..recommender import Recommender
from ..stores.live_state import Change
from . import openapi_examples
from .body import BodyReader
from .live_updates import LiveUpdates
from .problems import ProblemError, not_configured_error, unavailable_error
from .rule_book import RuleBook
from .rule_schema import RULE_EXAMPLES, RemovedOut, RuleIn, RuleOut, RulesOut
from .service import Service


def add_rule_routes(app: FastAPI, service: Service, bodies: BodyReader) -> None:
    """Add /v1/rules to the application."""

    @app.get(
        "/v1/rules", summary="The rules of the shop: what they match, and what is wrong with them",
        response_model=RulesOut, responses=openapi_examples.problem_responses(401, 403, 501, 503),
    )  # fmt: skip
    async def list_rules() -> Response:
        recommender = service.recommender()
        await _read_changes(service)
        return JSONResponse(await asyncio.to_thread(describe_rules, service.rules, recommender))

    @app.put(
        "/v1/rules/{name}", summary="Add or replace a live rule; all workers obey it within a second or two",
        response_model=RuleOut,
        responses=openapi_examples.problem_responses(400, 401, 403, 408, 413, 415, 422, 501, 503),
        openapi_extra=openapi_examples.request_body(RuleIn, **RULE_EXAMPLES),
    )  # fmt: skip
    async def put_rule(name: str, request: Request) -> Response:
        live, recommender = _live(service), service.recommender()
        body = await bodies.read(request)
        await _read_changes(service)
        rule = _parse_rule(name, body, service.rules)
        return JSONResponse(await asyncio.to_thread(_put_rule, live, service.rules, recommender, rule))

    @app.delete(
        "/v1/rules/{name}", summary="Remove a live rule", response_model=RemovedOut,
        responses=openapi_examples.problem_responses(401, 403, 404, 409, 422, 501, 503),
    )  # fmt: skip
    async def delete_rule(name: str) -> Response:
        live = _live(service)
        await _read_changes(service)
        named = service.rules.rules.get(name)
        if named is None:
            raise ProblemError(404, f"there is no rule '{name}': GET /v1/rules lists them")
        if named.source == "file":
            raise ProblemError(
                409,
                f"'{name}' is a rule of the file: remove it from the file, or PUT a rule of the same name, "
                "which applies in its place",
            )
        await asyncio.to_thread(_write, live, Change(TOPIC, name, None))
        return JSONResponse({"removed": name})


def describe_rules(book: RuleBook, recommender: Recommender) -> dict[str, Any]:
    """Returns all rules as the JSON values of RulesOut."""
    named = book.rules
    compiled = recommender.rules.compiled or CompiledRules([], recommender.rules.catalog)
    findings = check_rules(compiled)
    n_items = {entry.rule.name: entry.n_items for entry in compiled.rules}
    return {
        "bundle_version": recommender.bundle.version,
        "rules": [
            {
                "name": name,
                "source": entry.source,
                "rule": entry.rule.content,
                "items": n_items.get(name, 0),
                "warnings": [finding.text for finding in findings if finding.rule == name],
            }
            for name, entry in named.items()
        ],
        "problems": book.problems,
    }


async def _read_changes(service: Service) -> None:
    """Apply changes of other workers since the last poll, so that clients see what they have written."""
    if service.live is not None:
        await asyncio.to_thread(service.live.poll)


def _live(service: Service) -> LiveUpdates:
    if service.live is None:
        raise not_configured_error("place for live state", "--live")
    return service.live


def _parse_rule(name: str, body: bytes, book: RuleBook) -> Rule:
    """The rule of a body. Raises ProblemError (400, 422) that names the wrong field."""
    try:
        content = json.loads(body, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, f"the body is not JSON: {error}") from None
    try:
        rule = read_rule(name, content)
    except RuleError as error:
        raise _rule_problem(error.field, error.detail) from None
    names = book.rules.keys() | {name}
    if len(names) > MAX_RULES:
        raise ProblemError(409, f"there are {MAX_RULES} rules already: remove one first")
    return rule


def _reject_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _rule_problem(field: str, detail: str) -> ProblemError:
    pointer = "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in field.split(".") if part)
    error = {"field": field or "the body", "pointer": pointer, "detail": detail}
    return ProblemError(422, f"{error['field']}: {detail}", [error])


def _put_rule(live: LiveUpdates, book: RuleBook, recommender: Recommender, rule: Rule) -> dict[str, Any]:
    """Write a rule; returns RuleOut as JSON values. Raises ProblemError (422, 503)."""
    unknown = recommender.rules.catalog.unknown_names(rule.match)
    if wrong := next((name for name in unknown if name.is_error), None):
        raise _rule_problem(f"{rule.kind}.{wrong.field}", wrong.detail)
    _write(live, Change(TOPIC, rule.name, json.dumps(rule.content).encode()))
    described = describe_rules(book, recommender)["rules"]
    return next(entry for entry in described if entry["name"] == rule.name)


def _write(live: LiveUpdates, change: Change) -> None:
    try:
        live.write([change])
    except OSError as error:
        raise unavailable_error(f"the live state did not store the rule: {error}") from None
