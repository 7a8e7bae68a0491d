"""The original system's routes: the story of a client that steers runs with plain HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.gateway.site import Site
from tests.operator.builders import experiment
from tests.operator.harness import OperatorProcess, until
from tests.operator.simulated import Deed, Node

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai_operator.adapters.kubernetes import Api

pytestmark = pytest.mark.integration
Row = dict[str, Any]


@pytest.fixture
def steered(control_plane: ControlPlane, crds: None, namespace: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(control_plane, tmp_path / "site", namespace)
    made.prepare()
    try:
        made.gateway()
        yield made
    finally:
        made.close()
        print(made.log.read_text()[-6000:])


async def test_a_client_watches_stops_and_clones_with_plain_http(
    steered: Site,
    api: Api,
    make_operator: Callable[..., OperatorProcess],
    make_node: Callable[..., Node],
) -> None:
    make_operator()
    make_node(behaviour=lambda _: Deed(seconds=0.4))
    url = f"http://127.0.0.1:{steered.port}/dispatcher"
    headers = {"Authorization": f"Bearer {steered.token}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as http:

        async def post(path: str, **body: Any) -> Any:
            answer = await http.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        async def rows() -> dict[int, Row]:
            return {row["run_id"]: row for row in (await http.get("/get-all-runs")).json()}

        async def seen(what: str, look: Callable[[dict[int, Row]], Any]) -> dict[int, Row]:
            async def asked() -> dict[int, Row] | None:
                found = await rows()
                return found if look(found) else None

            found: dict[int, Row] = await until(what, asked, api, steered.namespace)
            return found

        assert (await http.get("/health-check")).json() == "Dispatcher is up and running"
        assert (await http.get("/get-all-runs")).status_code == 404  # nothing was begun
        body = experiment(runs=2, replicas=1, displayName="My sweep")
        assert (await http.post(f"http://127.0.0.1:{steered.port}{steered.api}/experiments", json=body)).is_success
        await seen("first chunks", lambda found: found.get(2) and found[2]["num_chunks_visited"] > 0)

        running = (await http.get("/get-running-experiment")).json()
        assert (running["experiment_name"], running["experiment_mode"]) == ("My sweep", "fit")
        assert await post("/is-experiment-running", experiment_name="My sweep") == {"is_running": True}
        assert (await http.get("/get-all-experiment-names")).json() == ["My sweep"]

        assert await post("/stop-run", run_id=1) == {}
        stopped = await seen("the stop", lambda found: found[1]["status"] == "Stopped")
        assert stopped[1]["ended_by"] == "Interactive Control"

        parent = await post("/get-run", run_id=1)
        config = {**parent["config"], "training_args": {**parent["config"]["training_args"], "learning_rate": 0.0003}}
        assert await post("/clone-modify-run", run_id=1, config=config, warm_start=True) == {}
        cloned = await seen("the clone", lambda found: 3 in found)
        assert cloned[3]["source"] == "Interactive Control"
        assert cloned[3]["config"]["training_args"]["learning_rate"] == 0.0003
        run = await api.get("runs", steered.namespace, "exp-r3")
        assert run["spec"]["parentRef"]["warmStart"] is True
        await seen("the clone's chunks", lambda found: found[3]["status"] == "Completed")

        refused = await http.post("/stop-run", json={"run_id": 3})
        assert refused.status_code == 409
        assert "last step" in refused.json()["error"]
        assert await post("/resume-run", run_id=1) == {}
        await seen("the end", lambda found: all(row["status"] == "Completed" for row in found.values()))

        lines = await post("/get-ic-logs", experiment_name="My sweep")
        assert len(lines) == 4
        assert all("| My sweep | interactive-control |" in line for line in lines)
        assert (await http.get("/all-operations")).json() == []
        assert (await http.get("/get-running-experiment")).status_code == 404
        pipelines = (await http.get("/list-all-pipeline-ids")).json()
        assert [each["pipeline_id"] for each in pipelines] == [3, 2, 1]
        assert pipelines[0]["shards_completed"] == pipelines[0]["total_shards"] == 4
