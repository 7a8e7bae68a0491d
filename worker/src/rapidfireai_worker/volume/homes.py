"""Which directories belong to which resources: those of their own UIDs, or those that they were adopted with."""

from __future__ import annotations

from dataclasses import dataclass

from rapidfireai_worker.kubeapi import Body


@dataclass(frozen=True, slots=True)
class Home:
    """Where a run's files lie: `experiments/<experiment>/runs/<run>`.

    Attributes:
        experiment: The UID in the first place; empty if no experiment owns the run.
        run: The UID in the second.
    """

    experiment: str
    run: str


def home_of(run: Body) -> Home:
    """Return where the files of a Run lie."""
    adopted = run.get("spec", {}).get("adopted")
    if adopted:
        return Home(str(adopted["experimentUID"]), str(adopted.get("runUID") or run["metadata"]["uid"]))
    owners = [each["uid"] for each in run["metadata"].get("ownerReferences", []) if each["kind"] == "Experiment"]
    return Home(str(owners[0]) if owners else "", str(run["metadata"]["uid"]))


def directory_of(experiment: Body) -> str:
    """Return the UID that an Experiment's files lie under."""
    adopted = experiment.get("spec", {}).get("adopted")
    return str(adopted["uid"] if adopted else experiment["metadata"]["uid"])
