"""A day on the local cluster uses every right that each part has, and no other; without one, something says so.

Nor does anything that happens on that day show the keys that were planted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
import yaml
from tests.fence.conftest import client
from tests.security import leaks
from tests.security.day import HUB_TOKEN, MERGE, OPERATOR, SECRETS, USER, VOLUME, WORKER, Day, questions, says
from tests.security.manifests import DAY as DAY_MANIFEST
from tests.security.manifests import SHELF
from tests.security.rights import DAY, START, granted
from tests.support.audited import AuditedControlPlane, uses
from tests.support.chat_server import chat_server
from tests.support.lab import chat_rows, write_rows

from rapidfireai.cluster.local import LocalCluster

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("day"), pytest.mark.timeout(900)]
ACCOUNTS = {
    "rapidfire-operator": OPERATOR,
    "rapidfire-worker": WORKER,
    "rapidfire-volume": VOLUME,
    "rapidfire-user": USER,
}
UID = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """The whole day, done."""
    home, directory = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("people")
    local = LocalCluster(home)
    with pytest.MonkeyPatch.context() as patch, chat_server(says) as server:
        patch.setattr("rapidfireai.cluster.local.ControlPlane", AuditedControlPlane)
        values = directory / "values.yaml"
        values.write_text(yaml.safe_dump({"worker": {"idleSeconds": 5}}))
        try:
            begin = time.time()
            local.start(print, values=[values], timeout=300.0)
            plane = AuditedControlPlane(local.plane_home, local.binary)
            with client(plane, certificate=True) as admin:
                made = Day(local, plane, directory, server, admin)
                made.spans[START] = (begin, time.time())
                _prepare(made)
                _live(made)
                yield made
        finally:
            local.purge()


def _prepare(day: Day) -> None:
    """Make the claim and the Secret that experiments name."""
    shelf = day.local.volume / "shelf"
    shelf.mkdir()
    write_rows(shelf / "eval.jsonl", questions())
    write_rows(shelf / "train.jsonl", chat_rows(8))
    manifest = day.directory / "shelf.yaml"
    manifest.write_text(SHELF.format(path=shelf, token=HUB_TOKEN))
    answer = day.local.kubectl("apply", "--filename", str(manifest))
    manifest.unlink()
    assert answer.returncode == 0, answer.stderr


def _live(day: Day) -> None:
    with day.step(DAY), day.somebody_labels():
        for act in (day.sdk, day.apply, day.look, day.gateway, day.steer, day.fail, day.clean):
            with day.step(act.__name__):
                act()


@pytest.mark.parametrize("account", ACCOUNTS)
def test_every_right_is_needed_by_its_step(day: Day, account: str) -> None:
    missing = [
        f"{right.verb} {right.resource} in {step}"
        for right, step in granted(account).items()
        if not any(use.right == right and use.allowed for use in day.uses(ACCOUNTS[account], step))
    ]
    assert not missing


@pytest.mark.parametrize("account", ACCOUNTS)
def test_nothing_else_is_asked_for(day: Day, account: str) -> None:
    others = {use.right for use in day.uses(ACCOUNTS[account])} - set(granted(account))
    assert not others


def test_nobody_but_these_asked_for_anything_of_ours(day: Day) -> None:
    strangers = {
        use.account
        for use in uses(day.plane.audit_log)
        if use.right.group == "rapidfire.ai" and not use.account.startswith("kube-system:")
    }
    assert strangers <= set(ACCOUNTS.values())


@contextmanager
def without(day: Day, role: str, resource: str, verb: str, kind: str = "roles") -> Iterator[None]:
    """Take a right away for a while."""
    where = "" if kind == "clusterroles" else "/namespaces/default"
    path = f"/apis/rbac.authorization.k8s.io/v1{where}/{kind}/{role}"
    before = day.admin.get(path).json()
    rules = []
    for rule in before["rules"]:
        left = [each for each in rule["verbs"] if each != verb or resource not in rule["resources"]]
        rules += [{**rule, "verbs": left}] if left else []
    assert day.admin.patch(path, json={"rules": rules}, headers=MERGE).is_success
    try:
        yield
    finally:
        assert day.admin.patch(path, json={"rules": before["rules"]}, headers=MERGE).is_success


def said(day: Day, experiment: str, name: str) -> str:
    """The message of a condition of an experiment."""
    conditions = day.get("experiments", experiment).get("status", {}).get("conditions", ())
    return next((str(each["message"]) for each in conditions if each["type"] == name), "")


@contextmanager
def applied(day: Day, name: str) -> Iterator[None]:
    """Apply an experiment like the day's, without any policy; in the end it leaves no pod behind."""
    body = yaml.safe_load(DAY_MANIFEST.replace("URL", day.server.url))
    body["metadata"]["name"] = name
    del body["spec"]["policies"]
    day.kubectl("apply", "--filename", "-", stdin=json.dumps(body))
    yield
    day.kubectl("delete", "rfexp", name, "--wait=false")
    day.wait("room for the next worker", lambda: not day.pods(name))


def log_of(day: Day, selector: str, namespace: str = "default") -> str:
    return day.local.kubectl("logs", "--namespace", namespace, "--selector", selector, "--tail=-1").stdout


def test_without_create_on_runs_the_experiment_says_so(day: Day) -> None:
    with without(day, "rapidfire-operator", "runs", "create"), applied(day, "no-runs"):
        day.wait("condition", lambda: 'cannot create resource "runs"' in said(day, "no-runs", "Expanded"))


def test_without_create_on_jobs_the_experiment_says_so(day: Day) -> None:
    with without(day, "rapidfire-operator", "jobs", "create"), applied(day, "no-jobs"):
        day.wait("condition", lambda: 'cannot create resource "jobs"' in said(day, "no-jobs", "WorkersReady"))


def test_without_patch_on_the_status_of_runs_the_worker_says_so(day: Day) -> None:
    sentence = 'cannot patch resource \\"runs/status\\"'
    with without(day, "rapidfire-worker", "runs/status", "patch"), applied(day, "mute"):
        day.wait("line", lambda: sentence in log_of(day, "rapidfire.ai/experiment=mute"))


def test_without_create_on_token_reviews_the_volume_service_says_so(day: Day) -> None:
    token = day.local.kubectl("create", "token", "rapidfire-user", "--audience=rapidfire-volume").stdout.strip()
    headers = {"Authorization": f"Bearer {token}"}
    with without(day, "rapidfire-token-reviews", "tokenreviews", "create", "clusterroles"):

        def refusal() -> str:
            answer = httpx.head(f"{day.local.volume_url}/v1/bundles/{'0' * 64}", headers=headers, trust_env=False)
            return "" if answer.status_code != 503 else "503"

        day.wait("refusal", refusal)
        answer = httpx.get(
            f"{day.local.volume_url}/v1/experiments/{UID}/runs/{UID}/metrics", headers=headers, trust_env=False
        )
        assert 'cannot create resource "tokenreviews"' in answer.json()["detail"]


def test_without_create_on_secrets_the_sdk_says_whom_to_ask(day: Day) -> None:
    from rapidfireai.connection import Connection
    from rapidfireai.errors import ExperimentError
    from rapidfireai.keys import secret_body

    connection = Connection("default", day.kubeconfig)
    with (
        without(day, "rapidfire-user", "secrets", "create"),
        pytest.raises(ExperimentError, match="you may not create Secrets; ask to be bound to the workspace's Role"),
    ):
        for number in range(1000):  # until the API server has heard of it
            connection.create_secret(secret_body(f"s{number}", UID, {"k": "v"}))
    connection.close()


def test_without_list_on_runs_the_gateway_names_the_right(day: Day) -> None:
    url = f"{day.local.gateway_url}/api/v1/namespaces/default/experiments/sdk/runs"
    headers = {"Authorization": f"Bearer {day.token}"}
    with without(day, "rapidfire-user", "runs", "list"):

        def detail() -> str:
            answer = httpx.get(url, headers=headers, trust_env=False)
            return "" if answer.is_success else str(answer.json()["detail"])

        assert "may not list runs" in day.wait("refusal", detail)


def test_the_keys_that_were_planted_are_where_they_belong(day: Day) -> None:
    """Else the search below would prove nothing."""
    shown = {f"Bearer {key}" for key in SECRETS}
    assert day.server.keys == shown, "both reached the API"
    holders = [name for name, content in leaks.resources(day.admin) if leaks.found_in(content, SECRETS)]
    assert [name.split()[0] for name in holders] == ["secrets", "secrets"]


def test_no_resource_file_log_or_answer_shows_a_planted_key(day: Day) -> None:
    places: dict[str, bytes] = {
        **day.resources,
        **{name: content for name, content in leaks.resources(day.admin) if not name.startswith("secrets ")},
        **dict(leaks.files(day.local.home)),
        **dict(leaks.files(day.directory / "sdk")),
        **{name: text.encode() for name, text in day.told.items()},
        **metrics(day),
    }
    kinds = {name.split()[0].split("/")[0] for name in places}
    assert {"experiments", "runs", "icops", "events", "pods", "jobs", "volume", "kubectl", "GET", "metrics"} <= kinds
    assert any(name.endswith("mlflow.db (dump)") for name in places)
    assert any(name.endswith("(rows)") for name in places)
    found = {name: hits for name, content in places.items() if (hits := leaks.found_in(content, SECRETS))}
    assert not found


def metrics(day: Day) -> dict[str, bytes]:
    """What each pod that is left tells Prometheus."""
    found = {}
    for pod in day.admin.get("/api/v1/pods").json()["items"]:
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", ()):
                if port["name"] != "metrics" or pod["status"].get("phase") != "Running":
                    continue
                with suppress(httpx.TransportError):  # it is leaving
                    answer = httpx.get(
                        f"http://{pod['status']['podIP']}:{port['containerPort']}/metrics", trust_env=False
                    )
                    found[f"metrics {pod['metadata']['name']}"] = answer.content
    return found


def test_what_failed_says_why_without_the_key(day: Day) -> None:
    error = json.loads(day.told["why"])["status"]["progress"]["error"]
    assert (error["reason"], "401 for [HF_TOKEN]" in error["message"]) == ("UserCodeError", True)
    log = day.told["log of the fit"]
    assert "'HF_TOKEN': '[HF_TOKEN]'" in log, "the environment that it prints"
    assert "the token is [HF_TOKEN]" in log
