"""What the API server says, in a sentence for people."""

from __future__ import annotations

import json

import pytest

from rapidfireai_gateway.errors import from_api_server


def status(message: str, **details: str) -> str:
    return json.dumps({"kind": "Status", "message": message, "details": details})


def test_a_forbidden_request_names_who_what_and_where() -> None:
    message = (
        'runs.rapidfire.ai "e-r1" is forbidden: User "alice" cannot patch resource "runs" in API group "rapidfire.ai" '
        'in the namespace "team-a"'
    )
    error = from_api_server(403, status(message))
    assert error.status == 403
    assert error.detail.startswith("alice may not patch runs.rapidfire.ai in namespace team-a; ask an administrator")


def test_rights_on_the_whole_cluster_and_the_core_group_are_named_too() -> None:
    error = from_api_server(
        403, status('User "alice" cannot list resource "nodes" in API group "" at the cluster scope')
    )
    assert error.detail == "alice may not list nodes; ask an administrator for this right"


def test_what_an_admission_policy_says_is_kept() -> None:
    words = "ValidatingAdmissionPolicy 'x' denied request: requestedBy is written by the API server"
    assert from_api_server(403, status(words)).detail == words


@pytest.mark.parametrize(
    ("code", "body", "expected", "word"),
    [
        (400, status("strict decoding error: unknown field spec.chunkz"), 422, "chunkz"),
        (401, status("Unauthorized"), 401, "log in again"),
        (404, status("x", kind="runs", name="e-r9"), 404, "there is no run e-r9"),
        (404, status("the server could not find the requested resource"), 404, "chart"),
        (404, "404 page not found", 404, "chart"),
        (409, status("the object has been modified"), 409, "modified"),
        (415, "", 422, "415"),
        (429, status("slow down"), 429, "try again"),
        (500, status("etcdserver: request timed out"), 503, "etcdserver"),
        (503, "<html>", 503, "try again"),
        (404, "[]", 404, "chart"),
    ],
)
def test_other_refusals_keep_their_meaning(code: int, body: str, expected: int, word: str) -> None:
    error = from_api_server(code, body)
    assert error.status == expected
    assert word in error.detail
