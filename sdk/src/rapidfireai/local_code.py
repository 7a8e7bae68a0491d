"""What of the user's own files functions need on the workers, which have none of them.

Functions and classes of local modules go into a bundle by value. Two things do not: the lines that a traceback shows,
and local modules that a function imports while it runs.
"""

from __future__ import annotations

import ast
import dis
import importlib.util
import linecache
import site
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType

import cloudpickle

_OURS = frozenset({"rapidfireai", "rapidfireai_operator", "rapidfireai_worker"})


@dataclass(frozen=True, slots=True)
class LocalModule:
    """A module of the user's own as its file has it.

    Attributes:
        file: The file's path on this machine; of a package its `__init__.py`.
        package: Whether it is a package.
        source: The text.
    """

    file: str
    package: bool
    source: str


@contextmanager
def local_modules_by_value() -> Iterator[None]:
    """While it lasts, modules that are not installed are pickled by value."""
    known = set(cloudpickle.list_registry_pickle_by_value())
    local = [module for module in list(sys.modules.values()) if _is_local(module) and module.__name__ not in known]
    for module in local:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in local:
            cloudpickle.unregister_pickle_by_value(module)


def lines_of(codes: Iterable[CodeType]) -> dict[str, dict[int, str]]:
    """Return the source of code objects: by file, blocks of lines by the number of their first line.

    Only the lines of these functions are in it, so that an edit elsewhere in their file changes nothing.
    """
    numbers: dict[str, set[int]] = {}
    for code in codes:
        ends = (end for _, end, _, _ in code.co_positions() if end is not None)
        last = max(ends, default=code.co_firstlineno)
        numbers.setdefault(code.co_filename, set()).update(range(code.co_firstlineno, last + 1))
    blocks: dict[str, dict[int, str]] = {}
    for file in sorted(numbers):
        text = linecache.getlines(file)
        first = previous = 0
        for number in sorted(each for each in numbers[file] if 0 < each <= len(text)):
            first = first if number == previous + 1 else number
            block = blocks.setdefault(file, {})
            block[first] = block.get(first, "") + text[number - 1]
            previous = number
    return blocks


def modules_imported_by(codes: Iterable[CodeType]) -> dict[str, LocalModule]:
    """Return the local modules that code objects import when they run, with the local modules that these import."""
    packages = {
        getattr(module, "__file__", None): module.__package__ or ""
        for module in list(sys.modules.values())
        if isinstance(module, ModuleType) and _is_local(module)
    }
    todo = [name for code in codes for name in _imported_by_code(code, packages.get(code.co_filename, ""))]
    found: dict[str, LocalModule] = {}
    while todo:
        name = todo.pop()
        parents = [name.rpartition(".")[0]] if "." in name else []
        if name in found or (parents and parents[0] not in found and _local_module(parents[0]) is None):
            continue
        module = _local_module(name)
        if module is not None:
            found[name] = module
            package = name if module.package else name.rpartition(".")[0]
            todo += [*parents, *_imported_by_source(module.source, package)]
    return dict(sorted(found.items()))


def _imported_by_code(code: CodeType, package: str) -> Iterator[str]:
    constants: list[object] = [0, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level, members = constants[-2:]
            yield from _candidates(instruction.argval, members, level if isinstance(level, int) else 0, package)
        elif instruction.opname in {"LOAD_CONST", "LOAD_SMALL_INT"}:
            constants.append(instruction.argval)


def _imported_by_source(source: str, package: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                for each in names:
                    yield from _candidates(each.name, None, 0, package)
            case ast.ImportFrom(module=module, names=names, level=level):
                yield from _candidates(module or "", tuple(each.name for each in names), level, package)


def _candidates(name: str, members: object, level: int, package: str) -> Iterator[str]:
    """Yield the modules that an import may load: what it names, and each member, which may be a submodule."""
    if level:
        base = package.rsplit(".", level - 1)[0] if level > 1 else package
        name = f"{base}.{name}" if name else base
    if name:
        yield name
        for member in members if isinstance(members, tuple) else ():
            yield f"{name}.{member}"


def _local_module(name: str) -> LocalModule | None:
    """Return a module from its file, or None if it is installed, built in or no module at all."""
    if name.partition(".")[0] in _OURS:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):  # its package fails to load here, as it will on the worker
        return None
    if spec is None:
        return None
    folders = spec.submodule_search_locations
    if spec.origin is None:  # a folder without __init__.py
        return LocalModule(f"{folders[0]}/__init__.py", True, "") if folders and _is_own_file(folders[0]) else None
    source = _own_source(spec.origin) if spec.has_location else None
    return None if source is None else LocalModule(spec.origin, folders is not None, source)


def _own_source(file: str) -> str | None:
    if not file.endswith(".py") or not _is_own_file(file):
        return None
    try:
        with tokenize.open(file) as opened:
            source = opened.read()
        ast.parse(source)
    except (OSError, SyntaxError, ValueError):  # the import says it better, with the line, where it happens
        return None
    return source


def is_installed(name: str) -> bool:
    """Return whether a module is part of Python or of an installed package, so that workers can have it too.

    Args:
        name: The module's name; it was imported.
    """
    module = sys.modules.get(name)
    return name != "__main__" and isinstance(module, ModuleType) and not _is_local(module) and _has_origin(module)


def _has_origin(module: ModuleType) -> bool:
    """Return whether another process can import a module: one that was made by hand has no spec."""
    return getattr(module, "__spec__", None) is not None


def _is_local(module: object) -> bool:
    if not isinstance(module, ModuleType) or module.__name__ == "__main__":
        return False
    if module.__name__.partition(".")[0] in _OURS or sys.modules.get(module.__name__) is not module:
        return False
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and file.endswith(".py") and _is_own_file(file)


@cache
def _is_own_file(file: str) -> bool:
    path = Path(file).resolve()
    return not any(path.is_relative_to(library) for library in _library_directories())


@cache
def _library_directories() -> tuple[Path, ...]:
    paths: Mapping[str, str] = sysconfig.get_paths()
    named = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib") if key in paths]
    every = (*named, *site.getsitepackages(), site.getusersitepackages(), sysconfig.get_config_var("LIBDEST"))
    return tuple(Path(each).resolve() for each in every if each)
