"""The names under which workers find classes that are installed there as they are here."""

from __future__ import annotations

import sys
import warnings
from types import ModuleType

from rapidfireai.local_code import is_installed


def installed_name(kind: type) -> str | None:
    """Return `module:Name` of a class, or None if it is no top-level name of an installed module.

    The name is the shortest: that of the outermost package which exports the class, whatever was imported how. So a
    manifest that says it as the documentation does means the same.

    Args:
        kind: The class.
    """
    module, name = kind.__module__, kind.__qualname__
    if not name.isidentifier() or not is_installed(module):
        return None
    steps = module.split(".")
    candidates = (".".join(steps[:length]) for length in range(1, len(steps) + 1))
    return next((f"{each}:{name}" for each in candidates if _exports(sys.modules.get(each), name, kind)), None)


def _exports(module: ModuleType | None, name: str, kind: type) -> bool:
    if module is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # packages that moved a class elsewhere warn of its old name
        try:
            return getattr(module, name, None) is kind
        except ImportError:  # a package that loads its members when they are asked for, and lacks something for this
            return False
