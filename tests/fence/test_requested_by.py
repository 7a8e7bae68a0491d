"""Who asked is written by the API server; nobody is somebody else, and nothing else of the object is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.fence.conftest import Identity, Stage

pytestmark = pytest.mark.integration
CONFIG = {"training_args": {"learning_rate": 1, "lr": None}, "list": [1, None, {"$ref": {"key": "f"}}]}


def user(stage: Stage, account: str = "rapidfire-user") -> str:
    return f"system:serviceaccount:{stage.namespace}:{account}"


def op(stage: Stage, by: Identity, name: str, **spec: Any) -> str:
    body = {"metadata": {"name": name}, "spec": {"experimentRef": "e", "op": "Stop", "runs": ["r"], **spec}}
    return by.send("POST", stage.path("icops"), json={"apiVersion": "rapidfire.ai/v1alpha1", "kind": "ICOp", **body})


def patch(stage: Stage, by: Identity, **spec: Any) -> str:
    headers = {"Content-Type": "application/merge-patch+json"}
    return by.send("PATCH", f"{stage.path('runs')}/r", json={"spec": spec}, headers=headers)


def asked_by(stage: Stage, kind: str, name: str) -> str | None:
    found: str | None = stage.get(kind, name)["spec"].get("requestedBy")
    return found


def test_an_icop_says_who_made_it(stage: Stage) -> None:
    clone = {"patch": CONFIG, "warmStart": True}
    assert op(stage, stage.account("rapidfire-user"), "clone", op="CloneModify", clone=clone) == ""
    assert asked_by(stage, "icops", "clone") == user(stage)
    assert stage.get("icops", "clone")["spec"]["clone"]["patch"] == CONFIG


def test_a_run_says_who_asked_last(stage: Stage) -> None:
    before = stage.get("runs", "r")["spec"]
    assert patch(stage, stage.account("rapidfire-user"), desiredState="Stopped") == ""
    assert asked_by(stage, "runs", "r") == user(stage)
    assert patch(stage, stage.administrator(), desiredState="Running") == ""
    administrator = asked_by(stage, "runs", "r")
    assert administrator not in {None, user(stage)}
    assert patch(stage, stage.account("rapidfire-user"), when="Immediate") == ""
    assert asked_by(stage, "runs", "r") == user(stage)
    after = stage.get("runs", "r")["spec"]
    assert {**after, "when": "Boundary", "requestedBy": None} == {**before, "requestedBy": None}


def test_a_change_that_asks_for_nothing_leaves_the_name(stage: Stage) -> None:
    someone = stage.account("rapidfire-user")
    assert patch(stage, someone, desiredState="Stopped") == ""
    label = {"metadata": {"labels": {"mine": "yes"}}}
    headers = {"Content-Type": "application/merge-patch+json"}
    assert stage.administrator().send("PATCH", f"{stage.path('runs')}/r", json=label, headers=headers) == ""
    assert patch(stage, stage.administrator(), desiredState="Stopped") == "", "it is Stopped already"
    assert patch(stage, stage.administrator(), requestedBy=None) == ""
    assert asked_by(stage, "runs", "r") == user(stage)


def test_another_name_is_refused_with_the_fix(stage: Stage) -> None:
    someone = stage.account("rapidfire-user")
    for answer in (
        op(stage, someone, "forged", requestedBy="alice"),
        patch(stage, someone, desiredState="Stopped", requestedBy="alice"),
        patch(stage, someone, desiredState="Stopped", requestedBy="policy:median"),
        patch(stage, someone, requestedBy=user(stage)),  # who asks for nothing has no say
    ):
        assert f"spec.requestedBy is whoever asks, which is {user(stage)} here: leave it out" in answer
    assert op(stage, someone, "honest", requestedBy=user(stage)) == ""


def test_the_operator_names_whoever_it_acts_for(stage: Stage) -> None:
    operator = stage.operator()
    assert op(stage, operator, "policy", requestedBy="policy:successiveHalving") == ""
    assert asked_by(stage, "icops", "policy") == "policy:successiveHalving"
    assert patch(stage, operator, desiredState="Stopped", requestedBy="alice") == ""
    assert asked_by(stage, "runs", "r") == "alice"


def test_an_icop_never_changes_and_says_what_it_lacks(stage: Stage) -> None:
    admin = stage.administrator()
    assert op(stage, admin, "stop") == ""
    headers = {"Content-Type": "application/merge-patch+json"}
    change = {"spec": {"op": "Delete"}}
    answer = admin.send("PATCH", f"{stage.path('icops')}/stop", json=change, headers=headers)
    assert "an ICOp never changes; create another one" in answer
    assert "name either runs or a selector" in op(stage, admin, "both", selector={})
    assert "CloneModify needs it" in op(stage, admin, "bare", op="CloneModify")


def test_a_deleted_run_stays_deleted(stage: Stage) -> None:
    someone = stage.account("rapidfire-user")
    assert patch(stage, someone, desiredState="Deleted") == ""
    assert "a deleted run stays deleted; clone it" in patch(stage, someone, desiredState="Running")
