"""Takes away what nobody needs any more: old checkpoints, abandoned shards, deleted experiments, unused uploads.

Whatever is not certain stays: nothing is removed while the API server does not answer, nothing of an experiment that
this service's own cluster has never shown, as on a volume that was restored elsewhere, and nothing before its time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import structlog
from pydantic import BaseModel, ValidationError

from rapidfireai.api import Run
from rapidfireai_worker.durable import replace_file
from rapidfireai_worker.kubeapi import Body, KubeApi, Refused, Unavailable
from rapidfireai_worker.layout import RunDirectory, Volume
from rapidfireai_worker.record import recorded_commits
from rapidfireai_worker.volume.garbage import Census, abandoned_shards, digests_in, superfluous
from rapidfireai_worker.volume.settings import VolumeSettings
from rapidfireai_worker.volume.shards import BrokenChain, chain

_DAY = 86400.0
_LIFETIME = "lifetime.json"
_USED = ".used"
_TRASH = ".trash-"
_BEING_MADE = ".tmp-"
_log = structlog.get_logger(__name__)


class Lifetime(BaseModel):
    """What is known of an experiment's directory.

    Attributes:
        seen_by: The service account, by its UID, whose cluster has shown the experiment.
        gone_since: When it was first missed, in seconds since the epoch; None while it exists.
    """

    seen_by: str
    gone_since: float | None = None


def mark_used(directory: Path) -> None:
    """Note that an upload is of use to somebody now; its file stays untouched, caches go by its time."""
    (directory / _USED).touch()


class Janitor:
    """Cleans one workspace's volume.

    Args:
        volume: The shared volume.
        settings: How often, and how long what seems to be of no use is kept.
        removed: Told why something was removed, and how many bytes that were.
        failed: Called for a pass that failed.
    """

    def __init__(
        self,
        volume: Volume,
        settings: VolumeSettings,
        removed: Callable[[str, int], None] = lambda reason, size: None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._volume = volume
        self._settings = settings
        self._removed = removed
        self._failed = failed

    async def run(self, api: KubeApi) -> None:
        """Clean for ever."""
        while True:
            try:
                account = await api.own_uid()
                # Experiments first: a run that is missing beside them is one that was made since, and has no directory.
                experiments, runs = await api.list_all("experiments"), await api.list_all("runs")
                await asyncio.to_thread(self.clean, experiments, runs, account)
            except (Refused, Unavailable, ValidationError) as problem:
                _log.warning("nothing is cleaned up now", error=str(problem))
                self._failed()
            except Exception:  # one pass that failed must not be the last
                _log.exception("the volume cannot be cleaned up")
                self._failed()
            await asyncio.sleep(self._settings.cleanup_seconds)

    def clean(self, experiments: Iterable[Body], runs: Iterable[Body], account: str) -> None:
        """Take away what may go. It blocks.

        Args:
            experiments: Every Experiment that exists.
            runs: Every Run that exists.
            account: The UID of this service's account.

        Raises:
            pydantic.ValidationError: If a resource is of a version that this service does not understand.
            OSError: If the volume cannot be read.
        """
        census = Census.of(experiments, runs)
        now, named, needed = time.time(), census.checkpoints(), census.digests()
        for directory in _directories(self._volume.experiments):
            if directory.name.startswith(_TRASH):
                self._remove(directory, "trash")  # an earlier pass was cut short
            elif census.is_alive(directory.name):
                self._note_alive(directory, account)
                self._trim(directory.name, census, named)
            elif self._is_over(directory, account, now):
                _log.info("removed", experiment=directory.name, reason="it was deleted")
                self._discard(directory, "deleted")
        needed |= self._needed_by_remains()
        for kind in (self._volume.bundles, self._volume.datasets, self._volume.prepared, self._volume.indexes):
            for directory in _directories(kind):
                self._look_at_upload(directory, needed, now)

    def _needed_by_remains(self) -> frozenset[str]:
        """Return what the records of all experiments name: one of a lost cluster can still be adopted."""
        texts = []
        for directory in _directories(self._volume.experiments):
            with suppress(FileNotFoundError):  # an earlier version made it
                texts.append(self._volume.experiment_record(directory.name).read_text(errors="replace"))
        return digests_in(texts)

    def _note_alive(self, directory: Path, account: str) -> None:
        wanted = Lifetime(seen_by=account)
        if _lifetime(directory) != wanted:
            replace_file(directory / _LIFETIME, wanted.model_dump_json().encode())

    def _is_over(self, directory: Path, account: str, now: float) -> bool:
        """Return whether an experiment that does not exist has been missed long enough."""
        known = _lifetime(directory)
        if known is None or known.seen_by != account:
            return False
        if known.gone_since is None:
            replace_file(directory / _LIFETIME, Lifetime(seen_by=account, gone_since=now).model_dump_json().encode())
            return False
        return now - known.gone_since > self._settings.keep_deleted_days * _DAY

    def _trim(self, experiment: str, census: Census, named: frozenset[str]) -> None:
        owner = census.experiments.get(experiment)
        if owner is None:
            return  # it was made while the runs were listed
        for uid, run in census.runs.items():
            directory = self._volume.run(experiment, uid)
            if run.spec.experiment_ref != owner.metadata.name:
                continue
            self._sweep_shards(directory, run, named)
            if not directory.checkpoints.is_dir():
                continue
            names = [path.name for path in _directories(directory.checkpoints)]
            commits = recorded_commits(directory)
            for name in superfluous(names, run, owner, commits, named):
                _log.info("removed", run=run.metadata.name, checkpoint=name, reason="spec.retention")
                self._remove(directory.checkpoints / name, "retention")

    def _sweep_shards(self, directory: RunDirectory, run: Run, named: frozenset[str]) -> None:
        """Take away shards that no attempt has committed; all of them stay if what was committed cannot be read."""
        names = [path.name for path in _directories(directory.shards)]
        if not abandoned_shards(names, run, named):
            return
        ends = [*run.status.pinned, run.status.committed]
        try:
            committed = {link.path for end in ends if end is not None for link in chain(self._volume, end)}
        except BrokenChain as problem:
            _log.warning("shards are kept", run=run.metadata.name, error=str(problem))
            return
        for name in abandoned_shards(names, run, committed | named):
            _log.info("removed", run=run.metadata.name, shard=name, reason="it was never committed")
            self._remove(directory.shards / name, "uncommitted")

    def _look_at_upload(self, directory: Path, needed: frozenset[str], now: float) -> None:
        if directory.name.startswith(_TRASH):
            self._remove(directory, "trash")
        elif directory.name in needed:
            mark_used(directory)
        elif now - _last_use(directory) > self._patience(directory) * _DAY:
            _log.info("removed", upload=str(directory.relative_to(self._volume.root)), reason="nobody uses it")
            self._discard(directory, "unused")

    def _patience(self, directory: Path) -> float:
        """Return for how many days something stays that nobody uses; what is being made has a day at least."""
        days = self._settings.keep_unused_days
        return max(days, 1.0) if directory.name.startswith(_BEING_MADE) else days

    def _discard(self, directory: Path, reason: str) -> None:
        """Remove a directory that others look for by its name: it vanishes at once, whole."""
        trash = directory.with_name(f"{_TRASH}{uuid.uuid4().hex[:8]}-{directory.name}")
        directory.rename(trash)
        self._remove(trash, reason)

    def _remove(self, directory: Path, reason: str) -> None:
        size = _bytes_of(directory)
        shutil.rmtree(directory, ignore_errors=True)  # what cannot be removed now is tried again by the next pass
        self._removed(reason, size)


def _lifetime(directory: Path) -> Lifetime | None:
    try:
        return Lifetime.model_validate_json((directory / _LIFETIME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _last_use(directory: Path) -> float:
    used = directory / _USED
    return max(directory.stat().st_mtime, used.stat().st_mtime if used.exists() else 0.0)


def _directories(path: Path) -> Iterator[Path]:
    """Yield the directories in a directory, links not among them."""
    try:
        with os.scandir(path) as entries:
            found = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    yield from sorted(found)


def _bytes_of(directory: Path) -> int:
    """Return the size of all files in a directory."""
    size = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # whoever else removes it counts it
            size += path.lstat().st_size
    return size
