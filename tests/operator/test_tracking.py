"""MLflow is kept in step, late if need be, and never doubled: a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.operator.builders import condition, experiment
from tests.operator.harness import OperatorProcess, until
from tests.operator.simulated import Deed, Node

from rapidfireai.api import Run
from rapidfireai.cluster.control_plane import free_ports
from rapidfireai_operator.adapters.kubernetes import Api
from rapidfireai_operator.adapters.mlflow import Mlflow
from rapidfireai_operator.core.tracking import LONGEST_VALUE, TrackedExperiment, parameters, state_of, tracked_run


def test_parameters_are_the_leaves_of_the_config() -> None:
    config = {
        "trainer_type": "SFT",
        "training_args": {"learning_rate": 0.001, "lr@x": None},
        "peft_params": {"target_modules": ["q", "v"]},
        "additional_kwargs": {
            "formatting_func": {"$ref": {"bundle": "0" * 64, "key": "f", "label": "to_chat"}},
            "compute_metrics": {"$function": "our.metrics:hits"},
        },
        "long": "x" * (LONGEST_VALUE + 1),
    }
    found = parameters(config)
    assert found.pop("long") == "x" * LONGEST_VALUE
    assert found == {
        "trainer_type": "SFT",
        "training_args.learning_rate": "0.001",
        "training_args.lr_x": "null",
        "peft_params.target_modules": '["q", "v"]',
        "additional_kwargs.formatting_func": "to_chat",
        "additional_kwargs.compute_metrics": "our.metrics:hits",
    }


def test_parameters_of_an_evaluation_are_its_knobs_without_secrets() -> None:
    client = {"base_url": "https://u:p@host/v1", "api_key": {"$env": "RAPIDFIRE_KEY_0123abcd"}, "max_retries": 3}
    config = {
        "api_config": {
            "client_config": client,
            "model_config": {"model": "small", "temperature": 0.5},
            "rag": {"search_type": "mmr", "search_kwargs": {"k": 5}, "reranker_cls": {"$class": "lib.ranks:Cross"}},
            "rpm_limit": 60,
        },
        "batch_size": 4,
        "preprocess_fn": {"$function": "ask"},
        "online_strategy_kwargs": {"strategy_name": "wilson"},
    }
    assert parameters(config) == {
        "model": "small",
        "model_config.temperature": "0.5",
        "rag.search_type": "mmr",
        "rag.search_kwargs.k": "5",
        "rag.reranker_cls": "Cross",
        "rpm_limit": "60",
        "batch_size": "4",
        "preprocess_fn": "ask",
    }


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (None, "RUNNING"),
        ("Running", "RUNNING"),
        ("Stopped", "KILLED"),
        ("Succeeded", "FINISHED"),
        ("Failed", "FAILED"),
        ("Deleted", "KILLED"),
    ],
)
def test_a_runs_state_in_mlflows_words(state: str | None, shown: str) -> None:
    run = Run.model_validate({"spec": {"experimentRef": "e", "index": 1, "config": {}}, "status": {"state": state}})
    assert state_of(run) == shown


def test_a_clone_says_where_it_comes_from() -> None:
    parent = {"name": "exp-r3", "uid": "u", "index": 3, "warmStart": True}
    spec = {"experimentRef": "exp", "index": 5, "config": {"model_name": "m"}, "parentRef": parent}
    told = tracked_run(Run.model_validate({"spec": spec}))
    lineage = {"parent-run": "3", "warm-start": "true"}
    assert told.params == {"model_name": "m"} | lineage
    assert lineage.items() <= told.tags.items()
    evaluates = {**spec, "config": {"vllm_config": {"model_config": {"model": "m"}}}}
    assert tracked_run(Run.model_validate({"spec": evaluates})).params == {"model": "m", "parent-run": "3"}


class Server:
    """`mlflow server` on a free port; it is slow to start."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        store = [
            f"--backend-store-uri=sqlite:///{self.home}/mlflow.db",
            f"--default-artifact-root={self.home}/artifacts",
        ]
        with (self.home / "mlflow.log").open("wb") as log:
            environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PATH": str(Path(sys.executable).parent)}
            self.process = subprocess.Popen([*words, *store], stdout=log, stderr=log, env=environment)

    def wait(self, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        pytest.fail(f"MLflow is not up: {(self.home / 'mlflow.log').read_text()[-2000:]}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("mlflow"))
    yield made
    made.stop()


@pytest.mark.integration
async def test_mlflow_is_kept_in_step_though_it_comes_late_and_the_operator_is_killed(
    api: Api,
    namespace: str,
    server: Server,
    make_operator: Callable[..., OperatorProcess],
    make_node: Callable[..., Node],
) -> None:
    operator = make_operator(RAPIDFIRE_MLFLOW_URL=server.url)
    make_node(behaviour=lambda attempt: Deed("fail" if attempt.run == "exp-r4" else "commit", seconds=0.1))
    await api.create("experiments", namespace, experiment(runs=4))
    await api_until(api, namespace, "exp-r2", lambda run: run.get("status", {}).get("state") == "Running")
    await api.patch("runs", namespace, "exp-r2", {"spec": {"desiredState": "Stopped"}})

    async def finished() -> bool:
        return condition(await api.get("experiments", namespace, "exp"), "Finished").get("status") == "True"

    await until("it finishes without MLflow", finished, api, namespace)
    server.start()
    await asyncio.to_thread(server.wait)  # the simulated node lives in this loop
    ids = {}
    for index in range(1, 5):
        name = f"exp-r{index}"
        run = await api_until(api, namespace, name, lambda run: run["status"].get("mlflowRunID"), seconds=90)
        ids[name] = run["status"]["mlflowRunID"]
    operator.kill()
    operator.start()
    await api.delete("runs", namespace, "exp-r3", (await api.get("runs", namespace, "exp-r3"))["metadata"]["uid"])
    await api.patch("runs", namespace, "exp-r2", {"spec": {"desiredState": "Running"}})
    await api_until(api, namespace, "exp-r2", lambda run: run["status"].get("state") == "Succeeded")

    body = await api.get("experiments", namespace, "exp")
    mlflow = Mlflow(server.url)

    async def in_step() -> bool:
        known = await asyncio.to_thread(mlflow.runs, body["status"]["mlflowExperimentID"])
        seen = {run.id: run.state for run in known.values() if run.has_params}
        wanted = ["FINISHED", "FINISHED", "FINISHED", "FAILED"]
        return seen == dict(zip(ids.values(), wanted, strict=True))

    await until("four runs, each with its end, none doubled", in_step, api, namespace, seconds=60)

    await api.patch("runs", namespace, "exp-r1", {"spec": {"desiredState": "Deleted"}})

    async def hidden() -> bool:
        known = await asyncio.to_thread(mlflow.runs, body["status"]["mlflowExperimentID"])
        return {run.id for run in known.values()} == {ids[f"exp-r{index}"] for index in (2, 3, 4)}

    await until("the deleted run is hidden", hidden, api, namespace, seconds=60)
    operator.kill()
    operator.start()
    await api.create("experiments", namespace, experiment(name="waiting", runs=2, replicas=0))

    async def known() -> str | None:
        waiting: dict[str, Any] = await api.get("experiments", namespace, "waiting")
        return (waiting.get("status") or {}).get("mlflowExperimentID")

    waiting = await until("the other experiment is in MLflow", known, api, namespace)
    assert await asyncio.to_thread(mlflow.runs, waiting) == {}, "runs that have not begun are not there yet"
    assert await hidden(), "and an operator that starts does not make it again"


@pytest.mark.integration
def test_an_experiment_is_found_by_its_tag_and_a_taken_name_is_no_obstacle(server: Server) -> None:
    if server.process is None:
        server.start()
    server.wait()
    mlflow = Mlflow(server.url)
    first = TrackedExperiment("uid-1", "same", "same uid-1", {"rapidfire.uid": "uid-1"})
    second = TrackedExperiment("uid-2", "same", "same uid-2", {"rapidfire.uid": "uid-2"})
    one, two = mlflow.ensure_experiment(first), mlflow.ensure_experiment(second)
    assert one != two
    assert (mlflow.ensure_experiment(first), mlflow.ensure_experiment(second)) == (one, two)


async def api_until(
    api: Api, namespace: str, name: str, look: Callable[[dict[str, Any]], Any], seconds: float = 40.0
) -> dict[str, Any]:
    async def found() -> dict[str, Any] | None:
        run = await api.get("runs", namespace, name)
        return run if look(run) else None

    answer: dict[str, Any] = await until(f"{name} as expected", found, api, namespace, seconds)
    return answer
