"""Every right of every part, and the step of a day that needs it.

The chart grants exactly these (`test_rights.py`), and the API server's audit log of the day has each of them in its
step, and nothing else (`test_rights_used.py`). `docs/reference/rights.md` is written from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.support.audited import Right

OURS, BATCH, CORE, COORDINATION = "rapidfire.ai", "batch", "", "coordination.k8s.io"

START = "start"
SDK = "sdk"
APPLY = "apply"
LOOK = "look"
GATEWAY = "gateway"
STEER = "steer"
FAIL = "fail"
CLEAN = "clean"
DAY = "day"
STEPS: Mapping[str, str] = {
    START: "`rapidfireai start`: the chart is installed, every part comes up",
    SDK: "`run_evals` from Python: code, data and a key are sent, two pipelines answer, the results are fetched",
    APPLY: "`kubectl apply` of an experiment whose data lie on a claim of its own, twice",
    LOOK: "`kubectl get`, `get --watch`, `describe`, `logs`",
    GATEWAY: "the REST API's pages of an experiment, and its live changes",
    STEER: "a stop by patch, a resume from Python, a clone, a policy that stops runs, `kubectl scale` up and down",
    FAIL: "a fit whose own code fails",
    CLEAN: "`kubectl delete` of a run, an IC Op and an experiment; another one whose `ttlSecondsAfterFinished` is over",
    DAY: "all of it, while somebody else changes the same objects",
}
"""What is done in each step of the day."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a part may do with a resource.

    Attributes:
        group: The API group; the core group is empty.
        resource: The resource, or `resource/subresource`.
        verbs: For each verb the step that needs it.
        names: The only objects that it holds for; all if there are none.
    """

    group: str
    resource: str
    verbs: Mapping[str, str]
    names: tuple[str, ...] = ()

    def rights(self) -> Iterator[tuple[Right, str]]:
        """Yield each right and its step."""
        for verb, step in self.verbs.items():
            yield Right(self.group, self.resource, verb), step


def _seen(step: str, *others: str) -> dict[str, str]:
    """A kind that is listed and watched from the step on."""
    return dict.fromkeys((*others, "list", "watch"), step)


RIGHTS: Mapping[str, tuple[Grant, ...]] = {
    "rapidfire-operator": (
        Grant(OURS, "experiments", {"get": DAY, **_seen(START), "delete": CLEAN}),
        Grant(OURS, "runs", {"get": DAY, **_seen(START), "create": SDK, "patch": STEER}),
        Grant(OURS, "icops", {"get": STEER, **_seen(START), "create": STEER, "patch": STEER, "delete": STEER}),
        Grant(OURS, "experiments/status", {"patch": SDK}),
        Grant(OURS, "runs/status", {"patch": SDK}),
        Grant(OURS, "icops/status", {"patch": STEER}),
        Grant(BATCH, "jobs", {"get": STEER, **_seen(START), "create": SDK, "patch": SDK, "delete": STEER}),
        Grant(CORE, "pods", _seen(START)),
        Grant(COORDINATION, "leases", _seen(START)),
        Grant(CORE, "events", {"create": SDK}),
        Grant(CORE, "persistentvolumeclaims", {"get": APPLY}),
    ),
    "rapidfire-worker": (
        Grant(OURS, "experiments", {"get": SDK}),
        Grant(OURS, "runs", {"get": STEER, **_seen(SDK)}),
        Grant(OURS, "runs/status", {"patch": SDK}),
        Grant(COORDINATION, "leases", {"get": SDK, "create": SDK, "update": SDK}),
    ),
    "rapidfire-volume": (
        Grant(OURS, "experiments", {"list": START}),
        Grant(OURS, "runs", {"get": SDK, **_seen(START)}),
        Grant("authorization.k8s.io", "localsubjectaccessreviews", {"create": SDK}),
        Grant("authentication.k8s.io", "tokenreviews", {"create": SDK}),
    ),
    "rapidfire-user": (
        Grant(
            OURS,
            "experiments",
            {"get": SDK, "list": SDK, "watch": LOOK, "create": SDK, "patch": APPLY, "delete": CLEAN},
        ),
        Grant(OURS, "runs", {"get": LOOK, "list": SDK, "watch": LOOK, "patch": STEER, "delete": CLEAN}),
        Grant(OURS, "icops", {"get": STEER, "list": LOOK, "watch": LOOK, "create": STEER, "delete": CLEAN}),
        Grant(OURS, "experiments/scale", {"get": STEER, "patch": STEER, "update": STEER}),
        Grant(CORE, "pods", {"get": LOOK, "list": LOOK, "watch": LOOK}),
        Grant(CORE, "pods/log", {"get": LOOK}),
        Grant(CORE, "events", {"list": LOOK}),
        Grant(BATCH, "jobs", {"list": LOOK, "watch": LOOK}),
        Grant(COORDINATION, "leases", {"list": LOOK}),
        Grant(CORE, "configmaps", {"get": SDK}, ("rapidfire-workspace",)),
        Grant(CORE, "serviceaccounts/token", {"create": SDK}, ("rapidfire-user",)),
        Grant(CORE, "secrets", {"create": SDK}),
    ),
    "rapidfire-gateway": (),
}  # fmt: skip
"""By service account; people are bound to the Role `rapidfire-user`, and the gateway has none."""

CLUSTER_WIDE = {"rapidfire-volume": {Right("authentication.k8s.io", "tokenreviews", "create")}}
"""What is not held by a Role of a workspace."""
LEASE = ("rapidfire-operator",)
RELEASE: Mapping[str, tuple[Grant, ...]] = {
    "rapidfire-operator": (
        Grant(COORDINATION, "leases", {"get": START, "update": DAY}, LEASE),
        Grant(COORDINATION, "leases", {"create": START}),
    ),
}
"""What is held by a Role of the release's namespace alone."""


def granted(account: str) -> dict[Right, str]:
    """Return every right of an account and the step that needs it."""
    grants = (*RIGHTS[account], *RELEASE.get(account, ()))
    return {right: step for grant in grants for right, step in grant.rights()}
