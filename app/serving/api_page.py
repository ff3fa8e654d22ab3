"""A page for people that says what the API has, made from its OpenAPI document; nothing of it comes from elsewhere."""

from html import escape
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse

_SHARED = "model"
_KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif;
  --paper: #fbfaf8; --ink: #1f2428; --link: #1d6a86; --line: #dedad3 }
@media (prefers-color-scheme: dark) { :root { --paper: #131517; --ink: #e6e4df; --link: #7cc4dc; --line: #34383c } }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; background: var(--paper); color: var(--ink) }
a { color: var(--link) }
h2 { margin: 2.5rem 0 .5rem; font: 600 1.05rem ui-monospace, monospace; overflow-wrap: anywhere }
p { margin: .5rem 0 }
table { border-collapse: collapse; width: 100%; margin-top: .8rem }
td, th { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-top: 1px solid var(--line) }
td:nth-child(1), th:nth-child(1) { width: 6rem }
td:nth-child(2), th:nth-child(2) { width: 30% }
code { font-size: .95em; overflow-wrap: anywhere }
"""


async def page(request: Request) -> HTMLResponse:
    """The page at ``/api/``."""
    root = request.scope.get("root_path", "")
    document: dict[str, Any] = request.app.openapi()
    asked = [(path, methods["get"]) for path, methods in document["paths"].items()]
    choices = {name: schema["enum"] for name, schema in document["components"]["schemas"].items() if "enum" in schema}
    body = "".join(_question(root, path, question, choices) for path, question in asked)
    title = escape(document["info"]["title"])
    text = _code(document["info"]["description"])
    shared = next(one for one in asked[0][1]["parameters"] if one["name"] == _SHARED)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: HTTP API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}: HTTP API</h1><p>{text}</p>"
        f"<p>Every question also takes <code>{_SHARED}</code>: {escape(shared['description'])}</p>"
        f'<p><a href="{escape(root)}/openapi.json">OpenAPI document</a> · '
        f'<a href="{escape(root.removesuffix("/api"))}/">dashboard</a></p>{body}</body></html>',
        headers={"Cache-Control": "no-cache"},
    )


def _question(root: str, path: str, question: dict[str, Any], choices: dict[str, list[str]]) -> str:
    found = question.get("parameters", [])
    rows = "".join(_parameter(one, choices) for one in found if one["name"] != _SHARED)
    address, query = path, {}
    for one in found:
        example = next(iter(one["schema"].get("examples", [])), None)
        if one["in"] == "path":
            address = address.replace("{" + one["name"] + "}", quote(str(example)))
        elif one.get("required"):
            query[one["name"]] = example
    example = f"{root}{address}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
    head = "<tr><th>parameter</th><th>holds</th><th>meaning</th></tr>"
    return (
        f"<h2>GET {escape(root + path)}</h2><p>{escape(question['summary'])}</p>"
        f'<p>For example <a href="{escape(example)}"><code>{escape(example)}</code></a></p>'
        + (f"<table>{head}{rows}</table>" if rows else "")
    )


def _parameter(one: dict[str, Any], choices: dict[str, list[str]]) -> str:
    needed = ", needed" if one.get("required") else ""
    meaning = escape(one.get("description") or one["schema"].get("description", ""))
    return (
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(_holds(one['schema'], choices))}{needed}</td>"
        f"<td>{meaning}</td></tr>"
    )


def _code(text: str) -> str:
    """Text whose parts between backticks are code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def _holds(schema: dict[str, Any], choices: dict[str, list[str]]) -> str:
    """A parameter's schema in words."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    kind = kinds[0]
    if "$ref" in kind:
        return " or ".join(choices[kind["$ref"].rpartition("/")[2]])
    if kind["type"] == "array":
        words = "token ids" if kind["items"]["type"] == "integer" else "texts"
    else:
        words = _KINDS[kind["type"]]
    if "minimum" in kind and "maximum" in kind:
        words += f" from {kind['minimum']:,.0f} to {kind['maximum']:,.0f}"
    elif "maxLength" in kind:
        words += f" of at most {kind['maxLength']:,} characters"
    return words + (f", {schema['default']} without it" if schema.get("default") not in (None, []) else "")
