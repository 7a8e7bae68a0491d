"""kubeconform: every field of every object is one that this version of Kubernetes has."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.chart import programs
from tests.chart.rendering import VALUE_SETS, Chart
from tests.support.waiting import wait_for

from rapidfireai.cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("chart")]
WAITED_FOR = [
    *(f"{kind}-rapidfire-v1alpha1.json" for kind in ("experiment", "run", "icop")),
    *(f"{kind}-monitoring-v1.json" for kind in ("servicemonitor", "podmonitor", "prometheusrule")),
]
"""The definitions come one by one after they were applied."""
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
KEYWORDS = {"$ref", "type", "enum", "pattern", "required", "items", "not", "allOf", "anyOf", "oneOf", "uniqueItems"}
KEYWORDS |= {"additionalProperties", "minimum", "maximum"}
KEYWORDS |= {f"{end}{what}" for end in ("min", "max") for what in ("Items", "Length", "Properties")}
FILE = "{{ .ResourceKind }}{{ .KindSuffix }}.json"


@pytest.fixture(scope="module")
def schemas(control_plane: ControlPlane, crds: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JSON schemas, one a kind, from the API server's own description of itself."""
    words = [word for file in programs.monitor_definitions() for word in ("--filename", str(file))]
    answer = control_plane.kubectl("apply", "--server-side", *words)
    assert answer.returncode == 0, answer.stderr
    folder = tmp_path_factory.mktemp("schemas")

    def described() -> bool:
        document = json.loads(control_plane.kubectl("get", "--raw", "/openapi/v2").stdout)
        write_schemas(document["definitions"], folder)
        return all((folder / name).exists() for name in WAITED_FOR)

    wait_for("the API server describes the definitions", described, 120)
    return folder


def write_schemas(definitions: dict[str, Any], folder: Path) -> None:
    """Write a file for each kind, as kubeconform looks for them: kind, first word of the group, version."""
    definitions[QUANTITY] = {"oneOf": [{"type": "string"}, {"type": "number"}]}
    (folder / "_definitions.json").write_text(
        json.dumps({"definitions": {name: _strict(schema) for name, schema in definitions.items()}})
    )
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            words = [kind["kind"].lower(), kind["group"].split(".")[0], kind["version"]]
            path = folder / f"{'-'.join(filter(None, words))}.json"
            path.write_text(json.dumps({"$ref": f"_definitions.json#/definitions/{name}"}))


def _strict(schema: Any) -> Any:
    """Return a schema that refuses fields it does not know."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    kept = {name: _strict(each) for name, each in schema.items() if name in KEYWORDS}
    if "properties" in schema:
        kept["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
    if isinstance(kept.get("$ref"), str):
        kept["$ref"] = kept["$ref"].replace("#/definitions/", "_definitions.json#/definitions/")
    return kept


def conform(schemas: Path, text: str) -> subprocess.CompletedProcess[str]:
    command = [programs.kubeconform(), "-strict", "-summary", "-schema-location", f"{schemas}/{FILE}"]
    return subprocess.run([*map(str, command), "-"], input=text, capture_output=True, text=True, check=False)


def test_manifests_conform(chart: Chart, schemas: Path, show: Callable[[str], None]) -> None:
    texts = {name: chart.text(**values) for name, values in VALUE_SETS.items()}
    # All at once: reading the schemas is most of the work.
    answer = conform(schemas, "".join(texts.values()))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "Skipped: 0" in answer.stdout
    show(f"kubeconform, {', '.join(texts)}: {answer.stdout.strip()}")


def test_a_field_that_does_not_exist_is_found(chart: Chart, schemas: Path) -> None:
    text = chart.text(**VALUE_SETS["given"]).replace("imagePullPolicy:", "imagePullPolice:")
    answer = conform(schemas, text)
    assert answer.returncode != 0
    assert "imagePullPolice" in answer.stdout
