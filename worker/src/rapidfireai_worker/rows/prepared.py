"""Rows that were formatted or tokenised, kept on the volume by what they were made of for other workers."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from datasets import Dataset, load_from_disk

from rapidfireai_worker.durable import sha256_of, sync, sync_directory
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.rng import untouched_rng

_LASTING = "content-"
"""Begins the fingerprint of rows that follow from what is named in it, in whatever process they are made."""
_MANIFEST = "manifest.json"
_USED = ".used"
_log = structlog.get_logger(__name__)


def mark_lasting(rows: Dataset, identity: str) -> Dataset:
    """Let `rows` be known by what they were made of, which `identity` names."""
    rows._fingerprint = _LASTING + hashlib.sha256(identity.encode()).hexdigest()[:32]
    return rows


def is_lasting(rows: Dataset | None) -> bool:
    """Return whether rows are known by what they were made of; no rows are."""
    return rows is None or str(rows._fingerprint).startswith(_LASTING)


def is_written_out(value: Any) -> bool:
    """Return whether JSON holds all of a value, so that equal text means equal values in every process."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def tokenizer_digest(tokenizer: Any) -> str | None:
    """Return the sha256 of a tokenizer's files, or None if they do not say all of it."""
    kind = type(tokenizer)
    if not kind.__module__.startswith("transformers."):
        return None
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}".encode())
    with tempfile.TemporaryDirectory(prefix="tokenizer-") as directory, untouched_rng():
        tokenizer.save_pretrained(directory)
        for path in sorted(path for path in Path(directory).rglob("*") if path.is_file()):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class PreparedSets:
    """Sets of rows on the volume, each written whole or not at all and verified when it is read.

    A set that cannot be kept is no failure: it is made again where it is needed.

    Args:
        volume: The shared volume.
        facts: The versions that what is made depends on.
    """

    def __init__(self, volume: Volume, facts: Mapping[str, Any]) -> None:
        self._root = volume.prepared
        self._facts = dict(facts)

    def get(self, key: str) -> Dataset | None:
        """Return the rows that were kept for `key`, or None; a damaged set is taken away."""
        directory = self._directory(key)
        if not directory.is_dir():
            return None
        try:
            manifest = json.loads((directory / _MANIFEST).read_text())
            for name, expected in manifest["files"].items():
                if sha256_of(directory / name) != expected:
                    raise ValueError(f"{name} is not what was written")  # noqa: TRY301 - as whatever else is wrong
            rows = load_from_disk(str(directory))
            (directory / _USED).touch()
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("prepared rows cannot be read, making them again", path=str(directory), error=str(error))
            shutil.rmtree(directory, ignore_errors=True)  # what stays is found damaged again
            return None
        return mark_lasting(rows, key)

    def put(self, key: str, rows: Dataset) -> None:
        """Keep rows for `key`; whoever was there first has the same and stays."""
        directory = self._directory(key)
        temporary = directory.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            rows.save_to_disk(str(temporary))
            files = {path.name: sha256_of(path) for path in temporary.iterdir()}
            (temporary / _MANIFEST).write_text(json.dumps({"files": files}))
            for path in temporary.iterdir():
                sync(path)
            sync_directory(temporary)
            temporary.rename(directory)
            sync_directory(directory.parent)
        except OSError as error:
            if not directory.is_dir():
                _log.warning("prepared rows are not kept for other workers", path=str(directory), error=str(error))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # it has its name by now, or another worker was first

    def _directory(self, key: str) -> Path:
        return self._root / hashlib.sha256(json.dumps([key, self._facts], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Sharing:
    """How one run shares what it prepares.

    Attributes:
        identity: Names its base and tokenizer in the keys of `remember`.
        remember: Returns what was made before under an equal key, or makes it.
    """

    identity: str
    remember: Callable[[str, Callable[[], Dataset]], Dataset]
