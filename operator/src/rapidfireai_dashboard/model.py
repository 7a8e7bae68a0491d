"""One experiment as a page knows it: what a snapshot said and what changed since."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError

from rapidfireai.api import Experiment, ICOp, Run
from rapidfireai_dashboard.lanes import LaneBook, Lanes
from rapidfireai_dashboard.runs import RunLine, best_of, line_of
from rapidfireai_gateway.feed import Change

log = structlog.get_logger(__name__)
T = TypeVar("T", Experiment, Run, ICOp)


class ExperimentModel:
    """The experiment, its runs and its IC Ops.

    Attributes:
        experiment: None until the first snapshot, and after it was deleted.
        runs: The lines of the runs by name.
        icops: The IC Ops by name.
        lanes: Which worker ran what, as far as it was seen; None until the first snapshot.
        trouble: Why nothing comes at present, or empty.
        logged_out: Whether that is because the user's token is none any more.
        ended: Whether nothing will come any more.
        version: Grows with every change.
    """

    def __init__(self, book: LaneBook) -> None:
        self._book = book
        self.experiment: Experiment | None = None
        self.runs: dict[str, RunLine] = {}
        self.icops: dict[str, ICOp] = {}
        self.lanes: Lanes | None = None
        self.trouble = ""
        self.logged_out = False
        self.ended = False
        self.version = 0

    def take(self, change: Change, now: float | None = None) -> None:
        """Take up one event of the feed.

        Args:
            change: The event.
            now: When it came, in seconds since the epoch; by default now.
        """
        if change.event == "error":
            self.refused(str(change.data["detail"]), int(change.data["status"]), final=bool(change.data["final"]))
            return
        self.version += 1
        self.trouble = ""
        now = time.time() if now is None else now
        if change.event == "snapshot":
            self._whole(change.data, now)
        elif change.event == "gone":
            self._gone(change.data, now)
        else:
            self._one(change.data, now)

    def refused(self, detail: str, status: int, *, final: bool) -> None:
        """Take up why nothing comes.

        Args:
            detail: Why, in a sentence.
            status: The HTTP status of the refusal.
            final: Whether nothing will come any more.
        """
        self.version += 1
        self.trouble, self.ended, self.logged_out = detail, final, status == 401

    @property
    def best(self) -> str:
        """The name of the leading run, or nothing."""
        if self.experiment is None:
            return ""
        told = self.experiment.status.best
        return told.run if told else best_of(self.runs.values(), self.experiment.spec.objective.direction)

    def best_first(self) -> list[str]:
        """Return the names of the runs that have an objective, the best first."""
        falling = self.experiment is not None and self.experiment.spec.objective.direction == "maximize"
        ranked = [(line.objective, line.name) for line in self.runs.values() if line.objective is not None]
        return [name for _, name in sorted(ranked, reverse=falling)]

    def _whole(self, data: Mapping[str, Any], now: float) -> None:
        before = set(self.runs)
        body = data["experiment"]
        self.experiment = None if body is None else _parsed(Experiment, body)
        if self.experiment is not None:
            self.lanes = self._book.of(self.experiment.metadata.uid, now)
        self.runs = {run.metadata.name: line_of(run) for each in data["runs"] if (run := _parsed(Run, each))}
        self.icops = {icop.metadata.name: icop for each in data["icops"] if (icop := _parsed(ICOp, each))}
        if self.lanes is not None:
            for name in before - self.runs.keys():
                self.lanes.forget(name, now)
            self.lanes.see(self.runs.values(), now)

    def _one(self, body: Mapping[str, Any], now: float) -> None:
        match body.get("kind"):
            case "Experiment":
                self.experiment = _parsed(Experiment, body) or self.experiment
            case "ICOp":
                if (icop := _parsed(ICOp, body)) is not None:
                    self.icops[icop.metadata.name] = icop
            case _:
                if (run := _parsed(Run, body)) is not None:
                    line = line_of(run)
                    self.runs[line.name] = line
                    if self.lanes is not None:
                        self.lanes.see([line], now)

    def _gone(self, body: Mapping[str, Any], now: float) -> None:
        name = str(body["metadata"]["name"])
        match body.get("kind"):
            case "Experiment":
                self.experiment = None
            case "ICOp":
                self.icops.pop(name, None)
            case _:
                self.runs.pop(name, None)
                if self.lanes is not None:
                    self.lanes.forget(name, now)


def _parsed(kind: type[T], body: Mapping[str, Any]) -> T | None:
    """Parse an object; one that a newer or an older version wrote in another way is left out, and the log says so."""
    try:
        return kind.from_body(dict(body))
    except ValidationError as error:
        log.warning("object cannot be shown", kind=kind.__name__, name=body["metadata"].get("name"), error=str(error))
        return None
