"""What a run's record on the volume, `run.json`, says of its commits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rapidfireai_worker.layout import RunDirectory


def recorded_commits(directory: RunDirectory) -> list[dict[str, Any]]:
    """Return the recorded commits whose checkpoints are still there, oldest first.

    The newest may not be committed: it is recorded before the resource says so.
    """
    try:
        commits: list[dict[str, Any]] = json.loads(directory.record.read_text())["commits"]
    except (FileNotFoundError, ValueError, KeyError):
        return []  # there is none yet, or it was damaged: it is written anew
    return [entry for entry in commits if (directory.checkpoints / Path(entry["path"]).name).is_dir()]
