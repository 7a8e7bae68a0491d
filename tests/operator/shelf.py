"""Objects as an API server has them, in memory, and an operator that dies after any write: for many histories."""

from __future__ import annotations

import copy
from typing import Any, cast

from tests.operator.builders import merged

from rapidfireai_operator.adapters.kubernetes import Api, ApiError, ConflictError, Listing, NotFoundError

Body = dict[str, Any]


class Died(BaseException):
    """The operator was killed: nobody catches it."""


class Shelf:
    """What the operator's writer needs of an `Api`; `writes_left` writes succeed, then the operator dies."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Body] = {}
        self.version, self.writes_left = 0, 10**9
        self.made: list[str] = []

    @property
    def api(self) -> Api:
        return cast(Api, self)

    async def get(self, plural: str, namespace: str, name: str) -> Body:
        if (plural, name) not in self.objects:
            raise NotFoundError(404, "NotFound", name)
        return copy.deepcopy(self.objects[plural, name])

    async def list(self, plural: str, namespace: str) -> Listing:
        found = [copy.deepcopy(body) for (kind, _), body in self.objects.items() if kind == plural]
        return Listing(found, self.version)

    async def create(self, plural: str, namespace: str, body: Body) -> Body:
        if plural == "events":
            return dict(body)
        name = body["metadata"]["name"]
        if (plural, name) in self.objects:
            raise ConflictError(409, "AlreadyExists", name)
        self._count()
        meta = {"generation": 1, **body["metadata"], "namespace": namespace, "uid": f"{plural}-{name}-{self.version}"}
        self.objects[plural, name] = {**copy.deepcopy(dict(body)), "metadata": self._stamped(meta)}
        if plural == "runs":
            self.made.append(name)
        return await self.get(plural, namespace, name)

    async def apply(self, plural: str, namespace: str, body: Body) -> Body:
        if (plural, body["metadata"]["name"]) in self.objects:
            return await self.patch(plural, namespace, body["metadata"]["name"], body)
        return await self.create(plural, namespace, body)

    async def patch(self, plural: str, namespace: str, name: str, body: Body, *, status: bool = False) -> Body:
        now = await self.get(plural, namespace, name)
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted not in {None, now["metadata"]["resourceVersion"]}:
            raise ConflictError(409, "Conflict", name)
        part = {"status": body["status"]} if status else {k: v for k, v in body.items() if k != "status"}
        after = merged(now, part)
        before = now.get("spec", {}).get("desiredState")
        if before == "Deleted" and after["spec"]["desiredState"] != "Deleted":
            raise ApiError(422, "Invalid", "a deleted run stays deleted")
        self._count()
        after["metadata"] = self._stamped(after["metadata"])
        self.objects[plural, name] = copy.deepcopy(after)
        return cast(Body, after)

    async def delete(self, plural: str, namespace: str, name: str, uid: str) -> None:
        found = self.objects.get((plural, name))
        if found is not None and found["metadata"]["uid"] == uid:
            self._count()
            del self.objects[plural, name]

    def _count(self) -> None:
        if self.writes_left <= 0:
            raise Died
        self.writes_left -= 1

    def _stamped(self, metadata: Body) -> Body:
        self.version += 1
        return {**metadata, "resourceVersion": str(self.version)}
