"""The API is what its description says, and nothing that is sent to it breaks it."""

from __future__ import annotations

from typing import Any, cast

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.schemas import BaseSchema
from tests.gateway.site import ADDRESS, Site

from rapidfireai_gateway.backend import Services
from rapidfireai_gateway.rest.app import create_app
from rapidfireai_gateway.sessions import Sessions
from rapidfireai_gateway.settings import Settings

pytestmark = pytest.mark.integration
EXAMPLES = 4


@pytest.fixture(scope="session")
def api_schema(site: Site) -> BaseSchema:
    with site.http() as http:
        described: dict[str, Any] = http.get("/openapi.json").json()
    return schemathesis.openapi.from_dict(described)


@pytest.fixture(scope="session")
def target(site: Site) -> dict[str, str]:
    """What half of the requests are about: things that are there."""
    with site.http() as http:
        made = http.post(f"{site.api}/experiments", json={**_experiment(), "metadata": {"name": "fuzzed"}})
        assert made.is_success, made.text
    return {"ns": site.namespace, "name": "fuzzed", "run": site.run("fuzzed", 1)}


def _experiment() -> dict[str, Any]:
    config = {"model_name": "m", "training_args": {"learning_rate": {"$list": [0.1]}}}
    return {"spec": {"configs": [{"trainer": "SFT", "config": config}], "data": {"train": {"uri": "hf://a/b"}}}}


schema = schemathesis.pytest.from_fixture("api_schema")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_nothing_breaks_it(case: Case, site: Site, target: dict[str, str]) -> None:
    parameters = case.path_parameters or {}
    if "ns" in parameters:
        parameters["ns"] = site.namespace
    lasting = case.method != "DELETE" and not case.path.endswith("/changes")
    for key in ("name", "run") if lasting else ():
        if key in parameters and len(str(parameters[key])) % 2:
            parameters[key] = target[key]
    if case.query and "wait" in case.query:
        case.query["wait"] = 0.1
    answer = case.call(
        base_url=f"http://127.0.0.1:{site.port}", headers={"Authorization": f"Bearer {site.token}"}, timeout=20
    )
    assert answer.status_code < 500 or answer.status_code == 502, (case.as_curl_command(), answer.text)  # no volume
    if answer.status_code >= 400 and case.method != "HEAD":
        assert answer.json()["detail"]


def test_every_route_describes_its_errors_and_what_it_does(site: Site) -> None:
    described = site.http().get("/openapi.json").json()
    for path, methods in described["paths"].items():
        if path in {"/healthz", "/dispatcher/health-check"}:
            continue
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["description"], where
            assert {"401", "403", "422", "429", "503"} <= operation["responses"].keys(), where
            for status, answer in operation["responses"].items():
                if status.startswith(("4", "5")) and method != "head":
                    assert answer["content"]["application/json"]["example"]["detail"], where


@pytest.mark.parametrize("url", ["https://api.example.org", ""])
def test_the_address_that_browsers_use_is_described(url: str) -> None:
    settings = Settings(namespaces="default", KUBERNETES_SERVICE_HOST=ADDRESS, gateway_url=url)
    nobody = cast("Any", None)
    described = create_app(Services(settings, Sessions(1.0, 1.0), nobody, nobody, nobody)).openapi()
    assert described.get("servers", []) == ([{"url": url}] if url else [])
