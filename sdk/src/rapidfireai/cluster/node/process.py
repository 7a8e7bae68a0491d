"""A container's processes: started in a session of their own, ended together."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from rapidfireai.cluster.node.facts import ProcessId
from rapidfireai.errors import RapidFireError

MARKER_ENV = "RAPIDFIRE_CONTAINER"
"""Set in every container to `<pod uid>/<container>`; finds children that left the session or outlived their parent."""
_SAME = 1.0
"""Creation times are computed from the boot time, which moves when the clock is set."""
_GONE_SECONDS = 5.0
_POLL_SECONDS = 0.01


class StartError(RapidFireError):
    """The program could not be started; the message says why."""


class ContainerProcess:
    """One run of a container's program. Its output is read from `output`."""

    def __init__(self, process: asyncio.subprocess.Process, marker: str, output: asyncio.StreamReader) -> None:
        self._process = process
        self._marker = marker
        self.output = output
        self.id = identify(process.pid)

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str], directory: Path) -> ContainerProcess:
        """Start a program; it is found on the PATH in `env`.

        Raises:
            StartError: If there is no such program or directory, or it may not be run.
        """
        # Not asyncio's own pipes: its wait() may wait for them too, and a daemon can hold them for ever.
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=dict(env),
                cwd=directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            os.close(reading)
            raise StartError(f"cannot run {command[0]!r} in {directory}: {error}") from error
        finally:
            os.close(writing)
        output = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(output)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(reading, "rb", buffering=0))
        return cls(process, env[MARKER_ENV], output)

    async def wait(self) -> int:
        """Wait for the program's end, end what it left behind, and return its exit code as a shell reports it."""
        code = await self._process.wait()
        await asyncio.to_thread(self.kill)
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Ask the program to end: SIGTERM to the first process alone, as in a container."""
        with suppress(ProcessLookupError):  # it has just ended
            self._process.terminate()

    def kill(self) -> None:
        """End every process of the container at once; blocks until they have ended."""
        kill_all({self.id.pid}, {self._marker})


def identify(pid: int) -> ProcessId:
    """Return the identity of a process; creation time 0 if it has ended already."""
    try:
        return ProcessId(pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return ProcessId(pid, 0.0)


def lives(identity: ProcessId) -> bool:
    """Say whether this very process still runs."""
    try:
        return abs(psutil.Process(identity.pid).create_time() - identity.created) < _SAME
    except psutil.NoSuchProcess:
        return False


def kill_all(sessions: Collection[int], owners: Collection[str]) -> int:
    """Kill processes until none is left, and return how many there were; blocks for as long as they need to end.

    Args:
        sessions: Sessions that are surely ours: their first process lives, or has ended this moment.
        owners: Markers of containers, or uids of pods.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + _GONE_SECONDS
    # Not psutil's wait(): it would take the exit codes of our children away from asyncio.
    while found := [each for each in psutil.process_iter() if _belongs(each, sessions, owners)]:
        for each in found:
            with suppress(psutil.Error):  # it has just ended
                each.kill()
        killed.update(each.pid for each in found)
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    return len(killed)


def _belongs(process: psutil.Process, sessions: Collection[int], owners: Collection[str]) -> bool:
    try:
        marker = process.environ().get(MARKER_ENV, "")
        ours = marker in owners or marker.partition("/")[0] in owners or os.getsid(process.pid) in sessions
        return ours and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # ended, or another user's
        return False
