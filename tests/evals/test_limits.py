"""Limits that several workers share, measured where the requests arrive."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.fault_proxy import KEY, Asked, FaultProxy, fault_proxy
from tests.support.leasing import EXPERIMENT, lease_service

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.limits import Limiter, LocalLessor, NoAnswer, VolumeLessor, lease_url
from rapidfireai_worker.volume.budgets import Ask, Grant, Limits, Terms

WORKER = Path(__file__).parent.parent / "support" / "api_worker.py"
WINDOW = 4.0
TERMS = Terms(window=WINDOW, lease=0.5, slack=1.0)
"""A window short enough for a test; the slack is what a busy machine needs, and is a smaller part of a minute."""


def start_worker(proxy: FaultProxy, port: int, name: str, seconds: float, **config: Any) -> subprocess.Popen[str]:
    told = {
        "base_url": proxy.url,
        "key": KEY,
        "volume_url": f"http://127.0.0.1:{port}",
        "experiment": EXPERIMENT,
        "name": name,
        "config": config,
        "batch": 8,
        "seconds": seconds,
    }
    return subprocess.Popen([sys.executable, str(WORKER), json.dumps(told)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("config", "worth", "limit"),
    [
        ({"rpm_limit": 60}, lambda asked: 1, 60),
        ({"tpm_limit": 3000, "max_completion_tokens": 50}, lambda asked: asked.tokens, 3000),
    ],
    ids=["requests", "tokens"],
)
def test_workers_together_stay_below_a_limit_and_use_it(
    tmp_path: Path, config: dict[str, int], worth: Callable[[Asked], int], limit: int, show: Callable[[str], None]
) -> None:
    """Three processes share it, one is killed on the way; what they leave is not lost."""
    with lease_service(tmp_path, TERMS) as port, fault_proxy(seconds=0.05) as proxy:
        workers = [start_worker(proxy, port, f"w-{index}", 16, **config) for index in range(3)]
        while not proxy.asked or time.monotonic() - proxy.asked[0].at < 5:
            assert all(worker.poll() is None for worker in workers)
            time.sleep(0.05)
        workers[0].kill()
        for worker in workers:
            worker.communicate(timeout=120)
        most = proxy.most_in(WINDOW, worth)
        first, last = proxy.asked[0].at, proxy.asked[-1].at
        used = sum(map(worth, proxy.asked)) / (limit * max(1.0, (last - first) / WINDOW))
        show(f"{limit} in {WINDOW:g} s: at most {most} in a window, {used:.0%} used, {len(proxy.asked)} requests")
    assert most <= limit


def test_nothing_is_exceeded_over_a_restart_of_the_service(tmp_path: Path) -> None:
    with fault_proxy(seconds=0.01) as proxy:
        with lease_service(tmp_path, TERMS) as port:
            worker = start_worker(proxy, port, "w-0", 10, rpm_limit=20)
            while len(proxy.asked) < 20:
                assert worker.poll() is None
                time.sleep(0.02)
        with lease_service(tmp_path, TERMS, port):
            worker.communicate(timeout=60)
    assert len(proxy.asked) > 20
    assert proxy.most_in(WINDOW) <= 20


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"rpm": 0}, 422, "rpm_limit=0"),
        ({"tpm": -5}, 422, "tpm_limit=-5"),
        ({"requests": -1}, 422, "requests"),
        ({"holder": ""}, 422, "holder"),
    ],
)
def test_an_ask_of_no_sense_is_refused(tmp_path: Path, change: dict[str, Any], status: int, words: str) -> None:
    with lease_service(tmp_path) as port:
        url = lease_url(f"http://127.0.0.1:{port}/", EXPERIMENT, "api-tiny")
        answer = httpx.post(url, json={"holder": "a", "requests": 1, "rpm": 5, **change}, trust_env=False)
        assert (answer.status_code, words in answer.text) == (status, True)
        unknown = httpx.post(url.replace("0001", "0002"), json={"holder": "a"}, trust_env=False)
        assert (unknown.status_code, "no experiment" in unknown.text) == (404, True)
        assert httpx.post(url.replace("api-tiny", "API"), json={"holder": "a"}, trust_env=False).status_code == 422


def test_a_budget_not_used_lately_is_whole_after_a_restart(tmp_path: Path) -> None:
    """A file that is too old says nothing; one of a moment ago holds everything back."""
    path = tmp_path / "experiments" / EXPERIMENT / "budgets" / "api-tiny.json"
    path.parent.mkdir(parents=True)
    got = []
    for until in (time.time() - 63, time.time() + 10):
        path.write_text(json.dumps({"until": until}))
        with lease_service(tmp_path) as port:
            url = lease_url(f"http://127.0.0.1:{port}", EXPERIMENT, "api-tiny")
            answer = httpx.post(url, json={"holder": "a", "requests": 1, "rpm": 50}, trust_env=False)
            got.append(answer.json()["requests"])
    assert got == [1, 0]


def with_limiter(act: Callable[[Limiter], Awaitable[None]], limits: Limits, lessor: Any = None, **more: Any) -> None:
    async def run() -> None:
        limiter = Limiter(lessor or LocalLessor(), limits, "w", **more)
        try:
            await asyncio.wait_for(act(limiter), 30)
        finally:
            await limiter.close()

    asyncio.run(run())


def test_who_gives_up_waiting_takes_nothing_with_it() -> None:
    async def act(limiter: Limiter) -> None:
        held = [await limiter.permit(10) for _ in range(5)]
        waiting = asyncio.create_task(limiter.permit(10))
        await asyncio.sleep(0)
        waiting.cancel()
        for permit in held:
            permit.give_back()
        for _ in range(5):
            (await limiter.permit(10)).give_back()

    with_limiter(act, Limits(rpm=5))


class Silent:
    """A volume service that does not answer."""

    async def lease(self, ask: Ask) -> Grant:
        raise NoAnswer("nobody there")

    async def close(self) -> None:
        pass


def test_a_service_that_is_away_for_long_is_nobodys_fault() -> None:
    async def act(limiter: Limiter) -> None:
        with pytest.raises(RunFailure, match="nobody there") as caught:
            await limiter.permit(1)
        assert (caught.value.blame, caught.value.reason) == ("Infrastructure", "BudgetUnavailable")

    with_limiter(act, Limits(rpm=5), Silent(), patience=0.2)


def test_limits_that_the_service_refuses_fail_the_run(tmp_path: Path) -> None:
    async def act(limiter: Limiter) -> None:
        with pytest.raises(RunFailure, match="rpm_limit=0"):
            await limiter.permit(1)

    with lease_service(tmp_path) as port:
        lessor = VolumeLessor(lease_url(f"http://127.0.0.1:{port}", EXPERIMENT, "k"), lambda: "token")
        with_limiter(act, Limits(rpm=0), lessor)


class Listening(LocalLessor):
    """Remembers what was said of leases."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: set[str] = set()

    async def lease(self, ask: Ask) -> Grant:
        self.closed |= {report.lease for report in ask.returned if report.closed}
        return await super().lease(ask)


def test_a_lease_ends_once_its_requests_are_sent() -> None:
    lessor = Listening()

    async def until(closed: int) -> None:
        while len(lessor.closed) < closed:  # noqa: ASYNC110 - the lessor knows nothing of waiting
            await asyncio.sleep(0.01)

    async def act(limiter: Limiter) -> None:
        slow = await limiter.permit(1)
        for count in (1, 2):
            (await limiter.permit(1)).settle(1)
            await until(count)
        assert "lease-1" not in lessor.closed
        slow.sent()
        await until(3)

    with_limiter(act, Limits(rpm=5), lessor)
