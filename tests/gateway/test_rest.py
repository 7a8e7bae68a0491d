"""The REST API as users call it: a real API server decides what each may do."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.gateway.site import Site
from tests.operator.builders import experiment

pytestmark = pytest.mark.integration
Object = dict[str, Any]


@pytest.fixture
def http(site: Site) -> httpx.Client:
    return site.http()


def detail(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["detail"])


def test_it_says_who_i_am_and_where_i_may_work(site: Site, http: httpx.Client) -> None:
    assert http.get("/api/v1/whoami").json() == {
        "user": f"system:serviceaccount:{site.namespace}:rapidfire-user",
        "namespaces": [site.namespace],
    }


def test_without_a_token_it_says_how_to_get_one(site: Site) -> None:
    sentence = detail(site.http("").get(f"{site.api}/experiments"), 401)
    assert "Authorization: Bearer" in sentence
    assert "create token" in sentence


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "with space", "ü", "x" * 5000])
def test_a_wrong_token_is_nobodys(site: Site, token: str) -> None:
    answer = site.http("").get("/api/v1/whoami", headers={"Authorization": f"Bearer {token}".encode()})
    assert "token" in detail(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_missing_right_is_named(site: Site, name: str) -> None:
    rules = [{"apiGroups": ["rapidfire.ai"], "resources": ["experiments", "runs"], "verbs": ["get", "list"]}]
    reader = site.http(site.account("reader", rules))
    assert reader.get(f"{site.api}/experiments/{name}").is_success
    sentence = detail(reader.post(f"{site.api}/experiments/{name}/icops", json={"op": "Stop", "runs": ["x"]}), 403)
    assert f"reader may not create icops.rapidfire.ai in namespace {site.namespace}" in sentence
    assert "rapidfire-user" in sentence


def test_a_namespace_that_is_no_workspace_is_not_there(site: Site, http: httpx.Client) -> None:
    sentence = detail(http.get("/api/v1/namespaces/kube-system/experiments"), 404)
    assert site.namespace in sentence


def test_an_experiment_is_made_listed_changed_and_deleted(site: Site, http: httpx.Client, name: str) -> None:
    url = f"{site.api}/experiments/{name}"
    assert name in [each["metadata"]["name"] for each in http.get(f"{site.api}/experiments").json()["items"]]
    changed = http.patch(url, json={"spec": {"workers": {"replicas": 0}}}).json()
    assert changed["spec"]["workers"]["replicas"] == 0
    assert "managedFields" not in changed["metadata"]
    assert "already exists" in detail(http.post(f"{site.api}/experiments", json=experiment(name)), 409)
    assert http.delete(url).status_code == 204
    assert detail(http.get(url), 404) == f"there is no experiment {name}"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"chunkz": 3}, "chunkz"),
        ({"chunks": "three"}, "chunks"),
        ({"data": {"train": {"uri": "ftp://x"}}}, "pvc://"),
    ],
)
def test_a_mistake_in_a_manifest_is_named(site: Site, http: httpx.Client, change: Object, word: str) -> None:
    assert word in detail(http.post(f"{site.api}/experiments", json=experiment("wrong", **change)), 422)


def test_a_body_that_is_no_json_is_refused(site: Site, http: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    detail(http.post(f"{site.api}/experiments", content=b"{", headers=headers), 422)
    detail(http.post(f"{site.api}/experiments", content=b"\xff\xfe", headers=headers), 422)
    detail(http.post(f"{site.api}/experiments", json=[1]), 422)


@pytest.mark.parametrize(
    "patch",
    ['{"\\ud800": 1}', '{"model_name": "\\ud800"}', '{"model_kwargs": {"a": NaN}}', '{"a":' * 900 + "1" + "}" * 900],
)
def test_a_patch_that_cannot_be_kept_is_refused(site: Site, http: httpx.Client, name: str, patch: str) -> None:
    run, headers = site.run(name, 1), {"Content-Type": "application/json"}
    body = f'{{"patch": {patch}}}'.encode()
    detail(http.post(f"{site.api}/runs/{run}/clone-preview", content=body, headers=headers), 422)
    body = f'{{"op": "CloneModify", "runs": ["x"], "clone": {{"pitch": {patch}}}, "\\ud800": {patch}}}'.encode()
    detail(http.post(f"{site.api}/experiments/{name}/icops", content=body, headers=headers), 422)


def test_a_body_that_is_too_large_is_refused_however_it_comes(site: Site, http: httpx.Client) -> None:
    large = b"x" * (2 * 1024 * 1024 + 1)
    assert "2097152" in detail(http.post(f"{site.api}/experiments", content=large), 413)
    assert "2097152" in detail(http.post(f"{site.api}/experiments", content=iter([large[:-1], b"xx"])), 413)


def test_the_table_of_runs_leaves_out_what_it_does_not_show(site: Site, http: httpx.Client, name: str) -> None:
    curve = [{"chunk": chunk, "step": 4 * chunk, "value": 2.0 - chunk} for chunk in range(3)]
    prepared = {"totalSteps": 16, "boundaries": [4, 8, 12, 16], "bytes": 1}
    site.run(name, 1, state="Running", objective=curve, prepared=prepared)
    site.run(name, 2)
    site.run(name, 10)
    url = f"{site.api}/experiments/{name}/runs"
    full, table = http.get(url), http.get(url, params={"view": "table"})
    assert [run["spec"]["index"] for run in full.json()["items"]] == [1, 2, 10]
    assert full.json()["items"][0]["status"]["objective"] == curve
    assert table.json()["items"][0]["status"]["objective"] == curve[-1:]
    assert http.get(url, headers={"If-None-Match": full.headers["ETag"]}).status_code == 304
    assert http.get(url, headers={"If-None-Match": table.headers["ETag"]}).status_code == 200


def test_a_run_is_stopped_as_kubectl_patch_would(site: Site, http: httpx.Client, name: str) -> None:
    run = site.run(name, 1)
    changed = http.patch(f"{site.api}/runs/{run}", json={"desiredState": "Stopped", "when": "Immediate"}).json()
    assert (changed["spec"]["desiredState"], changed["spec"]["when"]) == ("Stopped", "Immediate")
    assert "desiredState" in detail(http.patch(f"{site.api}/runs/{run}", json={}), 422)
    assert "Paused" in detail(http.patch(f"{site.api}/runs/{run}", json={"desiredState": "Paused"}), 422)
    assert http.delete(f"{site.api}/runs/{run}").status_code == 204
    assert "there is no run" in detail(http.get(f"{site.api}/runs/{run}"), 404)


def test_a_clone_is_shown_before_it_is_made(site: Site, http: httpx.Client, name: str) -> None:
    leaf = {
        "trainer_type": "SFT",
        "model_name": "m",
        "peft_params": {"r": 8, "task_type": "CAUSAL_LM"},
        "training_args": {"learning_rate": 0.001},
    }
    url = f"{site.api}/runs/{site.run(name, 1, leaf)}/clone-preview"
    patch = {"training_args.learning_rate": 0.002, "peft_config.r": 16}
    shown = http.post(url, json={"patch": patch, "warmStart": True}).json()
    assert {each["path"]: (each["before"], each["after"]) for each in shown["changes"]} == {
        "training_args.learning_rate": (0.001, 0.002),
        "peft_config.r": (8, 16),
    }
    assert "peft_config.r" in shown["obstacle"]
    assert shown["config"]["training_args"]["learning_rate"] == 0.002
    cold = http.post(url, json={"patch": patch}).json()
    assert cold["obstacle"] is None
    sentence = detail(http.post(url, json={"patch": {"training_args": {"learning_rte": 1}}}), 422)
    assert "training_args.learning_rte" in sentence
    assert "learning_rate" in sentence


def test_an_ic_op_is_written_down_and_can_be_waited_for(site: Site, http: httpx.Client, name: str) -> None:
    site.run(name, 1)
    url = f"{site.api}/experiments/{name}/icops"
    made = http.post(url, json={"op": "Stop", "runs": [f"{name}-r1"]})
    assert made.status_code == 201
    assert made.json()["spec"]["experimentRef"] == name
    assert [each["metadata"]["name"] for each in http.get(url).json()["items"]] == [made.json()["metadata"]["name"]]
    waited = http.get(f"{site.api}/icops/{made.json()['metadata']['name']}", params={"wait": 0.3})
    assert waited.json()["spec"]["op"] == "Stop"


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"op": "Pause", "runs": ["x"]}, "spec.op='Pause'"),
        ({"op": "Stop"}, "runs"),
        ({"op": "Stop", "runs": ["x"], "selector": {}}, "selector"),
        ({"op": "Stop", "runs": []}, "spec.runs"),
        ({"op": "CloneModify", "runs": ["x"]}, "clone"),
        ({"runs": ["x"]}, "spec.op"),
        ({"op": "Stop", "runs": ["x"], "whem": "Immediate"}, "whem"),
    ],
)
def test_a_mistake_in_an_ic_op_is_named(site: Site, http: httpx.Client, name: str, spec: Object, word: str) -> None:
    assert word in detail(http.post(f"{site.api}/experiments/{name}/icops", json=spec), 422)


def test_an_ic_op_needs_its_experiment(site: Site, http: httpx.Client) -> None:
    sentence = detail(http.post(f"{site.api}/experiments/nobody/icops", json={"op": "Stop", "runs": ["x"]}), 404)
    assert sentence == "there is no experiment nobody"


def test_workers_are_read_with_the_rights_of_who_asks(site: Site, http: httpx.Client, name: str) -> None:
    labels = {"rapidfire.ai/experiment": name, "rapidfire.ai/worker": f"{name}-w-0"}
    labels |= {"app.kubernetes.io/component": "worker"}
    spec = {"containers": [{"name": "worker", "image": "x"}]}
    site.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-w-0-abcde", "labels": labels}, "spec": spec}
    )
    (slot,) = http.get(f"{site.api}/experiments/{name}/workers").json()["items"]
    assert (slot["name"], slot["job"], slot["lease"]) == (f"{name}-w-0", None, None)
    assert slot["unreadable"] == [], "people may read jobs and leases"
    assert len(slot["pods"]) == 1
    assert http.get(f"{site.api}/experiments/{name}/logs").text == ""
    assert f"{name}-w-0" in detail(http.get(f"{site.api}/experiments/{name}/logs", params={"worker": "7"}), 404)
    told = http.get(f"{site.api}/experiments/{name}/events").json()["items"]
    assert {each["involvedObject"]["name"] for each in told} <= {f"{name}-w-0-abcde"}


def test_the_schema_of_a_config_is_that_of_its_trainer(http: httpx.Client) -> None:
    schema = http.get("/api/v1/config-schema", params={"trainer": "GRPO"}).json()
    assert "reward_funcs" in schema["properties"]
    assert schema["properties"]["training_args"]["properties"]["learning_rate"] == {"type": ["number"]}
    assert "SFT, DPO, GRPO" in detail(http.get("/api/v1/config-schema", params={"trainer": "PPO"}), 422)


def test_unknown_paths_and_methods_are_sentences(http: httpx.Client) -> None:
    detail(http.get("/api/v1/nothing"), 404)
    detail(http.put("/api/v1/whoami"), 405)


@pytest.mark.parametrize("name_", ["..%2f..%2fsecrets", "A", "x" * 300, "%00", "a%2Fb", "-x"])
def test_a_name_cannot_lead_elsewhere(site: Site, http: httpx.Client, name_: str) -> None:
    for path in (f"{site.api}/runs/{name_}", f"{site.api}/experiments/{name_}", f"{site.api}/icops/{name_}"):
        assert http.get(path).status_code in {404, 422}


def test_notebooks_of_any_origin_may_call_with_a_token_and_never_with_a_cookie(site: Site, http: httpx.Client) -> None:
    origin = {"Origin": "http://notebook.example"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    preflight = site.http("").options(f"{site.api}/experiments", headers={**origin, **asked})
    assert preflight.is_success
    assert preflight.headers["access-control-allow-origin"] == "*"
    answer = http.get("/api/v1/whoami", headers=origin)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in {*preflight.headers, *answer.headers}


def test_an_operation_that_nobody_carries_out_is_pending_at_the_dispatcher(
    site: Site, http: httpx.Client, name: str
) -> None:
    site.run(name, 1)
    made = http.post(f"{site.api}/experiments/{name}/icops", json={"op": "Stop", "runs": [f"{name}-r1"]}).json()
    (pending,) = http.get("/dispatcher/all-operations", params={"experiment": name}).json()
    assert pending["ic_id"] == made["metadata"]["name"]
    assert (pending["pipeline_id"], pending["operation"], pending["status"]) == (1, "stop", "pending")
    assert http.get(f"/dispatcher/operation-status/{pending['ic_id']}").json() == pending


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("stop-run", {}, 400, "run_id"),
        ("stop-run", {"run_id": "one"}, 400, "run_id"),
        ("stop-run", {"run_id": True}, 400, "run_id"),
        ("stop-run", {"run_id": 99}, 404, "-r99"),
        ("get-run", {"run_id": -1}, 400, "run_id"),
        ("clone-modify-run", {"run_id": 1}, 400, "config"),
        ("clone-modify-run", {"run_id": 1, "config": {"a": 1}, "warm_start": "yes"}, 400, "warm_start"),
        ("is-experiment-running", {}, 400, "experiment_name"),
        ("get-experiment-logs", {"experiment_name": "nobody's"}, 404, "nobody's"),
        ("clone-pipeline", {"parent_pipeline_id": 1, "config_json": []}, 400, "config_json"),
    ],
)
def test_the_dispatcher_names_mistakes_in_the_key_that_its_clients_read(
    http: httpx.Client, name: str, path: str, body: Object, status: int, word: str
) -> None:
    answer = http.post(f"/dispatcher/{path}", params={"experiment": name}, json=body)
    assert word in detail(answer, status)
    assert answer.json()["error"] == answer.json()["detail"]
