"""Looks for a text everywhere that a cluster keeps or tells something."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq

_STORES = ("etcd",)
"""Directories that hold the Secrets themselves."""


def forms(secret: str) -> tuple[bytes, ...]:
    """Return a secret as it is, and as a Secret's `data` spells it."""
    plain = secret.encode()
    return plain, base64.b64encode(plain)


def found_in(content: bytes, secrets: Sequence[str]) -> list[str]:
    """Return which secrets are in something."""
    return [secret for secret in secrets if any(form in content for form in forms(secret))]


def resources(admin: httpx.Client) -> Iterator[tuple[str, bytes]]:
    """Yield every object of every kind that the API server can list, as (what it is, JSON)."""
    paths = ["/api/v1"]
    for group in admin.get("/apis").json()["groups"]:
        paths += [f"/apis/{version['groupVersion']}" for version in group["versions"]]
    for path in paths:
        for kind in admin.get(path).json().get("resources", ()):
            if "/" in kind["name"] or "list" not in kind["verbs"]:
                continue
            answer = admin.get(f"{path}/{kind['name']}")
            for each in (answer.json().get("items") or ()) if answer.is_success else ():
                meta: dict[str, Any] = each["metadata"]
                yield f"{kind['name']} {meta.get('namespace', '')}/{meta['name']}", json.dumps(each).encode()


def files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file below a directory; what is compressed or in pages also as the values in it."""
    for path in sorted(root.rglob("*")):
        if not path.is_file() or set(path.relative_to(root).parts) & set(_STORES):
            continue
        name = str(path.relative_to(root))
        yield name, path.read_bytes()
        if path.suffix == ".parquet":
            yield f"{name} (rows)", str(pq.read_table(path).to_pylist()).encode()
        if path.suffix == ".db":
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                yield f"{name} (dump)", "\n".join(database.iterdump()).encode()
