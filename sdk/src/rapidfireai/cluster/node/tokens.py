"""The service account's projected volume: a token bound to the pod, the cluster's certificate, the namespace."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path
from typing import Any

import structlog
from kubernetes.aio.client.exceptions import ApiException

from rapidfireai.cluster.node.api import CONNECTION_ERRORS, Api, reason_of
from rapidfireai.cluster.node.environment import ConfigurationError, Place, field
from rapidfireai.cluster.node.facts import Json

_DEFAULT_SECONDS = 3600
_LONGEST_SECONDS = 24 * 3600
_RENEW_AT = 0.8
"""Part of a token's life after which it is renewed; kubelet does the same."""
_RETRY_SECONDS = 10.0
_LOOK_SECONDS = 30.0

log = structlog.get_logger()


class ProjectedVolume:
    """One projected volume of a pod, in a directory of the node's."""

    def __init__(self, api: Api, pod: Json, volume: Json, directory: Path, place: Place) -> None:
        self._api = api
        self._pod = pod
        self._projected = volume["projected"]
        self._directory = directory
        self._place = place
        self._renew_in = float(_LONGEST_SECONDS)

    async def write(self) -> None:
        """Write every file of the volume; each is replaced whole.

        Raises:
            ConfigurationError: If a source does not exist, or is of a kind that the node does not know.
            ApiException: If the API server refuses.
        """
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._renew_in = float(_LONGEST_SECONDS)
        for source in self._projected["sources"]:
            for path, content in (await self._files(source)).items():
                self._replace(path, content)

    async def keep_fresh(self) -> None:
        """Write the volume anew before a token expires, until cancelled."""
        due = time.time() + self._renew_in
        while True:
            # The wall clock, looked at often: a machine may sleep, its tokens age all the same.
            await asyncio.sleep(min(max(due - time.time(), 0), _LOOK_SECONDS))
            if time.time() < due:
                continue
            try:
                await self.write()
                due = time.time() + self._renew_in
            except (ApiException, ConfigurationError, *CONNECTION_ERRORS) as error:
                log.warning("token not renewed", pod=self._pod["metadata"]["name"], error=reason_of(error))
                due = time.time() + _RETRY_SECONDS

    async def _files(self, source: Json) -> dict[str, bytes]:
        if "serviceAccountToken" in source:
            wanted = source["serviceAccountToken"]
            return {wanted["path"]: await self._token(wanted)}
        if "downwardAPI" in source:
            items = source["downwardAPI"].get("items") or ()
            return {each["path"]: self._field(each).encode() for each in items}
        for kind, resource in (("configMap", "configmaps"), ("secret", "secrets")):
            if kind in source:
                return await self._data(resource, source[kind])
        raise ConfigurationError(f"the process node has no {next(iter(source), 'such')} source of projected volumes")

    async def _token(self, wanted: Json) -> bytes:
        metadata = self._pod["metadata"]
        seconds = int(wanted.get("expirationSeconds") or _DEFAULT_SECONDS)
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        spec: dict[str, Any] = {"expirationSeconds": seconds, "boundObjectRef": bound}
        if wanted.get("audience"):
            spec["audiences"] = [wanted["audience"]]
        account = self._pod["spec"].get("serviceAccountName") or "default"
        answer = await self._api.call(
            "POST",
            f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token",
            body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        self._renew_in = min(self._renew_in, seconds * _RENEW_AT)
        return str(answer["status"]["token"]).encode()

    def _field(self, item: Json) -> str:
        if "fieldRef" not in item:
            raise ConfigurationError(
                "the process node projects fieldRef alone; take resources as environment variables"
            )
        return field(self._pod, item["fieldRef"]["fieldPath"], self._place)

    async def _data(self, resource: str, reference: Json) -> dict[str, bytes]:
        path = f"/api/v1/namespaces/{self._pod['metadata']['namespace']}/{resource}/{reference['name']}"
        try:
            found = await self._api.get(path)
        except ApiException as error:
            if error.status == 404 and reference.get("optional"):
                return {}
            raise
        encoded = {**(found.get("binaryData") or {}), **(found.get("data") or {} if resource == "secrets" else {})}
        data = {key: base64.b64decode(value) for key, value in encoded.items()}
        if resource == "configmaps":
            data |= {key: value.encode() for key, value in (found.get("data") or {}).items()}
        if not reference.get("items"):
            return data
        missing = [each["key"] for each in reference["items"] if each["key"] not in data]
        if missing and not reference.get("optional"):
            raise ConfigurationError(f"{resource} {reference['name']} has no key {missing[0]}")
        return {each["path"]: data[each["key"]] for each in reference["items"] if each["key"] in data}

    def _replace(self, name: str, content: bytes) -> None:
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_name(f".{path.name}.partial")
        partial.touch(mode=0o600)
        partial.write_bytes(content)
        partial.replace(path)
