"""Processes in an image as a restricted pod has them: another user, no capabilities, a read-only root, no network."""

from __future__ import annotations

import json
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = 10001
_DEVICES = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
]


@dataclass(frozen=True, slots=True)
class Container:
    """An image's files and configuration, and a directory for bundles."""

    root: Path
    config: dict[str, Any]
    folder: Path

    def run(self, *command: str, seconds: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container of its own, with the image's environment and these variables."""
        name = f"rapidfireai-{uuid.uuid4().hex[:12]}"
        bundle = self.folder / name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(self._specification(command, variables)))
        return subprocess.run(
            ["runc", "--root", str(self.folder / "runc"), "run", "--bundle", str(bundle), name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def python(self, code: str, **variables: str) -> str:
        """Run Python code and return what it prints."""
        answer = self.run("python", "-c", code, **variables)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    def _specification(self, command: tuple[str, ...], variables: dict[str, str]) -> dict[str, Any]:
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": USER, "gid": USER},
                "args": list(command),
                "env": [*self.config["Env"], *(f"{name}={value}" for name, value in variables.items())],
                "cwd": self.config["WorkingDir"],
                "capabilities": {},
                "noNewPrivileges": True,
            },
            "root": {"path": str(self.root), "readonly": True},
            "mounts": _DEVICES,
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]},
        }
