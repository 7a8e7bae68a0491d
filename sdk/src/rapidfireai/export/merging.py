"""An adapter and its base -> one model, in a process of its own: it needs torch, which the SDK does without."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from rapidfireai.errors import ExperimentError

_PROGRAM = "rapidfireai_worker.merge"
_LAST_WORDS = 3


def check_can_merge() -> None:
    """Raise ExperimentError if this environment lacks what merging needs; the message says how to get it."""
    missing = [name for name in ("rapidfireai_worker", "torch", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExperimentError(
            f"merging is done on this machine and needs {', '.join(missing)}: pip install 'rapidfireai[local]', or "
            "export the adapter and merge it where its base model is"
        )


def merge_files(adapter: Path, target: Path, dtype: str) -> None:
    """Merge an adapter into the base model that it names, and write that with its tokenizer.

    Args:
        adapter: The adapter's folder.
        target: A folder that is made.
        dtype: How the base model's weights are loaded, such as float32, or auto.

    Raises:
        ExperimentError: If it fails; the message is the merging program's.
    """
    words = [sys.executable, "-m", _PROGRAM, str(adapter), str(target), "--dtype", dtype]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        said = [line for line in ended.stderr.splitlines() if line.strip()]
        raise ExperimentError(
            f"the adapter was not merged: {' '.join(said[-_LAST_WORDS:]) or 'its process was killed'}"
        )
