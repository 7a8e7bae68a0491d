"""A real Prometheus that finds the pods of a cluster by their scrape annotations, and its answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.support.waiting import wait_for

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
def prometheus(folder: Path, kubeconfig: Path, namespaces: Sequence[str]) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the annotated pods of some namespaces every second, with the chart's alerts."""
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(configuration(kubeconfig, namespaces)))
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    words = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    words += [f"--web.listen-address={url.removeprefix('http://')}", "--log.level=warn"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        made = Prometheus(url)
        wait_for("Prometheus", lambda: _is_ready(url, process), seconds=120)
        yield made
    finally:
        process.terminate()
        process.wait(timeout=60)


def configuration(kubeconfig: Path, namespaces: Sequence[str]) -> dict[str, Any]:
    """Return the usual way to scrape pods by their annotations; docs/monitoring.md shows the same."""
    pod = "__meta_kubernetes_pod_"
    annotation = f"{pod}annotation_prometheus_io_"
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "5s"},
        "rule_files": [str(ROOT / "charts" / "rapidfireai" / "alerts" / "rules.yaml")],
        "scrape_configs": [
            {
                "job_name": "pods",
                "honor_labels": True,
                "kubernetes_sd_configs": [
                    {"role": "pod", "kubeconfig_file": str(kubeconfig), "namespaces": {"names": list(namespaces)}}
                ],
                "relabel_configs": [
                    {
                        "source_labels": [f"{annotation}scrape", f"{pod}label_app_kubernetes_io_name"],
                        "action": "keep",
                        "regex": "true;rapidfireai",
                    },
                    {"source_labels": [f"{pod}phase"], "action": "drop", "regex": "Pending|Succeeded|Failed"},
                    {
                        "source_labels": [f"{annotation}path"],
                        "regex": "(.+)",
                        "target_label": "__metrics_path__",
                    },
                    {
                        "source_labels": [f"{pod}ip", f"{annotation}port"],
                        "separator": ":",
                        "target_label": "__address__",
                    },
                    {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
                    {"source_labels": [f"{pod}name"], "target_label": "pod"},
                ],
            }
        ],
    }


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
