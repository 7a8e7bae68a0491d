"""Steering runs: what people ask for becomes an ICOp, and what became of it a sentence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from rapidfireai.api import ICOp, ICOpSpec, Run, run_name
from rapidfireai.api.icop import DONE, Clone, ICOpResult, Op
from rapidfireai.api.run import When
from rapidfireai.bundle import Bundle, BundleBuilder
from rapidfireai.clone import changes, cloned, warm_start_obstacle
from rapidfireai.clone.wire import patch_to_wire
from rapidfireai.connection import Connection
from rapidfireai.errors import ClusterNotFoundError, ExperimentError
from rapidfireai.progress.picture import condition_is

RunIds = int | str | Sequence[int | str]
"""One run or several, each by its number or its name."""

MOST_RUNS = 1000
"""How many runs one operation may name."""
_POLL_SECONDS = 0.2
_OPERATOR_SECONDS = 60.0
_WHEN: Mapping[str, When] = {"boundary": "Boundary", "immediate": "Immediate"}
_DONE: Mapping[Op, tuple[str, str]] = {
    "Stop": ("stops", "stop"),
    "Resume": ("goes on", "go on"),
    "Delete": ("is deleted; its checkpoints stay", "are deleted; their checkpoints stay"),
}
"""What an operation does to one run, and to several."""
_EFFECT: Mapping[When, str] = {"Boundary": " at the next chunk boundary", "Immediate": " after the current step"}


def names_of(experiment: str, run_ids: RunIds) -> list[str]:
    """Return the names of runs.

    Args:
        experiment: The name of the experiment's resource.
        run_ids: What the user wrote.

    Raises:
        TypeError: If one is neither a number nor a name, or there is none.
        ExperimentError: If there are too many for one operation.
    """
    given = [run_ids] if is_one(run_ids) else list(cast("Iterable[int | str]", run_ids))
    if not given:
        raise TypeError("name at least one run, by its number or its name")
    if len(given) > MOST_RUNS:
        raise ExperimentError(f"{len(given)} runs are too many for one operation; name {MOST_RUNS} at a time")
    return list(dict.fromkeys(_name(experiment, each) for each in given))


def is_one(run_ids: RunIds) -> bool:
    """Return whether the user wrote one run, not a list of them; numbers out of a table are NumPy's."""
    return isinstance(run_ids, str) or not isinstance(run_ids, Iterable) or getattr(run_ids, "shape", None) == ()


def _name(experiment: str, run_id: object) -> str:
    number = run_id.item() if hasattr(run_id, "item") else run_id
    if isinstance(number, int) and not isinstance(number, bool):
        return run_name(experiment, number)
    if isinstance(number, str) and number:
        return run_name(experiment, int(number)) if number.isdecimal() else number
    raise TypeError(f"a run goes by its number or its name, not {run_id!r}")


def when_of(when: str) -> When:
    """Return when an operation takes effect.

    Raises:
        ValueError: If it is none of the two words.
    """
    found = _WHEN.get(when.lower()) if isinstance(when, str) else None
    if found is None:
        raise ValueError(f"when must be 'boundary' or 'immediate', not {when!r}")
    return found


@dataclass(frozen=True, slots=True)
class Steering:
    """The operations on the runs of one experiment, carried out by the operator and waited for.

    Args:
        connection: The workspace.
        experiment: The name of the experiment's resource.
        say: Told in a line what was done.
        seconds: How long the operator may take for one operation.
    """

    connection: Connection
    experiment: str
    say: Callable[[str], None]
    seconds: float = _OPERATOR_SECONDS

    def ask(self, op: Op, runs: Sequence[str], when: When = "Boundary") -> None:
        """Stop, resume or delete runs.

        Raises:
            ExperimentError: If the operation was refused for a run, or the operator does not carry it out in time.
        """
        done = self._carry_out(ICOpSpec(experiment_ref=self.experiment, op=op, runs=list(runs), when=when))
        plain = [each.run for each in done if not each.message]
        if plain:
            words = _DONE[op][len(plain) > 1] + (_EFFECT[when] if op == "Stop" else "")
            self.say(f"{', '.join(plain)} {words}.")
        for each in done:
            if each.message:
                self.say(f"{each.run}: {each.message}.")

    def parents(self, runs: Sequence[str], patch: Mapping[str, Any], *, warm_start: bool) -> list[Run]:
        """Return the runs that can be cloned so; what the operator would refuse is said before anything is sent.

        Args:
            runs: Their names.
            patch: The merge patch in its JSON form.
            warm_start: Whether the clones begin with their parents' weights.

        Raises:
            ConfigError: If a clone could not be run; `.path` is the knob's.
            ExperimentError: If there is no such run, or a clone cannot begin with its parent's weights.
        """
        found = [self.connection.run(name) for name in runs]
        for parent in found:
            config = cloned(parent.spec.config, patch)
            obstacle = warm_start_obstacle(parent.spec.config, config) if warm_start else None
            if obstacle is not None:
                raise ExperimentError(f"{parent.metadata.name} cannot be cloned warm: {obstacle}")
        return found

    def clone(self, parents: Sequence[Run], patch: Mapping[str, Any], *, warm_start: bool) -> list[str]:
        """Make a clone of each run; return their names.

        Args:
            parents: What `parents` has returned for the same patch.
            patch: The merge patch in its JSON form.
            warm_start: Whether the clones begin with their parents' weights.

        Raises:
            ExperimentError: If the operation was refused for a run, or the operator does not carry it out in time.
        """
        by_name = {parent.metadata.name: parent for parent in parents}
        clone = Clone(patch=dict(patch), warm_start=warm_start)
        spec = ICOpSpec(experiment_ref=self.experiment, op="CloneModify", runs=list(by_name), clone=clone)
        made = []
        for each in self._carry_out(spec):
            if each.created is not None:
                made.append(each.created)
                self.say(_cloned_line(each, by_name[each.run], self.connection.run(each.created)))
        return made

    def _carry_out(self, spec: ICOpSpec) -> list[ICOpResult]:
        """Create the operation, wait until it is complete, and return what was applied."""
        name = self.connection.create_icop(spec)
        done = self._wait(name).status
        applied = [each for each in done.results if each.outcome == "Applied"]
        refused = [each for each in done.results if each.outcome == "Refused"]
        if refused or not done.results:
            sentences = [f"{each.run} was not {DONE[spec.op]}: {each.message}" for each in refused]
            sentences += [f"{each.run} was {DONE[spec.op]}" for each in applied if refused]
            raise ExperimentError("; ".join(sentences) or f"{name}: {done.summary}")
        return applied

    def _wait(self, name: str) -> ICOp:
        deadline = time.monotonic() + self.seconds
        while True:
            try:
                found = self.connection.icop(name)
                if condition_is(found, "Complete", "True"):
                    return found
                trouble = "the operator has not carried it out"
            except ClusterNotFoundError as error:
                trouble = str(error)
            if time.monotonic() > deadline:
                raise ExperimentError(
                    f"{name} is queued: {trouble} within {self.seconds:.0f} s, and it will be as soon as the operator "
                    f"runs (`rapidfireai status`). To take it back: {self.connection.kubectl} delete icop {name}"
                )
            time.sleep(_POLL_SECONDS)


def bundled_patch(patch: object) -> tuple[dict[str, Any], Bundle | None]:
    """Return a patch in its JSON form, and the bundle that the Python objects in it lie in.

    Raises:
        ConfigError: If a value is none that a config may have.
        BundleError: If a function cannot be sent to the workers.
    """
    builder = BundleBuilder()
    wire = patch_to_wire(patch, builder.lift)
    bundle = builder.build()
    # Only now the references can carry the bundle's digest.
    return (patch_to_wire(patch, builder.lift) if bundle else wire), bundle


def _cloned_line(result: ICOpResult, parent: Run, clone: Run) -> str:
    reference = clone.spec.parent_ref
    start = ""
    if reference is not None and reference.warm_start:
        step = f" at step {reference.checkpoint.step}" if reference.checkpoint else ""
        start = f", and begins with its weights{step}"
    differs = "; ".join(map(str, changes(parent.spec.config, clone.spec.config)))
    told = f": {differs}" if differs else f" ({result.message or 'nothing differs'})"
    return f"{clone.metadata.name} is a clone of {parent.metadata.name}{start}{told}"
