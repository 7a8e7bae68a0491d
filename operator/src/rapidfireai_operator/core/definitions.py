"""Whether the API server keeps every field that this operator knows: definitions of an older version drop some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rapidfireai.api import Condition, Experiment, ICOp, Run
from rapidfireai_operator.core.conditions import Verdict, find

Schema = Mapping[str, Any]
KINDS = (Experiment, Run, ICOp)
CURRENT = "DefinitionsCurrent"
"""The condition of an experiment that says whether definitions of its cluster drop fields."""


def currency(conditions: Iterable[Condition], outdated: str) -> list[Verdict]:
    """Judge the definitions in an experiment's condition; one that never had a reason to says nothing about them.

    Args:
        conditions: The experiment's conditions so far.
        outdated: What is wrong with them; empty if nothing is.
    """
    if outdated:
        return [Verdict(CURRENT, "False", "OlderDefinitions", outdated)]
    known = find(conditions, CURRENT) is not None
    return [Verdict(CURRENT, "True", "Renewed", "The definitions have every field that the operator knows.")] * known


def missing_fields(served: Schema) -> tuple[str, ...]:
    """Return the fields that are dropped, as `Kind.spec.field`, outermost only.

    Args:
        served: What the API server says of the kinds' group, as OpenAPI v3.
    """
    schemas = {name.rpartition(".")[2]: schema for name, schema in served["components"]["schemas"].items()}
    return tuple(path for kind in KINDS for path in _missing_of(kind.model_json_schema(), schemas[kind.__name__]))


def _missing_of(known: Schema, served: Schema) -> Iterator[str]:
    ours = {"properties": {part: known["properties"][part] for part in ("spec", "status")}}
    yield from _missing(ours, known.get("$defs", {}), served, str(known["title"]))


def _missing(known: Schema, definitions: Schema, served: Schema, path: str) -> Iterator[str]:
    for shape in _shapes(known, definitions):
        if "items" in shape and "items" in served:
            yield from _missing(shape["items"], definitions, served["items"], f"{path}[]")
        if "properties" not in served:  # a map, or free form: it keeps everything
            continue
        for name, field in shape.get("properties", {}).items():
            if name not in served["properties"]:
                yield f"{path}.{name}"
            else:
                yield from _missing(field, definitions, served["properties"][name], f"{path}.{name}")


def _shapes(known: Schema, definitions: Schema) -> Iterator[Schema]:
    """Yield what a field may be; references are followed."""
    if "$ref" in known:
        known = definitions[known["$ref"].rpartition("/")[2]]
    alternatives = [*known.get("anyOf", ()), *known.get("oneOf", ()), *known.get("allOf", ())]
    if not alternatives:
        yield known
    for each in alternatives:
        yield from _shapes(each, definitions)
