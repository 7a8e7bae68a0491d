"""What one caller can see and do. The REST API and the dashboard both stand on it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import httpx
from pydantic import ValidationError

from rapidfireai.api import GROUP, ICOpSpec
from rapidfireai.api.base import API_VERSION, EXPERIMENT_LABEL
from rapidfireai.volume import CURSOR_HEADER
from rapidfireai_gateway import workers
from rapidfireai_gateway.errors import GatewayError, not_logged_in
from rapidfireai_gateway.feed import Change, Feeds
from rapidfireai_gateway.kube import Body, Kube, path_of, trust
from rapidfireai_gateway.mistakes import sentence_of
from rapidfireai_gateway.operations import is_complete
from rapidfireai_gateway.previews import Preview, preview
from rapidfireai_gateway.sessions import Sessions
from rapidfireai_gateway.settings import Settings
from rapidfireai_gateway.trimming import table_row, without_bookkeeping
from rapidfireai_gateway.volume import Volumes

Upload = Literal["bundles", "datasets"]
View = Literal["full", "table"]
LONGEST_WAIT = 60.0
"""How long an answer may wait for an operation to complete, in seconds."""
_STRICT = {"fieldValidation": "Strict"}
"""Unknown fields are errors; otherwise the API server drops them without a word."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_POLL_SECONDS = 0.25
_MOST_EVENTS = 500
_MOST_LOG_BYTES = 2_000_000
"""Of each worker's log."""


@dataclass(frozen=True, slots=True)
class Services:
    """What all callers share: connections, live feeds, logins. One a process.

    Attributes:
        settings: What the gateway was told.
        sessions: Who is logged in.
    """

    settings: Settings
    sessions: Sessions
    kube: Kube
    volumes: Volumes
    feeds: Feeds

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Open everything, and close it in the end."""
        async with AsyncExitStack() as stack:
            kube = await stack.enter_async_context(Kube(settings.server, trust(settings)))
            volumes = await stack.enter_async_context(Volumes(kube))
            feeds = Feeds(kube, settings.max_feeds, settings.feed_idle_seconds)
            stack.push_async_callback(feeds.close)
            sessions = Sessions(settings.session_seconds, settings.link_seconds)
            yield cls(settings, sessions, kube, volumes, feeds)

    def backend(self, token: str) -> Backend:
        """Return what the owner of `token` can see and do."""
        return Backend(self, token)


class Backend:
    """What the owner of one token can see and do; the API server judges each call by that token.

    Every method raises `GatewayError`: its `status` is an HTTP status, its `detail` a sentence with the fix. Objects
    are the JSON of the API server, without `managedFields`.

    Args:
        services: What all callers share.
        token: The caller's bearer token.
    """

    def __init__(self, services: Services, token: str) -> None:
        self._services = services
        self._kube = services.kube
        self._token = token

    async def user(self) -> str:
        """Return the name by which the API server knows the caller."""
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        review = await self._call("POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
        name = str(review["status"]["userInfo"].get("username", ""))
        if name == "system:anonymous":
            raise not_logged_in()
        return name

    async def namespaces(self) -> list[str]:
        """Return the workspaces in which the caller may list experiments."""
        names = self._services.settings.namespaces
        allowed = await asyncio.gather(*(self._may_list(name) for name in names))
        return [name for name, may in zip(names, allowed, strict=True) if may]

    async def _may_list(self, namespace: str) -> bool:
        attributes = {"namespace": namespace, "verb": "list", "group": GROUP, "resource": "experiments"}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        review = await self._call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        return bool(review["status"]["allowed"])

    # Experiments.

    async def experiments(self, namespace: str) -> list[Body]:
        """Return all experiments of a workspace, by name."""
        items = await self._kube.items(self._token, self._path("experiments", namespace))
        return [without_bookkeeping(item) for item in items]

    async def experiment(self, namespace: str, name: str) -> Body:
        """Return one experiment."""
        return without_bookkeeping(await self._call("GET", self._path("experiments", namespace, name)))

    async def create_experiment(self, namespace: str, body: Mapping[str, Any]) -> Body:
        """Create an experiment from its manifest."""
        whole = {**body, "apiVersion": API_VERSION, "kind": "Experiment"}
        path = self._path("experiments", namespace)
        return without_bookkeeping(await self._kube.call(self._token, "POST", path, whole, _STRICT))

    async def patch_experiment(self, namespace: str, name: str, patch: Mapping[str, Any]) -> Body:
        """Merge a patch into an experiment, for instance `{"spec": {"workers": {"replicas": 0}}}`."""
        path = self._path("experiments", namespace, name)
        return without_bookkeeping(await self._kube.call(self._token, "PATCH", path, patch, _STRICT))

    async def delete_experiment(self, namespace: str, name: str) -> None:
        """Delete an experiment and its runs."""
        await self._call("DELETE", self._path("experiments", namespace, name))

    # Runs.

    async def runs(self, namespace: str, experiment: str, view: View = "full") -> list[Body]:
        """Return the runs of an experiment in the order of their numbers.

        Args:
            namespace: The workspace.
            experiment: The experiment's name.
            view: `table` leaves out what a table does not show.
        """
        trim = table_row if view == "table" else without_bookkeeping
        path, chosen = self._path("runs", namespace), self._of(experiment)
        found = [trim(run) async for page, _ in self._kube.pages(self._token, path, chosen) for run in page]
        if not found:
            await self.experiment(namespace, experiment)  # a name that is none gets its 404
        return sorted(found, key=lambda run: int(run["spec"]["index"]))

    async def run(self, namespace: str, name: str) -> Body:
        """Return one run."""
        return without_bookkeeping(await self._call("GET", self._path("runs", namespace, name)))

    async def patch_run(self, namespace: str, name: str, spec: Mapping[str, Any]) -> Body:
        """Set `desiredState` and `when` of a run."""
        return without_bookkeeping(await self._call("PATCH", self._path("runs", namespace, name), {"spec": spec}))

    async def delete_run(self, namespace: str, name: str) -> None:
        """Remove a run and its record; the op `Delete` keeps the record."""
        await self._call("DELETE", self._path("runs", namespace, name))

    async def clone_preview(
        self, namespace: str, name: str, patch: Mapping[str, Any], warm_start: bool = False
    ) -> Preview:
        """Return what a clone of a run would be; nothing is made."""
        return preview((await self.run(namespace, name))["spec"]["config"], patch, warm_start)

    # IC Ops.

    async def icops(self, namespace: str, experiment: str) -> list[Body]:
        """Return the IC Ops of an experiment, oldest first."""
        path = self._path("icops", namespace)
        found = await self._kube.items(self._token, path, self._of(experiment))
        ordered = sorted(found, key=lambda body: (body["metadata"]["creationTimestamp"], body["metadata"]["name"]))
        return [without_bookkeeping(body) for body in ordered]

    async def create_icop(self, namespace: str, experiment: str, spec: Mapping[str, Any]) -> Body:
        """Ask for an operation.

        Args:
            namespace: The workspace.
            experiment: The experiment's name.
            spec: An ICOp's spec without `experimentRef`: `{"op": "Stop", "runs": ["e-r1"]}`.
        """
        await self.experiment(namespace, experiment)
        whole = {**spec, "experimentRef": experiment}
        try:
            op = ICOpSpec.model_validate(whole).op
        except ValidationError as error:
            raise GatewayError(422, sentence_of(error.errors(), "spec")) from error
        metadata = {"generateName": f"{experiment}-{op.lower()}-", "labels": {EXPERIMENT_LABEL: experiment}}
        body = {"apiVersion": API_VERSION, "kind": "ICOp", "metadata": metadata, "spec": whole}
        path = self._path("icops", namespace)
        return without_bookkeeping(await self._kube.call(self._token, "POST", path, body, _STRICT))

    async def icop(self, namespace: str, name: str, wait: float = 0.0) -> Body:
        """Return one IC Op, as soon as it is complete or `wait` seconds (60 at most) have passed."""
        until = time.monotonic() + min(wait, LONGEST_WAIT)
        while True:
            body = await self._call("GET", self._path("icops", namespace, name))
            if is_complete(body) or time.monotonic() >= until:
                return without_bookkeeping(body)
            await asyncio.sleep(_POLL_SECONDS)

    # What else there is to see.

    async def _directory(self, namespace: str, run: Body) -> str:
        """Return where on the volume the files of a run lie."""
        adopted, metadata = run["spec"].get("adopted"), run["metadata"]
        if adopted:
            return f"experiments/{adopted['experimentUID']}/runs/{adopted.get('runUID') or metadata['uid']}"
        owners = [each["uid"] for each in metadata.get("ownerReferences") or () if each["kind"] == "Experiment"]
        if not owners:
            owners = [(await self.experiment(namespace, run["spec"]["experimentRef"]))["metadata"]["uid"]]
        return f"experiments/{owners[0]}/runs/{metadata['uid']}"

    async def metrics(self, namespace: str, run: str, after: str = "") -> tuple[bytes, str]:
        """Return log lines of a run as JSON lines, and the cursor behind them; go on until no line comes.

        Args:
            namespace: The workspace.
            run: The run's name.
            after: The cursor that an earlier call returned; empty for the beginning.
        """
        body = await self.run(namespace, run)
        path = f"/v1/{await self._directory(namespace, body)}/metrics"
        params = {"after": after} if after else {}
        try:
            async with self._services.volumes.ask(self._token, namespace, "GET", path, params=params) as answer:
                return await answer.aread(), answer.headers.get(CURSOR_HEADER, after)
        except GatewayError as error:
            if error.status == 404:  # it has not logged yet
                return b"", after
            raise

    async def events(self, namespace: str, experiment: str) -> list[Body]:
        """Return what the cluster reports of an experiment, its runs and workers, oldest first."""
        await self.experiment(namespace, experiment)
        path = f"/api/v1/namespaces/{namespace}/events"
        found = await self._kube.items(self._token, path)
        return workers.events_of(experiment, found)[-_MOST_EVENTS:]

    async def workers(self, namespace: str, experiment: str) -> list[workers.Slot]:
        """Return the worker slots of an experiment, with what of them the caller may read."""
        await self.experiment(namespace, experiment)
        chosen = {"labelSelector": f"{EXPERIMENT_LABEL}={experiment}"}
        kinds = {
            "jobs": f"/apis/batch/v1/namespaces/{namespace}/jobs",
            "pods": f"/api/v1/namespaces/{namespace}/pods",
            "leases": f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
        }
        found = await asyncio.gather(*(self._readable(path, chosen) for path in kinds.values()))
        return workers.slots(**dict(zip(kinds, found, strict=True)))

    async def _readable(self, path: str, chosen: Mapping[str, str]) -> list[Body] | None:
        try:
            return [without_bookkeeping(item) for item in await self._kube.items(self._token, path, chosen)]
        except GatewayError as error:
            if error.status == 403:
                return None
            raise

    async def logs(self, namespace: str, experiment: str, worker: str = "", tail: int = 1000) -> str:
        """Return the last lines of what an experiment's workers wrote, by time.

        Args:
            namespace: The workspace.
            experiment: The experiment's name.
            worker: A slot's name or number; empty for all.
            tail: How many lines of each worker.
        """
        await self.experiment(namespace, experiment)
        path = f"/api/v1/namespaces/{namespace}/pods"
        chosen = {"labelSelector": f"{EXPERIMENT_LABEL}={experiment},app.kubernetes.io/component=worker"}
        pods = workers.chosen_pods(experiment, await self._kube.items(self._token, path, chosen), worker)
        texts = await asyncio.gather(*(self._log(f"{path}/{pod}/log", tail) for pod, _ in pods))
        slots: Sequence[str] = [slot for _, slot in pods]
        return workers.merged_logs(dict(zip(slots, texts, strict=True)))

    async def _log(self, path: str, tail: int) -> str:
        try:
            params = {"timestamps": "true", "tailLines": str(tail), "limitBytes": str(_MOST_LOG_BYTES)}
            return await self._kube.text(self._token, "GET", path, params=params)
        except GatewayError as error:
            if error.status in {404, 422}:  # the container has not started, or has gone
                return ""
            raise

    def changes(self, namespace: str, experiment: str) -> AsyncGenerator[Change]:
        """Yield a snapshot of an experiment, its runs and IC Ops, and then what changes; see `Change`."""
        self._check(namespace, experiment)
        return self._services.feeds.changes(self._token, namespace, experiment)

    @asynccontextmanager
    async def upload(
        self,
        namespace: str,
        method: Literal["HEAD", "PUT"],
        kind: Upload,
        digest: str,
        headers: Mapping[str, str] | None = None,
        content: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Pass a request for a bundle or a data set on to the volume service, as the stream that it is."""
        self._check(namespace)
        path = f"/v1/{kind}/{digest}"
        ask = self._services.volumes.ask
        async with ask(self._token, namespace, method, path, headers=headers, content=content) as answer:
            yield answer

    # Small things.

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Body:
        return await self._kube.call(self._token, method, path, body)

    def _path(self, kind: Literal["experiments", "runs", "icops"], namespace: str, *names: str) -> str:
        self._check(namespace, *names)
        return path_of(kind, namespace, *names)

    def _of(self, experiment: str) -> dict[str, str]:
        self._check_name(experiment)
        return {"fieldSelector": f"spec.experimentRef={experiment}"}

    def _check(self, namespace: str, *names: str) -> None:
        known = self._services.settings.namespaces
        if namespace not in known:
            raise GatewayError(404, f"there is no workspace {namespace}; there are {', '.join(known)}")
        for name in names:
            self._check_name(name)

    @staticmethod
    def _check_name(name: str) -> None:
        if not _NAME.fullmatch(name):
            raise GatewayError(404, f"{name!r} is no name of an object: lower-case letters, digits, - and .")
