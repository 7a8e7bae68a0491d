"""The form of a clone: fields from the schema of a config, with the parent's values. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rapidfireai.config_fields import CLASS, ENV, FUNCTION, NONE, REF

Kind = Literal["number", "integer", "boolean", "choice", "text", "json"]
Schema = Mapping[str, Any]
_KINDS: Mapping[str, Kind] = {"boolean": "boolean", "number": "number", "integer": "integer", "string": "text"}
_OF_VALUE: Mapping[type, Kind] = {bool: "boolean", int: "number", float: "number", str: "text"}
_FIXED = frozenset({"trainer_type"})
"""What a clone has from its parent, whatever is written."""
_WORDS = {
    "number": "a number, such as 3e-4",
    "integer": "a whole number",
    "json": 'JSON, such as ["q_proj", "v_proj"]',
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the form.

    Attributes:
        path: The knob, with dots.
        kind: What its value is.
        value: The parent's value; None also if the parent does not say it.
        given: Whether the parent's config says it.
        choices: The only values there are, if the schema lists them.
        optional: Whether None is a value of it.
        about: What the schema says of it.
    """

    path: str
    kind: Kind
    value: Any = None
    given: bool = True
    choices: tuple[str, ...] = ()
    optional: bool = False
    about: str = ""

    @property
    def section(self) -> str:
        """The mapping that it stands in, or `config`."""
        return self.path.rpartition(".")[0] or "config"

    @property
    def name(self) -> str:
        """Its last word."""
        return self.path.rpartition(".")[2]

    def shown(self) -> Any:
        """Return the value as the input shows it."""
        if self.kind == "boolean":
            return self.value
        if self.value is None:
            return ""
        return json.dumps(self.value) if self.kind == "json" else str(self.value)

    def read(self, raw: Any) -> Any:
        """Return the value that was typed.

        An empty input is None, which takes the knob out of the config: its default holds then. The word `none`
        is the value None, where that is one.

        Raises:
            ValueError: If it is none of this field; the message says what may be written.
        """
        if isinstance(raw, bool):
            return raw
        words = str(raw if raw is not None else "").strip()
        if not words or (words == "none" and self.optional):
            return {NONE: True} if words else None
        read = _READERS.get(self.kind, str)
        try:
            return read(words)
        except ValueError:
            raise ValueError(f"{self.path}: write {_WORDS[self.kind]}, not {words!r}") from None


def _number(words: str) -> int | float:
    return int(words) if words.lstrip("+-").isdigit() else float(words)


def _json(words: str) -> Any:
    """Read JSON; a bare word is a string, because many arguments take a name or a list of names."""
    return json.loads(words) if words[0] in '[{"' or words in {"true", "false", "null"} else words


_READERS: Mapping[Kind, Callable[[str], Any]] = {"number": _number, "integer": int, "json": _json}


def fields_of(schema: Schema, config: Mapping[str, Any]) -> list[Field]:
    """Return the fields that a parent's config says, in its order; functions are inherited and have no field.

    Args:
        schema: The JSON schema of a config as users write it.
        config: The parent's config as users write it.
    """
    return list(_walk(schema, schema, config, ""))


def _walk(root: Schema, schema: Schema, config: Mapping[str, Any], prefix: str) -> Iterable[Field]:
    for key, value in config.items():
        path = f"{prefix}{key}"
        if path in _FIXED or _is_object(value):
            continue
        below = _property(root, schema, key)
        if isinstance(value, dict) and value:
            yield from _walk(root, below, value, f"{path}.")
        else:
            yield _field(root, below, path, value, given=True)


def _is_object(value: Any) -> bool:
    """Return whether a value is a Python object, or a list of such."""
    if isinstance(value, list):
        return any(map(_is_object, value))
    return isinstance(value, dict) and not {REF, FUNCTION, CLASS, ENV}.isdisjoint(value)


def addable(schema: Schema, config: Mapping[str, Any]) -> dict[str, Field]:
    """Return the fields that the schema knows and the parent does not say, by path."""
    there = {field.path for field in fields_of(schema, config)} | _FIXED
    return {field.path: field for field in _known(schema, schema, "", 0) if field.path not in there}


def _known(root: Schema, schema: Schema, prefix: str, depth: int) -> Iterable[Field]:
    for key in schema.get("properties") or {}:
        below = _property(root, schema, key)
        members = below.get("properties") or {}
        if REF in members:  # a function: inherited, and nothing to type
            continue
        if members and depth < 2:
            yield from _known(root, below, f"{prefix}{key}.", depth + 1)
        else:
            yield _field(root, below, f"{prefix}{key}", None, given=False)


def _property(root: Schema, schema: Schema, key: str) -> Schema:
    """Return the schema of a property, references followed; empty if it is not known."""
    found = (schema.get("properties") or {}).get(key)
    if not isinstance(found, Mapping):
        return {}
    return _resolved(root, found)


def _resolved(root: Schema, schema: Schema) -> Schema:
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    place: Any = root
    for word in reference.removeprefix("#/").split("/"):
        place = place.get(word, {}) if isinstance(place, Mapping) else {}
    return {**place, **{key: value for key, value in schema.items() if key != "$ref"}}


def _field(root: Schema, schema: Schema, path: str, value: Any, *, given: bool) -> Field:
    alternatives = [_resolved(root, each) for each in schema.get("anyOf") or schema.get("oneOf") or [schema]]
    names: list[str] = []
    for each in alternatives:
        named = each.get("type")
        names += named if isinstance(named, list) else [named] if named else []
    choices = tuple(str(word) for each in alternatives for word in each.get("enum") or () if word is not None)
    optional = "null" in names or any(None in (each.get("enum") or ()) for each in alternatives)
    about = str(schema.get("description") or "")
    return Field(path, _kind(set(names) - {"null"}, choices, value), value, given, choices, optional, about)


def _kind(names: set[str], choices: tuple[str, ...], value: Any) -> Kind:
    """Return what a value is: as the parent's value has it, else as the schema says."""
    if choices and names <= {"string"} and (value is None or str(value) in choices):
        return "choice"
    if value is not None:
        kind = _OF_VALUE.get(type(value), "json")
        return "integer" if kind == "number" and names == {"integer"} else kind
    if names & {"array", "object"}:
        return "json"
    return next((kind for name, kind in _KINDS.items() if name in names), "text")


def patch_of(fields: Mapping[str, Field], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was changed, by dotted path; a value typed back to the parent's is no change.

    Args:
        fields: The fields of the form, by path.
        typed: What stands in the inputs that were touched.

    Raises:
        ValueError: If something typed is no value of its field.
    """
    made = {}
    for path, raw in typed.items():
        field = fields[path]
        value = field.read(raw)
        if value is None and not field.given:
            continue
        if value != field.value or isinstance(value, bool) != isinstance(field.value, bool):
            made[path] = value
    return made
