"""What came along with a bundle's functions: the lines that tracebacks show, and the local modules that they import."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from rapidfireai_worker.user_code.source import show_lines


def show_shipped_lines(lines: Mapping[str, Mapping[str, str]]) -> None:
    """Let tracebacks show the functions of a bundle.

    Args:
        lines: By file, blocks of lines by the number of their first line; the lines in between are not known.
    """
    for file, blocks in lines.items():
        text: list[str] = []
        for first, block in sorted((int(number), block) for number, block in blocks.items()):
            text += ["\n"] * (first - 1 - len(text)) + block.splitlines(keepends=True)
        show_lines(file, "".join(text))


def provide_modules(modules: Mapping[str, Mapping[str, Any]]) -> None:
    """Let imports find modules of the user's that are not installed here; they come before installed ones, as there.

    Args:
        modules: `file`, `package` and `source` of each module, by its name.
    """
    if modules:
        for name, module in modules.items():
            loaded = sys.modules.get(name)
            if loaded is not None and getattr(loaded, "__file__", None) != module["file"]:
                del sys.modules[name]  # something else that the worker has by that name
            show_lines(module["file"], module["source"])
        sys.meta_path.insert(0, _Shipped(modules))


class _Shipped(MetaPathFinder, ExecutionLoader):
    """Finds and loads modules from their text."""

    def __init__(self, modules: Mapping[str, Mapping[str, Any]]) -> None:
        self._modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._modules:
            return None
        package = bool(self._modules[fullname]["package"])
        return importlib.util.spec_from_loader(fullname, self, is_package=package)

    def get_source(self, fullname: str) -> str:
        return str(self._modules[fullname]["source"])

    def get_filename(self, fullname: str) -> str:
        return str(self._modules[fullname]["file"])

    def is_package(self, fullname: str) -> bool:
        return bool(self._modules[fullname]["package"])
