"""`docs/reference/rest.md`: every route of the gateway, from its own OpenAPI description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from generate_reference import NOTE, _table, _text

from rapidfireai_gateway.backend import Services
from rapidfireai_gateway.rest.app import create_app
from rapidfireai_gateway.sessions import Sessions
from rapidfireai_gateway.settings import Settings

METHODS = ("get", "post", "put", "patch", "delete", "head")
_EVERYWHERE = {"401", "403", "422", "429", "503"}


def description() -> dict[str, Any]:
    """Return the OpenAPI description; nothing is connected for it."""
    settings = Settings(namespaces="default", KUBERNETES_SERVICE_HOST="127.0.0.1")  # type: ignore[arg-type,call-arg]
    nobody = cast("Any", None)
    services = Services(settings, Sessions(1.0, 1.0), nobody, nobody, nobody)
    return dict(create_app(services).openapi())


def rest_page() -> str:
    """Return the page of all routes."""
    spec = description()
    lines = [
        NOTE,
        "# REST routes",
        "",
        f"{spec['info']['description']} `GET /openapi.json` of a gateway has all of this for programs, schemas "
        "included; [REST](../rest.md) shows it at work.",
        "",
        "Any route may answer 401, 403, 422, 429 and 503; further errors are named at the route.",
    ]
    groups: dict[str, list[str]] = {}
    for path, methods in spec["paths"].items():
        for method in METHODS:
            if method in methods:
                tag = (methods[method].get("tags") or ["other"])[0]
                groups.setdefault(tag, []).extend(_route(path, method, methods[method]))
    for tag, routes in groups.items():
        lines += ["", f"## {tag.capitalize()}", *routes]
    return "\n".join(lines) + "\n"


def _route(path: str, method: str, route: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"### `{method.upper()} {path}`", "", _text(route.get("description", route.get("summary", ""))))
    parameters = [each for each in route.get("parameters", ()) if each["in"] in {"query", "header"}]
    rows = [(f"`{each['name']}`", each["in"], _text(each.get("description", ""))) for each in parameters]
    if rows:
        yield from ("", *_table(("parameter", "in", "meaning"), rows))
    answers = {status: _words(each) for status, each in route["responses"].items() if status not in _EVERYWHERE}
    if "requestBody" in route:
        yield from ("", f"Body: {_body(route['requestBody'])}.")
    yield from (
        "",
        "Answers: " + "; ".join(f"{status} {_text(words).rstrip('.')}" for status, words in answers.items()) + ".",
    )


def _words(answer: Mapping[str, Any]) -> str:
    words = str(answer.get("description", ""))
    return "done" if words == "Successful Response" else words


def _body(body: Mapping[str, Any]) -> str:
    kind, content = next(iter(body["content"].items()))
    schema = content.get("schema", {})
    name = schema.get("$ref", "").rsplit("/", 1)[-1] or schema.get("title", "")
    return f"`{kind}`" + (f", `{name}`" if name else "")
