"""Functions of plain YAML: of the experiment's own source, and of modules that the worker has installed."""

from __future__ import annotations

import builtins
import hashlib
import importlib
import linecache
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from rapidfireai.errors import ConfigError
from rapidfireai.source import defined_in
from rapidfireai_worker.causes import Guarded
from rapidfireai_worker.engine import RunFailure


def load_source(source: str, name: str) -> ModuleType:
    """Return the module that source makes; it runs once a process.

    Args:
        source: The source.
        name: Where it stands; tracebacks name it as the file.

    Raises:
        RunFailure: If it is no Python, or raises.
    """
    own_name = f"_rapidfireai_source_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if own_name in sys.modules:
        return sys.modules[own_name]
    try:
        defined_in(source, name)
        code = compile(source, name, "exec")
    except ConfigError as error:
        raise RunFailure("InvalidCode", str(error)) from error
    except (SyntaxError, ValueError) as error:  # what only the compiler sees, such as a return outside of a function
        line = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise RunFailure("InvalidCode", f"{name}: {line}") from error
    show_lines(name, source)
    module = ModuleType(own_name, f"The functions of {name}.")
    module.__dict__.update({"__file__": name, "__builtins__": builtins})
    sys.modules[own_name] = module  # dataclasses and pickle look there for what it defines
    try:
        Guarded(FunctionType(code, module.__dict__), name)()
    except BaseException:
        del sys.modules[own_name]
        raise
    return module


def own_function(module: ModuleType, name: str, where: str) -> Callable[..., Any]:
    """Return a function of the experiment's own source.

    Args:
        module: What `load_source` returned.
        name: The function's name.
        where: Where the source stands.

    Raises:
        RunFailure: If there is none of that name.
    """
    known = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
    return _callable(module, name, f"{where} has no function {name!r}; it has {', '.join(known) or 'none'}")


def installed_function(name: str) -> Callable[..., Any]:
    """Return the function that `module:name` names.

    Raises:
        RunFailure: If the worker has no such module, its import fails, or it has no such function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise RunFailure("UserCodeError", f"{name}: importing {module_name} raised {error}") from error
        message = (
            f"{name}: this worker has no module {module_name!r}; name an image that has it in spec.workers.template"
        )
        raise RunFailure("InvalidCode", message) from error
    except Exception as error:
        raise RunFailure(
            "UserCodeError", f"{name}: importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    return _callable(module, function_name, f"{name}: module {module_name} has no function {function_name!r}")


def show_lines(filename: str, text: str) -> None:
    """Let tracebacks show the lines of a file that is not on this machine's disk."""
    # Without a time of change an entry is never looked for on the disk.
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


def _callable(module: ModuleType, name: str, message: str) -> Callable[..., Any]:
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        raise RunFailure("InvalidCode", message)
    return function
