"""The Python source of a manifest, read without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from rapidfireai.api.experiment import ExperimentSpec
from rapidfireai.arguments import did_you_mean
from rapidfireai.config_fields import FUNCTION
from rapidfireai.errors import ConfigError

SOURCE_PATH = "spec.code.source"
"""The field of inline source, which tracebacks of its functions name as their file."""
_ANYTHING = "*"
_INSTALLED = "A function that the workers have installed is written module:name"


def check_code(spec: ExperimentSpec) -> None:
    """Check what can be known of an experiment's functions without running anything.

    Source in a ConfigMap is read by the workers alone: they say what is wrong with it.

    Args:
        spec: The experiment.

    Raises:
        ConfigError: If a line of the source is no Python, or a name that is used is not defined in it.
    """
    code = spec.code
    named = [
        use for index, group in enumerate(spec.configs) for use in _named(group.config, f"spec.configs[{index}].config")
    ]
    if code is not None and code.create_model is not None:
        named.append((code.create_model, "spec.code.createModel"))
    own = [(name, where) for name, where in named if ":" not in name]
    if code is not None and code.source is not None:
        bound = defined_in(code.source, SOURCE_PATH)
        for name, where in own:
            if name not in bound and _ANYTHING not in bound:
                hint = did_you_mean(name, sorted(bound)) or "; define it at the top level."
                raise ConfigError(where, f"{SOURCE_PATH} does not define {name!r}{hint} {_INSTALLED}")
    elif own and (code is None or code.config_map is None):
        name, where = own[0]
        raise ConfigError(
            where, f"{name!r} is defined nowhere: give {SOURCE_PATH} or spec.code.configMap. {_INSTALLED}"
        )


def defined_in(source: str, path: str) -> frozenset[str]:
    """Return the names that source defines at its top level, also inside `if`, `try` and `with`; `*` if any may be.

    Args:
        source: The source; it is parsed, never run.
        path: The field that holds it.

    Raises:
        ConfigError: If it is no Python, naming the line.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        text = (error.text or "").strip()[:80]
        raise ConfigError(path, f"line {error.lineno or 1}: {error.msg}{f': {text}' if text else ''}") from error
    except ValueError as error:
        raise ConfigError(path, f"is no text that Python reads: {error}") from error
    except (RecursionError, MemoryError) as error:  # brackets or operators nested thousands deep
        raise ConfigError(path, "is nested too deeply for Python's parser; write it flatter") from error
    return frozenset(_bound(tree))


def _named(config: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield each function that a config names, and where."""
    todo = [(config, path)]
    while todo:
        value, where = todo.pop()
        if isinstance(value, Mapping):
            if isinstance(value.get(FUNCTION), str):
                yield value[FUNCTION], where
            todo += [(each, f"{where}.{key}") for key, each in value.items()]
        elif isinstance(value, list):
            todo += [(each, f"{where}[{index}]") for index, each in enumerate(value)]


def _bound(tree: ast.Module) -> Iterator[str]:
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
                continue  # what is inside is not the module's
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from (each.asname or each.name.partition(".")[0] for each in names)
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
        todo.extend(ast.iter_child_nodes(node))
