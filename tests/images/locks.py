"""What a lock file says."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.markers import Marker, default_environment
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>\S+?)(\s*;\s*(?P<marker>[^\\]+?))?\s*\\?$")
IN_THE_IMAGE = {
    **default_environment(),
    "python_version": "3.11",
    "python_full_version": "3.11.2",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "extra": "",
}


def pins(name: str) -> dict[str, str]:
    """Return the versions that a lock file chooses for Python 3.11 on Linux, by canonical name."""
    chosen = {}
    for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines():
        found = _PIN.match(line)
        if found and (found["marker"] is None or Marker(found["marker"]).evaluate(IN_THE_IMAGE)):
            chosen[canonicalize_name(found["name"])] = found["version"]
    return chosen
