"""What of the volume nobody needs any more, by what the API server shows. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfireai.api import Experiment, Run
from rapidfireai_worker.kubeapi import Body
from rapidfireai_worker.retention import attempt_of, kept_steps, ranking
from rapidfireai_worker.volume.homes import directory_of, home_of

_CHECKPOINT = re.compile(r"experiments/[0-9a-f-]+/runs/[0-9a-f-]+/(?:checkpoints|shards)/\d+-\d+")
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True, slots=True)
class Census:
    """Everything in the workspace that may refer to the volume, as it was listed.

    Attributes:
        experiments: By the UID that their files lie under.
        runs: By the UID that their files lie under.
        alive: The directories of experiments that exist, or of which a run exists.
        texts: All of it as JSON; whatever is named anywhere in it is needed.
    """

    experiments: Mapping[str, Experiment]
    runs: Mapping[str, Run]
    texts: tuple[str, ...]
    alive: frozenset[str]

    @classmethod
    def of(cls, experiments: Iterable[Body], runs: Iterable[Body]) -> Census:
        """Return the census of what was listed.

        Raises:
            pydantic.ValidationError: If an object is of a version that this service does not understand.
        """
        bodies, run_bodies = list(experiments), list(runs)
        return cls(
            {directory_of(body): Experiment.from_body(body) for body in bodies},
            {home_of(body).run: Run.from_body(body) for body in run_bodies},
            tuple(json.dumps(body) for body in (*bodies, *run_bodies)),
            frozenset([*map(directory_of, bodies), *(home_of(body).experiment for body in run_bodies)]),
        )

    def digests(self) -> frozenset[str]:
        """Return every sha256 that is named: bundles and data sets among them."""
        return digests_in(self.texts)

    def checkpoints(self) -> frozenset[str]:
        """Return every checkpoint that is named, as its path on the volume."""
        return frozenset(path for text in self.texts for path in _CHECKPOINT.findall(text))

    def is_alive(self, experiment_uid: str) -> bool:
        """Return whether the experiment of a directory exists, or a run that it owns."""
        return experiment_uid in self.alive


def digests_in(texts: Iterable[str]) -> frozenset[str]:
    """Return every sha256 that is named."""
    return frozenset(digest for text in texts for digest in _DIGEST.findall(text))


def superfluous(
    names: Iterable[str],
    run: Run,
    experiment: Experiment,
    commits: Sequence[Mapping[str, Any]],
    named: frozenset[str],
) -> list[str]:
    """Return which directories among a run's checkpoints may go.

    What a resource names stays: a clone names what it began with, its parent what is pinned. So does everything while
    the run is assigned to a worker, which makes room itself.

    Args:
        names: The directories.
        run: The run.
        experiment: Its experiment.
        commits: What the run's record on the volume says of its commits, oldest first.
        named: Every checkpoint that a resource names.
    """
    if run.status.assignment is not None or run.metadata.deletion_timestamp is not None:
        return []
    last = run.status.committed
    steps = {entry["step"]: entry["path"] for entry in commits if last is not None and entry["step"] < last.step}
    if last is not None:
        steps[last.step] = last.path
    kept = kept_steps(sorted(steps), experiment.spec.retention.keep_last, ranking(run, experiment))
    stays = {path.rpartition("/")[2] for path in (*(steps[step] for step in kept), *_of(run, named))}
    return [name for name in names if name not in stays and 0 < (attempt_of(name) or 0) <= run.status.attempt]


def abandoned_shards(names: Iterable[str], run: Run, committed: Iterable[str]) -> list[str]:
    """Return which directories among a run's shards may go: what attempts that are over have left and not committed.

    Retention does not touch the committed ones: together they are the run's result.

    Args:
        names: The directories.
        run: The run.
        committed: The paths of the shards that it has committed, or that somebody began with.
    """
    if run.status.assignment is not None or run.metadata.deletion_timestamp is not None:
        return []
    stays = {path.rpartition("/")[2] for path in _of(run, committed)}
    return [name for name in names if name not in stays and 0 < (attempt_of(name) or 0) <= run.status.attempt]


def _of(run: Run, named: Iterable[str]) -> list[str]:
    return [path for path in named if f"/runs/{run.volume_uid}/" in path]
