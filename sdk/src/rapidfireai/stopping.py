"""Leaving an experiment: parking its workers so that it goes on later, or stopping its runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from rapidfireai.api import Run
from rapidfireai.api.run import ENDED
from rapidfireai.connection import Connection
from rapidfireai.errors import ClusterNotFoundError
from rapidfireai.progress.picture import condition_is
from rapidfireai.words import WORDS

_POLL_SECONDS = 0.5
_PARK_SECONDS = 30.0
_CANCEL_SECONDS = 60.0
_AT_REST = ENDED | {"Stopped"}


def park(connection: Connection, name: str, say: Callable[[str], None]) -> None:
    """Let the workers commit at their next optimizer step and leave; nothing is lost.

    A second Ctrl-C leaves at once; the workers go all the same.
    """
    try:
        spec = connection.experiment(name).spec
        workers, words = spec.workers.replicas, WORDS[spec.mode]
        connection.scale(name, 0)
        say(f"Stopping: each worker commits {words.pause} and leaves (Ctrl-C again leaves at once).")
        _wait_for_workers(connection, name)
    except KeyboardInterrupt:
        say("Left; the workers stop by themselves.")
    except ClusterNotFoundError as error:
        say(f"{error}. The experiment goes on without you as soon as the cluster is back.")
        return
    say(
        f"Nothing is lost. To go on: call {words.function} again with the same arguments, or\n"
        f"  {connection.kubectl} scale rfexp {name} --replicas={max(1, workers)}"
    )


def cancel(connection: Connection, name: str, say: Callable[[str], None]) -> None:
    """Stop every run that is not finished, at its next optimizer step, and return when the experiment is finished.

    Their last commits stay: a run that was stopped can be resumed.

    Raises:
        ClusterNotFoundError: If the cluster does not answer.
        ExperimentError: If there is no such experiment.
    """
    workers = connection.experiment(name).spec.workers.replicas
    connection.scale(name, 0)
    stopped: set[str] = set()
    deadline = time.monotonic() + _CANCEL_SECONDS
    while not condition_is(connection.experiment(name), "Finished", "True"):
        # Again and again: the operator may be about to make more of them.
        for run in connection.runs(name):
            if run.spec.desired_state == "Running" and run.status.state not in _AT_REST:
                connection.stop_run(run.metadata.name)
                stopped.add(run.metadata.name)
        if time.monotonic() > deadline:
            say(f"{name}: {len(stopped)} runs were told to stop, and not all have yet; see `rapidfireai status`.")
            return
        time.sleep(_POLL_SECONDS)
    if stopped:
        say(
            f"{name}: stopped {len(stopped)} runs; what they committed stays. To go on with one:\n"
            f"  {connection.kubectl} patch rfrun {min(stopped)} --type=merge "
            """-p '{"spec":{"desiredState":"Running"}}'\n"""
            f"  {connection.kubectl} scale rfexp {name} --replicas={max(1, workers)}"
        )


def _wait_for_workers(connection: Connection, name: str) -> None:
    deadline = time.monotonic() + _PARK_SECONDS
    while time.monotonic() < deadline:
        experiment = connection.experiment(name)
        if experiment.status.workers.ready == 0 and not any(map(_at_work, connection.runs(name))):
            return
        time.sleep(_POLL_SECONDS)


def _at_work(run: Run) -> bool:
    return run.status.assignment is not None
