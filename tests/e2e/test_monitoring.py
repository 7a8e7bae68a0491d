"""The story of who watches the cluster: a real Prometheus, and every panel of the dashboards has something to show."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import ROOT, Cluster
from tests.e2e.test_steering import experiment, icop, written
from tests.support.chat_server import ChatServer, chat_server
from tests.support.prometheus import Prometheus, filled_in, panels, prometheus

pytestmark = [pytest.mark.e2e, pytest.mark.ml, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(900)]
DASHBOARDS = ROOT / "charts" / "rapidfireai" / "dashboards"
SOURCE = """
def preprocess(batch, rag, prompt_manager):
    return {**batch, "prompts": [[{"role": "user", "content": each}] for each in batch["question"]]}
def compute_metrics(batch):
    return {"Length": {"value": sum(map(len, batch["generated_text"])) / len(batch["generated_text"])}}
"""
MAY_BE_EMPTY = {
    "Alerts that fire",
    "Errors",
    "Evaluation loss",
    "GPU memory",
    "GPU utilisation",
    "Indexes of documents",
    "Refused or not answered",
    "Uploads and clean-up",
}
"""Panels that this story need not fill: it has no GPU, builds no index, uploads nothing, and nothing goes wrong."""


@pytest.fixture
def watched(cluster: Cluster, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus beside the cluster."""
    with prometheus(tmp_path, lambda: json.loads(cluster.kubectl("get", "pods", "-A", "-o", "json"))["items"]) as made:
        yield made


def value(watched: Prometheus, query: str) -> float:
    """Return the latest value of a query; 0 if it has none."""
    now = time.time()
    series = watched.range(query, now - 10, now, 1)
    return max((float(each["values"][-1][1]) for each in series), default=0.0)


def train_and_steer(cluster: Cluster, watched: Prometheus, rows: Path) -> None:
    """Train two runs, and stop and resume each: the second of a kind is what a rate can show."""
    cluster.kubectl("apply", "-f", experiment("watched", rows))
    cluster.wait("the first run has committed", lambda: cluster.committed("watched-r1") > 0)
    for number, run in enumerate(("watched-r1", "watched-r2"), start=1):
        for op in ("Stop", "Resume"):
            name = f"{op.lower()}-{number}"
            cluster.kubectl("create", "-f", icop(rows, name, "watched", op, run, when="Immediate"))
            cluster.kubectl("wait", "--for=condition=Complete", f"icop/{name}", "--timeout=120s")
            count = f'rapidfire_icop_complete_seconds_count{{op="{op}"}}'
            cluster.wait(f"{name} is seen", lambda count=count, number=number: value(watched, count) >= number)


def evaluate(cluster: Cluster, server: ChatServer, rows: Path) -> None:
    """Answer the rows through an API."""
    api = {
        "client_config": {"base_url": server.url},
        "model_config": {"model": "function"},
        "input_price": 1.0,
        "output_price": 2.0,
    }
    functions = {name: {"$function": name.removesuffix("_fn")} for name in ("preprocess_fn", "compute_metrics_fn")}
    key = {"name": "OPENAI_API_KEY", "value": "any word"}
    spec = {
        "mode": "evals",
        "shards": 4,
        "objective": {"metric": "Length", "direction": "maximize"},
        "code": {"source": SOURCE},
        "configs": [{"config": {"api_config": api, "batch_size": 2, **functions}}],
        "data": {"eval": {"uri": "pvc://rapidfire-data/stories/train.jsonl"}},
        "workers": {"replicas": 1, "template": {"spec": {"containers": [{"name": "worker", "env": [key]}]}}},
    }
    cluster.kubectl("apply", "-f", written(rows, "asked", {"kind": "Experiment", "spec": spec}))


def test_every_panel_shows_a_real_run(cluster: Cluster, rows: Path, watched: Prometheus) -> None:
    begun = time.time()
    cluster.wait("all parts are scraped", lambda: len(scraped(watched)) >= 3)
    with chat_server(lambda _: time.sleep(0.3) or "An answer.") as server:
        evaluate(cluster, server, rows)
        train_and_steer(cluster, watched, rows)
        with httpx.Client(base_url=cluster.local.gateway_url, trust_env=False) as client:
            for path in ("/healthz", "/api/v1/whoami", "/healthz", "/api/v1/whoami"):
                client.get(path)
                asked = value(watched, "sum(rapidfire_gateway_requests_total)")
                client.get("/healthz")
                cluster.wait(
                    "the gateway's requests are seen",
                    lambda asked=asked: value(watched, "sum(rapidfire_gateway_requests_total)") > asked,
                )
        for name in ("asked", "watched"):
            cluster.kubectl("wait", "rfexp", name, "--for=condition=Finished", "--timeout=600s")
            assert cluster.get("rfexp", name)["status"]["state"] == "Succeeded"
            ended = f'rapidfire_experiment_state{{experiment="{name}", state="Succeeded"}}'
            cluster.wait(f"{name} is seen to end", lambda ended=ended: value(watched, ended) == 1)
    answers = ask_all(watched, begun, time.time())
    if place := os.environ.get("RAPIDFIRE_MONITORING_ANSWERS"):
        Path(place).write_text(json.dumps(answers))
    empty = [f"{each['dashboard']}: {each['panel']}" for each in answers if not any(map(has_data, each["targets"]))]
    assert {each.partition(": ")[2] for each in empty} <= MAY_BE_EMPTY, empty
    down = [each["scrapeUrl"] for each in watched.targets() if each["health"] == "down" and is_service(each)]
    assert not down, "what outlives an experiment is still scraped"


def scraped(watched: Prometheus) -> set[str]:
    """Return the parts that are scraped with success."""
    return {each["labels"]["pod"].rsplit("-", 2)[0] for each in watched.targets() if each["health"] == "up"}


def is_service(target: Mapping[str, Any]) -> bool:
    return str(target["labels"]["pod"]).startswith("rapidfire-")


def ask_all(watched: Prometheus, begun: float, ended: float) -> list[dict[str, Any]]:
    """Return what every query of every panel answers."""
    step = max(1.0, (ended - begun) / 200)
    return [
        {
            "dashboard": name,
            "panel": panel["title"],
            "type": panel["type"],
            "targets": [
                {
                    "legend": target["legendFormat"],
                    "query": target["expr"],
                    "series": watched.range(filled_in(target["expr"]), begun, ended, step),
                }
                for target in panel["targets"]
            ],
        }
        for name, panel in panels(DASHBOARDS)
    ]


def has_data(target: Mapping[str, Any]) -> bool:
    """Say whether a query answered with a number."""
    return any(math.isfinite(float(value)) for series in target["series"] for _, value in series["values"])
