"""Each action as a kubectl command and as Python, for whoever wants to script it. Pure."""

from __future__ import annotations

import json
import pprint
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfireai.api import ICOpSpec
from rapidfireai.api.base import API_VERSION

_VERBS = {"Stop": "stop", "Resume": "resume", "Delete": "delete"}


@dataclass(frozen=True, slots=True)
class Spelling:
    """One action in two languages."""

    kubectl: str
    python: str


def spelled(namespace: str, experiment: str, display_name: str, spec: ICOpSpec, indexes: Sequence[int]) -> Spelling:
    """Return how to do from a shell or from Python what an ICOp does.

    Args:
        namespace: The workspace.
        experiment: The Experiment's name.
        display_name: What the user called it: the SDK finds it by that.
        spec: The operation.
        indexes: The numbers of its runs.
    """
    body = {
        "apiVersion": API_VERSION,
        "kind": "ICOp",
        "metadata": {"generateName": f"{spec.op.lower()}-", "namespace": namespace},
        "spec": spec.to_wire(),
    }
    kubectl = f"kubectl create -f - <<'EOF'\n{json.dumps(body, indent=2)}\nEOF"
    return Spelling(kubectl, _python(namespace, display_name or experiment, spec, indexes))


def _python(namespace: str, name: str, spec: ICOpSpec, indexes: Sequence[int]) -> str:
    return "\n".join(
        (
            "from rapidfireai import Experiment",
            "",
            f"experiment = Experiment.attach({name!r}, namespace={namespace!r})",
            f"experiment.{_call(spec, indexes[0] if len(indexes) == 1 else list(indexes))}",
        )
    )


def _call(spec: ICOpSpec, runs: int | list[int]) -> str:
    if spec.clone is not None:
        patch = pprint.pformat(spec.clone.patch, sort_dicts=False, width=100)
        return f"clone({runs}, {patch}, warm_start={spec.clone.warm_start})"
    when = ', when="immediate"' if spec.when == "Immediate" and spec.op != "Resume" else ""
    return f"{_VERBS[spec.op]}({runs}{when})"


def shown(kind: str, namespace: str, name: str) -> str:
    """Return the kubectl command that shows an object."""
    return f"kubectl get {kind} {shlex.quote(name)} -n {shlex.quote(namespace)} -o yaml"
