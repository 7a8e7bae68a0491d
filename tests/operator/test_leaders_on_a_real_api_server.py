"""Two operators, one leads: killed, frozen, told to end, or cut off from the API server."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from tests.operator.builders import condition, experiment
from tests.operator.harness import OperatorProcess, until
from tests.operator.simulated import BOUNDARIES, Deed, Node

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai_operator.adapters.kubernetes import Api
from rapidfireai_operator.adapters.leadership import LEASE

pytestmark = pytest.mark.integration
MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., Node]


class Pair:
    """Two operators of one release, and who leads."""

    def __init__(self, make: MakeOperator, api: Api, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self.operators = {
            name: make(RAPIDFIRE_LEASE_NAMESPACE=namespace, POD_NAME=name, RAPIDFIRE_LEADER_SECONDS="10")
            for name in ("operator-a", "operator-b")
        }

    async def leader(self, other_than: str = "") -> str:
        """Wait until one leads; return its name."""

        async def look() -> str | None:
            lease = await self.api.get("leases", self.namespace, LEASE)
            name = lease["spec"].get("holderIdentity") or ""
            return name if name not in {"", other_than} and await gauge(self.operators[name]) == 1 else None

        return str(await until(f"a leader other than {other_than!r}", look, self.api, self.namespace, 90))

    def other(self, name: str) -> str:
        return next(each for each in self.operators if each != name)

    def pid(self, name: str) -> int:
        process = self.operators[name].process
        assert process is not None
        return process.pid


@pytest.fixture
def pair(make_operator: MakeOperator, api: Api, namespace: str) -> Pair:
    return Pair(make_operator, api, namespace)


async def page(operator: OperatorProcess, port: int, path: str) -> tuple[int, str]:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(f"http://127.0.0.1:{port}{path}") as answer,
        ):
            return answer.status, await answer.text()
    except (aiohttp.ClientError, TimeoutError):
        return 0, ""


async def gauge(operator: OperatorProcess) -> float | None:
    found = re.search(r"^rapidfire_operator_leader (\S+)$", (await page(operator, operator.port, "/metrics"))[1], re.M)
    return float(found.group(1)) if found else None


async def stands_by(pair: Pair, name: str) -> None:
    async def look() -> bool:
        healthy = (await page(pair.operators[name], pair.operators[name].health_port, "/healthz"))[0] == 200
        return healthy and await gauge(pair.operators[name]) == 0

    await until(f"{name} stands by", look, pair.api, pair.namespace, 90)


async def ended(pair: Pair, name: str) -> int:
    """Wait until an operator's process is gone; return its exit code."""
    process = pair.operators[name].process
    assert process is not None

    async def look() -> tuple[int] | None:
        code = process.poll()
        return None if code is None else (code,)

    return int((await until(f"{name} ends", look, pair.api, pair.namespace))[0])


async def finished(pair: Pair) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        body = await pair.api.get("experiments", pair.namespace, "exp")
        return body if condition(body, "Finished").get("status") == "True" else None

    return dict(await until("the experiment ends", look, pair.api, pair.namespace, 120))


async def test_one_leads_and_the_other_answers_its_probes(pair: Pair) -> None:
    leader = await pair.leader()
    await stands_by(pair, pair.other(leader))
    assert (await page(pair.operators[leader], pair.operators[leader].health_port, "/healthz"))[0] == 200


async def test_leaders_are_killed_in_turn_and_nothing_is_lost_or_done_twice(pair: Pair, make_node: MakeNode) -> None:
    node = make_node(behaviour=lambda _: Deed(seconds=1.5))
    leader = await pair.leader()
    await pair.api.create("experiments", pair.namespace, experiment(runs=6))
    took = {}
    for how, number, commits in (("killed", signal.SIGKILL, 4), ("told to end", signal.SIGTERM, 10)):

        async def enough(least: int = commits) -> bool:
            return len(node.ledger) >= least

        await until(f"{commits} commits", enough, pair.api, pair.namespace, 90)
        await stands_by(pair, pair.other(leader))
        begun, before = time.monotonic(), leader
        os.kill(pair.pid(before), number)
        leader = await pair.leader(other_than=before)
        took[how] = time.monotonic() - begun
        await ended(pair, before)
        pair.operators[before].start()
    print("seconds until another one led:", took, flush=True)
    body = await finished(pair)
    assert body["status"]["state"] == "Succeeded"
    assert body["status"]["runs"]["succeeded"] == 6
    done = Counter((each.run, each.chunk) for each in node.ledger)
    assert set(done.values()) == {1}
    assert len(done) == 6 * (len(BOUNDARIES) + 1)


async def test_a_leader_that_was_frozen_writes_nothing_when_it_wakes(pair: Pair, make_node: MakeNode) -> None:
    node = make_node(behaviour=lambda _: Deed(seconds=0.4))
    leader = await pair.leader()
    await pair.api.create("experiments", pair.namespace, experiment(runs=4))

    async def begun() -> bool:
        return len(node.ledger) >= 2

    await until("2 commits", begun, pair.api, pair.namespace)
    await stands_by(pair, pair.other(leader))
    frozen = time.monotonic()
    os.kill(pair.pid(leader), signal.SIGSTOP)
    await pair.leader(other_than=leader)
    print("seconds until another one led:", time.monotonic() - frozen)
    assigned = pair.operators[leader].log.read_text().count('"event": "assigned"')
    os.kill(pair.pid(leader), signal.SIGCONT)
    assert await ended(pair, leader) == 1
    assert "no longer leads" in pair.operators[leader].log.read_text()
    assert assigned > 0
    body = await finished(pair)
    assert body["status"]["state"] == "Succeeded"
    assert set(Counter((each.run, each.chunk) for each in node.ledger).values()) == {1}


async def test_a_leader_that_cannot_renew_its_lease_ends(pair: Pair, control_plane: ControlPlane) -> None:
    leader = await pair.leader()
    refused = control_plane.kubectl(
        "delete", "rolebinding", f"operator-{pair.namespace}", "--namespace", pair.namespace
    )
    assert refused.returncode == 0, refused.stderr
    assert await ended(pair, leader) == 1
    log = pair.operators[leader].log.read_text()
    assert "it could not renew its Lease" in log
    assert 'cannot get resource \\"leases\\"' in log
