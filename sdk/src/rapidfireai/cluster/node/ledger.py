"""The node's memory on disk: what it knows of each pod, so that a restart neither forgets nor doubles anything."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from rapidfireai.cluster.node.facts import ContainerFacts, PodFacts, Running, Terminated
from rapidfireai.cluster.node.process import kill_all, lives

_KILLED = 137
_LOST = "The process node ended without stopping this container; its processes were killed when the node came back."
_FACTS = TypeAdapter(PodFacts)
_FILE = "pod.json"
_LONGEST_TEMPORARY = 60
"""A unix socket's path may have 107 bytes; Python's multiprocessing adds some 40 to the directory's."""

log = structlog.get_logger()


class Ledger:
    """The pods' directories and records below the node's home."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._pods = home / "pods"

    def directory(self, uid: str) -> Path:
        """Return the pod's own directory; it exists and is readable by its owner alone."""
        path = self._pods / uid
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def temporary(self, uid: str) -> Path:
        """Return the path of a pod's directory for temporary files: short, because sockets are made in it."""
        path = self._home / "tmp" / uid[:13]
        return path if len(str(path)) <= _LONGEST_TEMPORARY else Path(tempfile.mkdtemp(prefix="rapidfire-"))

    def write(self, facts: PodFacts) -> None:
        """Keep what is known of a pod; the file is replaced whole."""
        path = self.directory(facts.uid) / _FILE
        partial = path.with_suffix(".partial")
        partial.write_bytes(_FACTS.dump_json(facts))
        partial.replace(path)

    def read(self) -> Iterator[PodFacts]:
        """Yield what was known of each pod; a pod whose record is unreadable counts as never started."""
        for path in sorted(self._pods.glob(f"*/{_FILE}")):
            try:
                yield _FACTS.validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                log.warning("unreadable record, the pod starts anew", file=str(path), error=str(error))

    def uids(self) -> set[str]:
        """Return the pods that have a directory."""
        return {path.name for path in self._pods.glob("*")} if self._pods.exists() else set()

    def remove(self, uid: str, temporary: str = "") -> None:
        """Remove all that is kept of a pod, and its directory for temporary files."""
        shutil.rmtree(self._pods / uid, ignore_errors=True)
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def recover(home: Path, now: datetime) -> dict[str, PodFacts]:
    """Kill what an earlier node process left running in `home`, and return what is known of its pods by uid."""
    ledger = Ledger(home)
    known = {facts.uid: facts for facts in ledger.read()}
    states = [each.state for pod in known.values() for each in (*pod.init.values(), *pod.containers.values())]
    sessions = {each.process.pid for each in states if isinstance(each, Running) and lives(each.process)}
    killed = kill_all(sessions, ledger.uids())
    if killed:
        log.info("killed what the last node process left running", processes=killed)
    return {uid: _lost(facts, now) for uid, facts in known.items()}


def stop_leftovers(home: Path) -> None:
    """Kill what a node that is not running left behind, for whoever stops a cluster; the records stay as they are."""
    recover(home, datetime.now(UTC))


def _lost(facts: PodFacts, now: datetime) -> PodFacts:
    return replace(
        facts,
        init={name: _lost_container(each, now) for name, each in facts.init.items()},
        containers={name: _lost_container(each, now) for name, each in facts.containers.items()},
    )


def _lost_container(facts: ContainerFacts, now: datetime) -> ContainerFacts:
    """A container that ran when the node ended: how its process ended is not known."""
    if not isinstance(facts.state, Running):
        return facts
    return replace(facts, state=unknown_end(facts.state.started, now), ready=False, started=False)


def unknown_end(started: datetime, now: datetime) -> Terminated:
    """Return the end of a process that nobody saw."""
    return Terminated(_KILLED, "ContainerStatusUnknown", _LOST, started, now)
