"""Probes: the checks, and the counting that turns them into a verdict."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from rapidfireai.cluster.node.facts import Json

_SHOWN = 500
"""Characters of a failed check's output that an event shows."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a check runs against.

    Attributes:
        ip: The pod's.
        ports: The container's ports by name.
        env: The container's environment.
        directory: Its working directory.
    """

    ip: str
    ports: Mapping[str, int]
    env: Mapping[str, str]
    directory: Path


@dataclass(frozen=True, slots=True)
class Timing:
    """When a probe runs and what it takes to change its verdict; times in seconds."""

    delay: float
    period: float
    timeout: float
    successes: int
    failures: int

    @classmethod
    def of(cls, probe: Json) -> Timing:
        """Return a probe's timing, with Kubernetes' defaults."""
        return cls(
            delay=probe.get("initialDelaySeconds") or 0,
            period=probe.get("periodSeconds") or 10,
            timeout=probe.get("timeoutSeconds") or 1,
            successes=probe.get("successThreshold") or 1,
            failures=probe.get("failureThreshold") or 3,
        )


@dataclass(slots=True)
class Counter:
    """Counts results in a row. `fold` returns the verdict when it is reached, and None before."""

    timing: Timing
    _last: bool | None = field(default=None, init=False)
    _row: int = field(default=0, init=False)

    def fold(self, success: bool) -> bool | None:
        """Take one more result."""
        self._row = self._row + 1 if success == self._last else 1
        self._last = success
        needed = self.timing.successes if success else self.timing.failures
        return success if self._row >= needed else None


async def check(handler: Json, target: Target, seconds: float) -> str | None:
    """Run a check once: an exec, httpGet, tcpSocket or sleep handler.

    Returns:
        None if it succeeded, else why not.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _check(handler, target)
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except aiohttp.ClientConnectorError as error:
        return str(error.os_error)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return str(error) or type(error).__name__


async def _check(handler: Json, target: Target) -> str | None:
    if "exec" in handler:
        return await _exec(handler["exec"]["command"], target)
    if "httpGet" in handler:
        return await _http(handler["httpGet"], target)
    if "tcpSocket" in handler:
        wanted = handler["tcpSocket"]
        _, writer = await asyncio.open_connection(wanted.get("host") or target.ip, _port(wanted["port"], target))
        writer.close()
        return None
    if "sleep" in handler:
        await asyncio.sleep(handler["sleep"]["seconds"])
        return None
    return "the process node does exec, httpGet and tcpSocket probes, and no others"


def _port(port: int | str, target: Target) -> int:
    if isinstance(port, int):
        return port
    if port not in target.ports:
        raise ValueError(f"the container has no port named {port}")
    return target.ports[port]


async def _http(wanted: Json, target: Target) -> str | None:
    host, port = wanted.get("host") or target.ip, _port(wanted["port"], target)
    url = f"{wanted.get('scheme', 'HTTP').lower()}://{host}:{port}/{wanted.get('path', '/').removeprefix('/')}"
    headers = {
        "User-Agent": "kube-probe/rapidfire",
        **{each["name"]: each["value"] for each in wanted.get("httpHeaders") or ()},
    }
    connector = aiohttp.TCPConnector(ssl=False)  # as kubelet: a pod's certificate is its own business
    async with (
        aiohttp.ClientSession(connector=connector, trust_env=False) as session,
        session.get(url, headers=headers, allow_redirects=False) as response,
    ):
        if 200 <= response.status < 400:
            return None
        return f"HTTP probe failed with statuscode: {response.status}"


async def _exec(command: Sequence[str], target: Target) -> str | None:
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(target.env),
        cwd=target.directory,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):  # it ended just now
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == 0:
        return None
    return output.decode(errors="replace").strip()[-_SHOWN:] or f"exit code {process.returncode}"


async def run_probe(
    probe: Json, target: Target, report: Callable[[bool, str], bool], first_fails: Callable[[str], None]
) -> None:
    """Check again and again, until `report` returns False or the task is cancelled.

    Args:
        probe: The probe as the pod's spec has it.
        target: What to check.
        report: Told each verdict (success, last reason).
        first_fails: Told the reason of the first failure after a success.
    """
    timing = Timing.of(probe)
    counter = Counter(timing)
    failing = False
    await asyncio.sleep(timing.delay)
    while True:
        reason = await check(probe, target, timing.timeout)
        if reason is not None and not failing:
            first_fails(reason)
        failing = reason is not None
        verdict = counter.fold(not failing)
        if verdict is not None and not report(verdict, reason or ""):
            return
        await asyncio.sleep(timing.period)
