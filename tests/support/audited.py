"""A control plane that writes down who asked it for what, and the reader of that record.

The API server's own audit log is the witness: it says which rights a service account used, whatever client it used
them with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rapidfireai.cluster.control_plane import ControlPlane

LOG = "audit.log"
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "nonResourceURLs": ["*"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}
FREE = {"selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"}
"""What everybody may ask who is logged in: Kubernetes' own role system:basic-user."""


class Right(NamedTuple):
    """A verb on a resource; a subresource is `resource/subresource`, the core group empty."""

    group: str
    resource: str
    verb: str


@dataclass(frozen=True, slots=True)
class Use:
    """A request that a service account made.

    Attributes:
        account: `<namespace>:<name>`.
        right: What it needed.
        namespace: Where; empty for what is in no namespace.
        name: The object's name, if the request named one.
        allowed: Whether it was let.
        moment: When it came, in seconds since the epoch.
    """

    account: str
    right: Right
    namespace: str
    name: str
    allowed: bool
    moment: float


class AuditedControlPlane(ControlPlane):
    """A control plane whose API server keeps an audit log."""

    @property
    def audit_log(self) -> Path:
        """Where the log is."""
        return self.home / LOG

    def _apiserver_flags(self) -> dict[str, str]:
        policy = self.home / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(POLICY))
        # A blocking log has a request's line before the client has its answer.
        log = {"audit-log-path": str(self.audit_log), "audit-log-mode": "blocking", "audit-policy-file": str(policy)}
        return {**super()._apiserver_flags(), **log}


def uses(log: Path) -> Iterator[Use]:
    """Yield every request of a service account in the log, oldest first; what is free for everybody is left out."""
    for line in log.read_text().splitlines():
        event = json.loads(line)
        reference = event.get("objectRef") or {}
        if reference.get("resource") not in FREE:
            yield from _uses_of(event, reference)


def _uses_of(event: dict[str, Any], reference: dict[str, Any]) -> Iterator[Use]:
    group, resource = reference.get("apiGroup", ""), reference.get("resource", "")
    if reference.get("subresource"):
        resource = f"{resource}/{reference['subresource']}"
    status = event.get("responseStatus") or {}
    # Applying what is not there creates it, for which both rights are asked for.
    verbs = [event["verb"], *(["create"] if event["verb"] == "patch" and status.get("code") == 201 else [])]
    for verb in verbs:
        yield Use(
            account=event["user"]["username"].removeprefix("system:serviceaccount:"),
            right=Right(group, resource, verb),
            namespace=reference.get("namespace", ""),
            name=reference.get("name", ""),
            allowed=(event.get("annotations") or {}).get("authorization.k8s.io/decision") != "forbid",
            moment=datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(),
        )
