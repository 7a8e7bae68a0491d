"""How close several workers come to the limits of an API, and that they never pass them: the real window of a minute.

`python -m benchmarks.api_limits [--seconds 245] [--out benchmarks/results]`. The API is one on loopback that
remembers when each request came; the budgets are the volume service's; the workers are processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.fault_proxy import KEY, Asked, FaultProxy, fault_proxy
from tests.support.leasing import EXPERIMENT, lease_service

ROOT = Path(__file__).resolve().parent.parent
WORKER = ROOT / "tests" / "support" / "api_worker.py"
WINDOW = 60.0


@dataclass(frozen=True)
class Case:
    """Workers that share one budget.

    Attributes:
        name: What it shows.
        config: The limits.
        workers: How many.
        killed_after: When the first of them is killed, in seconds after the first request; None for never.
    """

    name: str
    config: dict[str, int]
    workers: int
    killed_after: float | None = None

    @property
    def limit(self) -> int:
        """What the budget is."""
        return self.config.get("rpm_limit") or self.config["tpm_limit"]

    @property
    def worth(self) -> Callable[[Asked], int]:
        """What of a request counts."""
        return (lambda asked: 1) if "rpm_limit" in self.config else (lambda asked: asked.tokens)


CASES = (
    Case("requests, one worker alone", {"rpm_limit": 120}, 1),
    Case("requests, three workers", {"rpm_limit": 600}, 3),
    Case("requests, two workers, one killed after 70 s", {"rpm_limit": 300}, 2, 70.0),
    Case("tokens, two workers", {"tpm_limit": 30_000, "max_completion_tokens": 50}, 2),
)


def main() -> None:
    """Run all cases at once and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=245.0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    told = parser.parse_args()
    with ExitStack() as stack:
        volume = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(lease_service(volume))
        proxies = [stack.enter_context(fault_proxy(seconds=0.3)) for _ in CASES]
        workers = [_workers(case, proxy, port, told.seconds) for case, proxy in zip(CASES, proxies, strict=True)]
        _watch(workers, proxies, told.seconds)
        rows = [_row(case, proxy) for case, proxy in zip(CASES, proxies, strict=True)]
    text = _render(rows, told.seconds)
    told.out.mkdir(parents=True, exist_ok=True)
    (told.out / "api_limits.md").write_text(text)
    print(text)


def _workers(case: Case, proxy: FaultProxy, port: int, seconds: float) -> list[subprocess.Popen[bytes]]:
    def start(index: int) -> subprocess.Popen[bytes]:
        job: dict[str, Any] = {"base_url": proxy.url, "key": KEY, "volume_url": f"http://127.0.0.1:{port}"}
        job |= {"experiment": EXPERIMENT, "name": f"w-{index}", "config": case.config, "batch": 16, "seconds": seconds}
        command = [sys.executable, str(WORKER), json.dumps(job)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)

    return [start(index) for index in range(case.workers)]


def _watch(workers: list[list[subprocess.Popen[bytes]]], proxies: list[FaultProxy], seconds: float) -> None:
    """Kill who is to be killed, and wait for the others."""
    end = time.monotonic() + seconds + 120
    while time.monotonic() < end and any(each.poll() is None for group in workers for each in group):
        for case, group, proxy in zip(CASES, workers, proxies, strict=True):
            begun = proxy.asked[0].at if proxy.asked else time.monotonic()
            if case.killed_after is not None and time.monotonic() - begun > case.killed_after:
                group[0].kill()
        time.sleep(0.1)
    for group in workers:
        for each in group:
            each.kill()
            each.wait(10)


def _row(case: Case, proxy: FaultProxy) -> list[str]:
    first = proxy.asked[0].at
    windows = int((proxy.asked[-1].at - first) // WINDOW)
    counted = [asked for asked in proxy.asked if asked.at < first + windows * WINDOW]
    used = sum(map(case.worth, counted)) / (case.limit * windows)
    most = proxy.most_in(WINDOW, case.worth)
    return [case.name, str(case.limit), str(most), f"{used:.1%}", str(windows), str(len(proxy.asked))]


def _render(rows: list[list[str]], seconds: float) -> str:
    head = ["", "limit a minute", "most in any 60 s", "used", "minutes", "requests"]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
    return (
        "# Limits of an API that workers share\n\n"
        "Measured where the requests arrive; tokens are what answers took. `used` is the part of the limit over whole "
        f"minutes from the first request on. All cases run at once for {seconds:.0f} s, answers take 0.3 s.\n\n"
        f"{table}\n\n"
        f"Measured on {datetime.now(UTC):%Y-%m-%d %H:%M UTC}, {os.cpu_count()} cores, {platform.platform()}, load "
        f"after it {os.getloadavg()[0]:.1f}, Python {platform.python_version()}.\n"
    )


if __name__ == "__main__":
    main()
