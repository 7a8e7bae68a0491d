"""A real Prometheus that scrapes the pods of a cluster by their annotations, and its answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.support.waiting import again_and_again, wait_for

from rapidfireai.cluster.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
FETCHED = ROOT / ".cache" / "prometheus" / "usr" / "bin"
"""Where `make prometheus` puts the programs."""
RATE_INTERVAL = "30s"
"""What Grafana would put in for `$__rate_interval` with this scrape interval and a short run."""


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`; the test is skipped where there is none."""
    found = shutil.which(name) or shutil.which(name, path=str(FETCHED))
    if found is None:
        pytest.skip(f"there is no {name}: run `make prometheus`")
    return found


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus that runs.

    Attributes:
        url: Where it answers.
    """

    url: str

    def targets(self) -> list[Mapping[str, Any]]:
        """Return what is scraped."""
        return list(self._get("targets", state="active")["activeTargets"])

    def range(self, query: str, start: float, end: float, step: float) -> list[Mapping[str, Any]]:
        """Return the series of a query between two times."""
        return list(self._get("query_range", query=query, start=start, end=end, step=step)["result"])

    def _get(self, what: str, **words: Any) -> Mapping[str, Any]:
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=words, trust_env=False, timeout=60)
        assert answer.status_code == 200, (words, answer.text)
        data: Mapping[str, Any] = answer.json()["data"]
        return data


@contextmanager
def prometheus(folder: Path, pods: Callable[[], Sequence[Mapping[str, Any]]]) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the annotated ones of some pods every second, with the chart's alerts."""
    config, targets = folder / "prometheus.yml", folder / "targets.json"
    targets.write_text("[]")
    config.write_text(yaml.safe_dump(configuration(targets)))
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    words = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    words += [f"--web.listen-address={url.removeprefix('http://')}", "--log.level=warn"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        made = Prometheus(url)
        wait_for("Prometheus", lambda: _is_ready(url, process), seconds=120)
        with again_and_again(lambda: discover(targets, pods()), 1.0):
            yield made
    finally:
        process.terminate()
        process.wait(timeout=60)


def configuration(targets: Path) -> dict[str, Any]:
    """Return the configuration that docs/monitoring.md shows, with pods from a file.

    Debian's Prometheus is built without Kubernetes' discovery; what it would say of a pod stands in the file.
    """
    block = re.search(r"```yaml\n(scrape_configs:\n.*?)```", (ROOT / "docs" / "monitoring.md").read_text(), re.DOTALL)
    assert block is not None
    (job,) = yaml.safe_load(block[1])["scrape_configs"]
    del job["kubernetes_sd_configs"]
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "5s"},
        "rule_files": [str(ROOT / "charts" / "rapidfireai" / "alerts" / "rules.yaml")],
        "scrape_configs": [{**job, "file_sd_configs": [{"files": [str(targets)]}]}],
    }


def discovered(pod: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what Kubernetes' discovery says of a pod: one target for each of its ports."""
    metadata, status = pod["metadata"], pod["status"]
    labels = {
        "__meta_kubernetes_namespace": metadata["namespace"],
        "__meta_kubernetes_pod_name": metadata["name"],
        "__meta_kubernetes_pod_ip": status.get("podIP", ""),
        "__meta_kubernetes_pod_phase": status.get("phase", ""),
    }
    for name, value in (metadata.get("annotations") or {}).items():
        labels["__meta_kubernetes_pod_annotation_" + re.sub(r"\W", "_", name)] = value
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            yield {"targets": [f"{status.get('podIP', '')}:{port['containerPort']}"], "labels": labels}


def discover(targets: Path, pods: Sequence[Mapping[str, Any]]) -> None:
    """Bring a file of targets up to date with the pods that there are."""
    fresh = targets.with_suffix(".new")
    fresh.write_text(json.dumps([target for pod in pods for target in discovered(pod)]))
    fresh.rename(targets)


def panels(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each panel of the dashboards in a folder, with its dashboard's name."""
    for path in sorted(folder.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                yield path.stem, panel


def filled_in(query: str) -> str:
    """Return a panel's query as Grafana sends it when everything is chosen."""
    for name in ("namespace", "experiment", "worker"):
        query = query.replace(f"${name}", ".*")
    return query.replace("$__rate_interval", RATE_INTERVAL)


def _is_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Prometheus has ended; see prometheus.log"
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
