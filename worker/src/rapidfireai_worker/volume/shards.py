"""The answered shards of an evaluation: the chain that a run has committed, verified, and its files one by one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ValidationError

from rapidfireai.api import Run
from rapidfireai.api.run import Checkpoint
from rapidfireai_worker.kubeapi import Body
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.volume.checkpoints import MANIFEST, Admit, Name, Uid
from rapidfireai_worker.volume.files import send
from rapidfireai_worker.volume.homes import home_of
from rapidfireai_worker.volume.store import open_inside

_PATH = re.compile(r"experiments/[0-9a-f-]+/runs/[0-9a-f-]+/shards/(?P<rows>\d+)-\d+")
_MANIFEST_BYTES = 64 << 20
"""More than any manifest has, which names each failed row."""


class BrokenChain(Exception):  # noqa: N818 - it is an outcome
    """A link of a run's chain is missing, or not the one that was committed."""


class _Previous(BaseModel):
    path: str
    digest: str


class _Manifest(BaseModel):
    files: dict[str, str]
    previous: _Previous | None


@dataclass(frozen=True, slots=True)
class Link:
    """One committed shard.

    Attributes:
        path: Its directory, relative to the volume.
        rows: How many rows are answered with it.
        digest: The sha256 of its manifest.
        files: The sha256 of each of its files.
    """

    path: str
    rows: int
    digest: str
    files: Mapping[str, str]


def chain(volume: Volume, last: Checkpoint | None) -> list[Link]:
    """Return the shards that end with `last`, oldest first, after verifying every manifest.

    Raises:
        BrokenChain: If one is missing or was changed.
    """
    links: list[Link] = []
    before = None if last is None else _Previous(path=last.path, digest=last.digest)
    while before is not None:
        match = _PATH.fullmatch(before.path)
        if match is None or any(link.path == before.path for link in links):
            raise BrokenChain(f"{before.path} is no shard, or comes before itself")
        manifest = _read(volume.root, before)
        links.insert(0, Link(before.path, int(match["rows"]), before.digest, manifest.files))
        before = manifest.previous
    return links


def _read(root: Path, link: _Previous) -> _Manifest:
    path = Path(link.path) / MANIFEST
    try:
        with os.fdopen(open_inside(root, path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            content = file.read(_MANIFEST_BYTES)
        if hashlib.sha256(content).hexdigest() != link.digest:
            raise BrokenChain(f"the digest of {path} is not the one that was committed")
        return _Manifest.model_validate(json.loads(content))
    except OSError as error:
        raise BrokenChain(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, ValidationError) as error:
        raise BrokenChain(f"{path} is no manifest of a shard") from error


class Runs(Protocol):
    """Where Runs are read, see `KubeApi`."""

    async def get(self, plural: str, name: str) -> Body | None:
        """Return an object by its name, or None."""
        ...

    async def list_all(self, plural: str) -> list[Body]:
        """Return all objects."""
        ...


class Commits:
    """Finds what a run has committed, now. Links are verified once: what a digest names does not change.

    Args:
        volume: The shared volume.
        runs: Where Runs are read: by name, which is looked up once for each UID.
    """

    def __init__(self, volume: Volume, runs: Runs) -> None:
        self._volume = volume
        self._runs = runs
        self._names: dict[str, str] = {}
        self._chains: dict[str, tuple[str, list[Link]]] = {}

    async def of(self, experiment: str, run: str) -> list[Link]:
        """Return the shards that a run has committed, oldest first.

        Raises:
            HTTPException: If there is no such run, or its chain is broken.
            Refused: If Runs may not be read.
            Unavailable: If the API server does not answer.
        """
        found = await self._find(run)
        if found is None or home_of(found).experiment != experiment:
            raise HTTPException(404, f"run {run} of experiment {experiment} does not exist; it may have been deleted")
        last = Run.from_body(found).status.committed
        if last is None:
            return []
        known = self._chains.get(run)
        if known is not None and known[0] == last.digest:
            return known[1]
        try:
            links = await asyncio.to_thread(chain, self._volume, last)
        except BrokenChain as problem:
            raise HTTPException(500, f"{problem}; restore the volume from a backup, or clone the run") from problem
        self._chains[run] = (last.digest, links)
        return links

    async def _find(self, uid: str) -> Body | None:
        for _ in range(2):
            name = self._names.get(uid)
            body = None if name is None else await self._runs.get("runs", name)
            if body is not None and home_of(body).run == uid:
                return body
            # Not seen yet, or gone and perhaps another's of the same name.
            self._names = {home_of(each).run: each["metadata"]["name"] for each in await self._list()}
            self._chains = {known: links for known, links in self._chains.items() if known in self._names}
        return None

    async def _list(self) -> list[Body]:
        return await self._runs.list_all("runs")


def add_shard_routes(app: FastAPI, admit: Admit, volume: Volume) -> None:
    """Add the routes; `app.state.commits` is a `Commits`.

    Args:
        app: The service.
        admit: Lets a request in, or raises what it is answered with.
        volume: The shared volume.
    """

    async def links(request: Request, experiment: str, run: str) -> list[Link]:
        commits: Commits = request.app.state.commits
        return await commits.of(experiment, run)

    @app.get("/v1/experiments/{experiment}/runs/{run}/shards")
    async def shards(request: Request, experiment: Uid, run: Uid) -> dict[str, Any]:
        await admit(request, "get")
        found = await links(request, experiment, run)
        return {"shards": [{"path": each.path, "rows": each.rows, "digest": each.digest} for each in found]}

    @app.get("/v1/experiments/{experiment}/runs/{run}/shards/{name}/{file}")
    async def content(
        request: Request,
        experiment: Uid,
        run: Uid,
        name: Name,
        file: str,
        byte_range: Annotated[str, Header(alias="Range")] = "",
    ) -> StreamingResponse:
        await admit(request, "get")
        path = str((volume.run(experiment, run).shards / name).relative_to(volume.root))
        found = [each for each in await links(request, experiment, run) if each.path == path]
        if not found:
            raise HTTPException(404, f"{path} is no shard that the run has committed; ask for .../shards which are")
        known = sorted({MANIFEST, *found[0].files})
        if file not in known:
            raise HTTPException(404, f"{file}: its manifest names no such file; ask for one of {', '.join(known)}")
        return await send(volume.root, Path(path) / file, byte_range, "restore the volume from a backup")
