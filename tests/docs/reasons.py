"""The reasons of conditions and events, found in the code of operator and worker."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = ROOT / "operator" / "src" / "rapidfireai_operator"
WORKER = ROOT / "worker" / "src" / "rapidfireai_worker"
PLACES = {"Verdict": 2, "Refused": 0, "Event": 3, "RunError": 0, "RunFailure": 0, "_finished": 0, "_event": 1}
"""Where the reason stands among the arguments of what makes conditions, events and failures."""
_REASON = re.compile(r"^[A-Z][a-zA-Z]+$")


def reasons(folder: Path) -> dict[str, Path]:
    """Return every reason that the modules of a folder can write, with a module that does."""
    found: dict[str, Path] = {}
    trees = {path: ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))}
    constants = {
        name: values for tree in trees.values() for name, values in _assigned(ast.Module(tree.body, [])).items()
    }
    for path, tree in trees.items():
        for function in _functions(tree):
            for reason in _in_function(function, constants):
                found.setdefault(reason, path)
    return found


def _functions(tree: ast.Module) -> Iterator[ast.AST]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    yield ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)], [])


def _in_function(function: ast.AST, constants: dict[str, list[ast.expr]]) -> Iterator[str]:
    assigned = {**{name: each for name, each in constants.items() if name.isupper()}, **_assigned(function)}
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            named = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            placed = [node.args[PLACES[name]]] if name in PLACES and len(node.args) > PLACES[name] else []
            for expression in [*named, *placed] if name in PLACES else []:
                yield from _constants(expression, assigned)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and _returns_pair(function):
            yield from _constants(node.value.elts[0], assigned)


def _returns_pair(function: ast.AST) -> bool:
    """Whether a function answers a reason and a sentence."""
    returned = getattr(function, "returns", None)
    return returned is not None and ast.unparse(returned) == "tuple[str, str]"


def _assigned(function: ast.AST) -> dict[str, list[ast.expr]]:
    """Return what each name of a function is set to."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in pairs:
                if isinstance(name, ast.Name):
                    found.setdefault(name.id, []).append(value)
    return found


def _constants(expression: ast.expr, assigned: dict[str, list[ast.expr]]) -> Iterator[str]:
    if isinstance(expression, ast.Name):
        for value in assigned.get(expression.id, []):
            if not isinstance(value, ast.Name):
                yield from _constants(value, assigned)
        return
    if isinstance(expression, ast.IfExp):  # the test decides, it is no reason
        yield from _constants(expression.body, assigned)
        yield from _constants(expression.orelse, assigned)
        return
    values = expression.value.values if _is_choice(expression) else [expression]
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str) and _REASON.match(value.value):
            yield value.value
        elif isinstance(value, ast.IfExp):
            yield from _constants(value, assigned)


def _is_choice(expression: ast.expr) -> bool:
    """Whether it is a dictionary that is looked up on the spot."""
    return isinstance(expression, ast.Subscript) and isinstance(expression.value, ast.Dict)
