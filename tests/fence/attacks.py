"""What somebody may try who has taken over one part, and the sentence that the API server answers.

The list is the test (`test_attacks.py`) and the table of `docs/security.md`: there is no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fence.conftest import Identity, Stage

MERGE = {"Content-Type": "application/merge-patch+json"}
CHECKPOINT = {"path": "experiments/e/runs/r/checkpoints/8-1", "digest": "0" * 64, "step": 8}
EARLIER = {**CHECKPOINT, "step": 4}
OTHER_POD = "e-w-1-bbbbb"
ANOTHER_USER = "alice"

ONLY_ASSIGNED = "only the pod that this run is assigned to may report its progress"
STALE = "stale: this attempt or chunk is no longer the assigned one"
ONLY_PROGRESS = "a worker may write status.progress only"
FINAL = "this attempt has committed already; a final commit is final"
BACK = "progress never goes back"
CHECKPOINT_FINAL = "the checkpoint changes only with a final commit"
CHECKPOINT_BACK = "a checkpoint is never removed or replaced by one of an earlier step"
BY_OPERATOR_AND_WORKER = "a run's status is written by the operator and by its worker alone"
OPERATOR_PROGRESS = "status.progress is the worker's; the operator never writes it"
ATTEMPT_BACK = "status.attempt never goes back"
ATTEMPT_GROWS = "status.attempt grows with every assignment"
ATTEMPT_IS = "status.assignment.attempt is status.attempt"
OWN_SLOT = "a worker may write the Lease of its own slot only"
OWN_NAME = "a worker holds its Lease in its own name"
BOUND = "a worker's token must be bound to its pod"
LEAVE_OUT = "spec.requestedBy is whoever asks, which is <user> here: leave it out"
NO_EFFECT = ""
"""Of an attempt that is not refused and changes nothing."""

Patch = dict[str, Any]
Try = Callable[["Stage"], str]


@dataclass(frozen=True, slots=True)
class Attack:
    """One attempt.

    Attributes:
        scene: What holds before it, by the name in `SCENES`.
        who: Who tries, in words.
        what: What they try, in words.
        attempt: Makes it and returns the answer, empty if it was let through.
        refusal: What the answer says.
    """

    scene: str
    who: str
    what: str
    attempt: Try
    refusal: str


def cannot(verb: str, resource: str) -> str:
    """What the API server says to whom no Role lets."""
    return f'cannot {verb} resource "{resource}"'


def progress(step: int, attempt: int = 1, chunk: int = 0, final: bool = False, **more: Any) -> Patch:
    """A status in which a worker reports."""
    return {"progress": {"attempt": attempt, "chunk": chunk, "step": step, "final": final, **more}}


def commit(step: int = 8, attempt: int = 1, chunk: int = 0, checkpoint: Patch | None = CHECKPOINT) -> Patch:
    """A status in which a worker commits."""
    return progress(step, attempt, chunk, final=True, checkpoint=checkpoint)


# Scenes: how the run `r` stands.


def under_way(stage: Stage) -> None:
    """Attempt 1 of chunk 0 is assigned to the first pod, which has reported step 4."""
    assert stage.operator().status("r", stage.assignment()) == ""
    assert stage.worker().status("r", progress(4)) == ""


def committed(stage: Stage) -> None:
    """It has committed step 8, and is still assigned."""
    under_way(stage)
    assert stage.worker().status("r", commit()) == ""


def given_again(stage: Stage) -> None:
    """The same pod has the run again, as attempt 2."""
    under_way(stage)
    assert stage.operator().status("r", stage.assignment(attempt=2)) == ""


def moved(stage: Stage) -> None:
    """Another pod has the run, as attempt 2."""
    under_way(stage)
    assert stage.operator().status("r", stage.assignment(attempt=2, pod=OTHER_POD)) == ""


def cleared(stage: Stage) -> None:
    """Nobody has the run."""
    under_way(stage)
    assert stage.operator().status("r", {"assignment": None}) == ""


def next_chunk(stage: Stage) -> None:
    """After a commit of step 8, chunk 1 is assigned as attempt 2."""
    committed(stage)
    assert stage.operator().status("r", stage.assignment(attempt=2, chunk=1)) == ""


def replaced_pod(stage: Stage) -> None:
    """The pod was deleted, and another one has its name."""
    under_way(stage)
    stage.delete_pod("e-w-0-aaaaa")
    stage.create_pod("e-w-0-aaaaa")


SCENES: dict[str, tuple[str, Callable[[Stage], None]]] = {
    "under way": ("Attempt 1 of chunk 0 is assigned to pod `e-w-0-aaaaa`, which has reported step 4", under_way),
    "committed": ("It has committed step 8", committed),
    "given again": ("The same pod got the run anew, as attempt 2", given_again),
    "moved": ("Another pod has got it, as attempt 2", moved),
    "cleared": ("The assignment was taken back", cleared),
    "next chunk": ("Step 8 is committed, chunk 1 assigned as attempt 2", next_chunk),
    "replaced pod": ("The pod is gone, and another one has its name", replaced_pod),
}

WORKER = "the worker that it is assigned to"
OTHER = "a worker of another slot"
OPERATOR = "the operator"
USER = "a user (Role `rapidfire-user`)"


def by(who: Callable[[Stage], Identity], status: Patch) -> Try:
    """Somebody merges into the run's status."""
    return lambda stage: who(stage).status("r", status)


def worker(status: Patch) -> Try:
    return by(lambda stage: stage.worker(), status)


def operator(status: Patch) -> Try:
    return by(lambda stage: stage.operator(), status)


def user(stage: Stage) -> Identity:
    return stage.account("rapidfire-user")


def sends(who: Callable[[Stage], Identity], method: str, path: str, body: Any = None, **headers: str) -> Try:
    """Somebody makes a request; `{ours}` and `{core}` in the path are where the namespace's resources are."""

    def attempt(stage: Stage) -> str:
        where = path.format(ours=stage.path("")[:-1], core=f"/api/v1/namespaces/{stage.namespace}", ns=stage.namespace)
        given = body(stage) if callable(body) else body
        kind = MERGE if method == "PATCH" else {}
        return who(stage).send(method, where, **({"json": given} if given is not None else {}), headers=kind | headers)

    return attempt


def leases(holder: str, name: str = "e-w-0", who: Callable[[Stage], Identity] = lambda stage: stage.worker()) -> Try:
    return lambda stage: who(stage).lease(name, holder)


def pod_spec(account: str) -> Patch:
    container = {
        "name": "c",
        "image": "x",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "serviceAccountName": account,
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }


def icop(**spec: Any) -> Patch:
    whole = {"experimentRef": "e", "op": "Stop", "runs": ["r"], **spec}
    return {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "ICOp", "metadata": {"generateName": "x-"}, "spec": whole}


def bound_to(pod: str) -> Callable[[Stage], Patch]:
    """A TokenRequest for a token that is bound to a pod."""
    reference = {"kind": "Pod", "apiVersion": "v1", "name": pod}
    return lambda stage: {"spec": {"boundObjectRef": {**reference, "uid": stage.pods[pod]}}}


def impersonating(stage: Stage) -> str:
    """The first worker says in headers that it is another one's pod."""
    headers = {
        "Impersonate-User": f"system:serviceaccount:{stage.namespace}:rapidfire-worker",
        "Impersonate-Extra-Authentication.kubernetes.io%2Fpod-name": OTHER_POD,
    }
    return sends(lambda s: s.worker(OTHER_POD), "PATCH", "{ours}/runs/r/status", {"status": progress(6)}, **headers)(
        stage
    )


RUN = "{ours}/runs/r"
WORKERS_TOKEN = "{core}/serviceaccounts/rapidfire-worker/token"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"
LEASE = {"metadata": {"name": "e-w-0"}}
SPEC = {"spec": {"desiredState": "Deleted"}}


ATTACKS: tuple[Attack, ...] = (
    # Another run, another attempt, another pod.
    Attack("under way", OTHER, "reports progress of a run that is not its own",
           by(lambda s: s.worker(OTHER_POD), progress(6)), ONLY_ASSIGNED),
    Attack("under way", OTHER, "commits a run that is not its own",
           by(lambda s: s.worker(OTHER_POD), commit()), ONLY_ASSIGNED),
    Attack("under way", OTHER, "claims the assigned pod's name in impersonation headers", impersonating,
           cannot("impersonate", "serviceaccounts")),
    Attack("under way", OTHER, "asks for a token that is bound to the assigned pod",
           sends(lambda s: s.worker(OTHER_POD), "POST", WORKERS_TOKEN, bound_to("e-w-0-aaaaa")),
           cannot("create", "serviceaccounts/token")),
    Attack("under way", "whoever has a worker's token that is bound to no pod", "reports progress",
           by(lambda s: s.account("rapidfire-worker"), progress(6)), ONLY_ASSIGNED),
    Attack("under way", "a worker of another namespace", "reports progress",
           by(lambda s: s.foreign_worker(), progress(6)), cannot("patch", "runs/status")),
    Attack("under way", "a worker of another namespace to whom a Role here was given", "reports progress",
           by(lambda s: s.foreign_worker(admitted=True), progress(6)), BY_OPERATOR_AND_WORKER),
    Attack("replaced pod", "a pod of the same name with another UID", "reports progress", worker(progress(6)),
           ONLY_ASSIGNED),
    Attack("given again", WORKER, "commits the stale attempt", worker(commit()), STALE),
    Attack("moved", "the worker that had it before", "commits the stale attempt", worker(commit()), ONLY_ASSIGNED),
    Attack("cleared", "the worker that had it before", "commits the stale attempt", worker(commit()), ONLY_ASSIGNED),
    Attack("under way", WORKER, "reports an attempt that was not given out", worker(progress(6, attempt=2)), STALE),
    Attack("under way", WORKER, "reports another chunk", worker(progress(6, chunk=1)), STALE),
    # What a worker may not say of its own run.
    Attack("under way", WORKER, "lets progress go back", worker(progress(3)), BACK),
    Attack("under way", WORKER, "removes its progress", worker({"progress": None}),
           "a worker may not remove status.progress"),
    Attack("under way", WORKER, "shows a checkpoint before the commit", worker(progress(6, checkpoint=CHECKPOINT)),
           CHECKPOINT_FINAL),
    Attack("committed", WORKER, "takes its final commit back", worker(progress(9)), FINAL),
    Attack("committed", WORKER, "commits once more", worker(progress(8, final=True)), FINAL),
    Attack("committed", WORKER, "commits something else", worker(commit(9, checkpoint={**CHECKPOINT, "step": 9})),
           FINAL),
    Attack("committed", WORKER, "replaces the committed checkpoint",
           worker(commit(checkpoint={**CHECKPOINT, "digest": "f" * 64})), FINAL),
    Attack("next chunk", WORKER, "removes the checkpoint of the chunk before",
           worker(commit(16, 2, 1, checkpoint=None)), CHECKPOINT_BACK),
    Attack("next chunk", WORKER, "replaces the checkpoint by an earlier one", worker(commit(16, 2, 1, EARLIER)),
           CHECKPOINT_BACK),
    # What is the operator's.
    Attack("under way", WORKER, "fakes the run's end", worker({"state": "Succeeded"}), ONLY_PROGRESS),
    Attack("under way", WORKER, "fakes the run's end beside honest progress",
           worker({**progress(6), "state": "Succeeded"}), ONLY_PROGRESS),
    Attack("under way", WORKER, "assigns the run to itself for another chunk",
           worker({"assignment": {"attempt": 2, "chunk": 1}}), ONLY_PROGRESS),
    Attack("under way", WORKER, "gives its assignment back", worker({"assignment": None}), ONLY_PROGRESS),
    Attack("under way", WORKER, "writes the attempts' counter", worker({"attempt": 2}), ONLY_PROGRESS),
    Attack("under way", WORKER, "draws a better curve",
           worker({"objective": [{"chunk": 0, "step": 1, "value": 0.1}]}), ONLY_PROGRESS),
    Attack("under way", WORKER, "changes the spec", sends(lambda s: s.worker(), "PATCH", RUN, SPEC),
           cannot("patch", "runs")),
    Attack("under way", WORKER, "changes the spec through `runs/status`",
           sends(lambda s: s.worker(), "PATCH", f"{RUN}/status", {**SPEC, "metadata": {"labels": {"a": "b"}}}),
           NO_EFFECT),
    Attack("under way", WORKER, "deletes the run", sends(lambda s: s.worker(), "DELETE", RUN),
           cannot("delete", "runs")),
    Attack("under way", WORKER, "makes a run", sends(lambda s: s.worker(), "POST", "{ours}/runs", {}),
           cannot("create", "runs")),
    Attack("under way", WORKER, "orders an IC Op", sends(lambda s: s.worker(), "POST", "{ours}/icops", icop()),
           cannot("create", "icops")),
    Attack("under way", WORKER, "reads Secrets", sends(lambda s: s.worker(), "GET", "{core}/secrets"),
           cannot("list", "secrets")),
    # The Leases of slots.
    Attack("under way", WORKER, "takes the Lease of another slot", leases("e-w-0-aaaaa/1", "e-w-1"), OWN_SLOT),
    Attack("under way", WORKER, "makes a Lease of another name", leases("e-w-0-aaaaa/1", "e-w-0-aaaaa"), OWN_SLOT),
    Attack("under way", WORKER, "holds its Lease in another pod's name", leases("e-w-1-bbbbb/1"), OWN_NAME),
    Attack("under way", "whoever has a worker's token that is bound to no pod", "takes a Lease",
           leases("e-w-0-aaaaa/1", who=lambda s: s.account("rapidfire-worker")), BOUND),
    Attack("under way", USER, "takes a slot's Lease", sends(user, "POST", LEASES, LEASE), cannot("create", "leases")),
    # People.
    Attack("under way", USER, "writes progress", by(user, progress(6)), cannot("patch", "runs/status")),
    Attack("under way", USER, "writes the state", by(user, {"state": "Succeeded"}),
           cannot("patch", "runs/status")),
    Attack("under way", "a cluster administrator", "writes progress",
           by(lambda s: s.administrator(), progress(6)), BY_OPERATOR_AND_WORKER),
    Attack("under way", USER, "makes an IC Op in somebody else's name",
           sends(user, "POST", "{ours}/icops", icop(requestedBy=ANOTHER_USER)), LEAVE_OUT),
    Attack("under way", USER, "stops a run in somebody else's name",
           sends(user, "PATCH", RUN, {"spec": {"desiredState": "Stopped", "requestedBy": ANOTHER_USER}}), LEAVE_OUT),
    Attack("under way", USER, "stops a run in a policy's name",
           sends(user, "PATCH", RUN, {"spec": {"desiredState": "Stopped", "requestedBy": "policy:maxCost"}}),
           LEAVE_OUT),
    Attack("under way", USER, "asks for a worker's token",
           sends(user, "POST", WORKERS_TOKEN, bound_to("e-w-0-aaaaa")),
           cannot("create", "serviceaccounts/token")),
    Attack("under way", USER, "starts a pod with the worker's account",
           sends(user, "POST", "{core}/pods", {"metadata": {"name": "mine"}, "spec": pod_spec("rapidfire-worker")}),
           cannot("create", "pods")),
    Attack("under way", USER, "reads Secrets", sends(user, "GET", "{core}/secrets"), cannot("list", "secrets")),
    Attack("under way", USER, "reads the Secret of an experiment's keys",
           sends(user, "GET", "{core}/secrets/e-keys"), cannot("get", "secrets")),
    # The other services.
    Attack("under way", "the volume service", "writes progress",
           by(lambda s: s.account("rapidfire-volume"), progress(6)), cannot("patch", "runs/status")),
    Attack("under way", "the volume service", "takes a Lease",
           sends(lambda s: s.account("rapidfire-volume"), "POST", LEASES, LEASE), cannot("create", "leases")),
    Attack("under way", OPERATOR, "writes progress", operator(progress(6)), OPERATOR_PROGRESS),
    Attack("under way", OPERATOR, "clears progress", operator({"progress": None}), OPERATOR_PROGRESS),
    Attack("under way", OPERATOR, "lets the attempts' counter go back", operator({"attempt": 0}), ATTEMPT_BACK),
    Attack("under way", OPERATOR, "removes the attempts' counter", operator({"attempt": None}), ATTEMPT_BACK),
    Attack("under way", OPERATOR, "assigns again without a new attempt", operator({"assignment": {"chunk": 1}}),
           ATTEMPT_GROWS),
    Attack("cleared", OPERATOR, "uses an attempt again",
           lambda s: s.operator().status("r", s.assignment()), ATTEMPT_GROWS),
    Attack("under way", OPERATOR, "counts attempts without an assignment", operator({"attempt": 2}), ATTEMPT_IS),
    Attack("under way", OPERATOR, "assigns an attempt that the counter does not know",
           operator({"assignment": {"attempt": 2, "chunk": 1}}), ATTEMPT_IS),
    Attack("under way", OPERATOR, "deletes a run", sends(lambda s: s.operator(), "DELETE", RUN),
           cannot("delete", "runs")),
    Attack("under way", OPERATOR, "takes a slot's Lease",
           sends(lambda s: s.operator(), "POST", LEASES, LEASE), cannot("create", "leases")),
    Attack("under way", OPERATOR, "reads Secrets", sends(lambda s: s.operator(), "GET", "{core}/secrets"),
           cannot("list", "secrets")),
    Attack("under way", OPERATOR, "acts in a namespace that is no workspace",
           sends(lambda s: s.operator(), "GET", "/apis/rapidfire.ai/v1alpha1/namespaces/kube-system/runs"),
           cannot("list", "runs")),
)  # fmt: skip
