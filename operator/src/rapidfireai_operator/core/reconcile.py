"""One look at an experiment: everything that has to be written so that it goes on as it should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from rapidfireai.api import API_VERSION, ExperimentStatus, Run, RunStatus, run_name
from rapidfireai.api.base import RUN_INDEX_LABEL
from rapidfireai.api.experiment import WorkerCounts
from rapidfireai.api.run import ENDED
from rapidfireai_operator.core import jobs, policies
from rapidfireai_operator.core.acceptance import Accepted, Refused, ranked_by
from rapidfireai_operator.core.adoption import entry_of, wanted_of
from rapidfireai_operator.core.clones import manifest, open_claims
from rapidfireai_operator.core.conditions import Event, Verdict, find, judged, merge_patch, owned, stored
from rapidfireai_operator.core.definitions import currency
from rapidfireai_operator.core.diagnose import workers_ready
from rapidfireai_operator.core.expiry import announced, expiry
from rapidfireai_operator.core.fates import fate, living_process, takes_work
from rapidfireai_operator.core.indexes import take_turns, waiting_for, with_built
from rapidfireai_operator.core.lifecycle import (
    Holding,
    Limits,
    Step,
    assign,
    candidate,
    committed,
    computing,
    describe,
    settle,
)
from rapidfireai_operator.core.news import is_bad, is_news
from rapidfireai_operator.core.outcome import Outcome, Rules, StatusPatch
from rapidfireai_operator.core.race import racer
from rapidfireai_operator.core.schedule import Candidate, Snapshot, Worker, head_starts, plan
from rapidfireai_operator.core.slots import SlotPlan, plan_slots
from rapidfireai_operator.core.snapshot import TEMPLATE_ANNOTATION, World
from rapidfireai_operator.core.steering import apply_icops, keep_icops
from rapidfireai_operator.core.summary import Summary, Tally, summarize, tally
from rapidfireai_operator.core.suspension import RUN_WAITS, SUSPENDED, still_there, suspension

CREATE_AT_ONCE = 100
"""Runs made in one pass, so that a large experiment starts to train while the rest is made."""
EXPIRY_PAUSE = 5.0
"""Seconds until a finished experiment whose time is over is looked at again, if it is still there."""
UNREADY_LOOK_SECONDS = 10.0
"""How soon workers that are not ready are looked at again."""


def reconcile(world: World, verdict: Accepted | Refused, claims: Mapping[str, str], rules: Rules) -> Outcome:
    """Decide everything about one experiment.

    Args:
        world: The experiment and all that belongs to it.
        verdict: Whether its spec can be run.
        claims: Mount paths of the claims of `verdict`.
        rules: The operator's settings.
    """
    if world.experiment.leaving:
        return Outcome()
    operations = apply_icops(world, verdict, claims)
    if operations.icops:
        return operations  # what they change is looked at anew
    if isinstance(verdict, Refused):
        return replace(keep_icops(world), experiment=_refuse(world, verdict, rules))
    return _Pass(world, verdict, claims, rules).outcome()


def _refuse(world: World, verdict: Refused, rules: Rules) -> StatusPatch | None:
    judgements = [
        Verdict("Accepted", "False", verdict.reason, verdict.message),
        Verdict("Progressing", "False", "Refused", "The experiment was not accepted."),
        *currency(world.experiment.status.conditions, rules.outdated),
    ]
    if not world.runs:
        judgements += [
            Verdict("Finished", "True", "Refused", "The experiment was not accepted."),
            Verdict("Succeeded", "False", "Refused", "The experiment was not accepted."),
        ]
    return _experiment_patch(world, world.experiment.status.model_copy(update={"state": "Refused"}), judgements)


def _experiment_patch(
    world: World, status: ExperimentStatus, verdicts: Sequence[Verdict], more: Sequence[Event] = ()
) -> StatusPatch | None:
    subject = world.experiment
    conditions = judged(subject.status.conditions, verdicts, generation=subject.generation, now=world.now)
    after = status.model_copy(update={"conditions": conditions, "observed_generation": subject.generation})
    patch = merge_patch(stored(subject.status), after.to_wire())
    if not patch:
        return None
    events = tuple(
        Event("Experiment", subject.name, subject.uid, each.reason, each.message or each.type, is_bad(each))
        for each in verdicts
        if is_news(find(subject.status.conditions, each.type), each)
    )
    return StatusPatch(subject.name, subject.resource_version, patch, (*events, *more))


class _Pass:
    """One pass over an accepted experiment; each step reads what the steps before it decided.

    Runs at rest are not looked at one by one: `steps` has the others, and those that are given work.
    """

    def __init__(self, world: World, verdict: Accepted, claims: Mapping[str, str], rules: Rules) -> None:
        self.world, self.verdict, self.claims, self.rules = world, verdict, claims, rules
        self.limits = Limits(verdict.spec.backoff_limit, verdict.spec.crash_limit, ranked_by(verdict.spec))
        self.next_index = self._next_index()
        self.planned = sum(leaf is not None for leaf in verdict.leaves[self.next_index - 1 :])
        self.unborn = [each for each in open_claims(world.icops) if each.index not in world.made]
        self.keeping = keep_icops(world)
        self.places = {each.tally.name: place for place, each in enumerate(world.standings)}
        self.restless = [world.runs[place] for place, each in enumerate(world.standings) if not each.at_rest]
        self.active = self._active_runs()
        self.steps = {run.metadata.name: self._settle(run) for run in self.restless}
        self.steps |= self._share_indexes()
        self.tallies = self._tally()
        self.policies = self._apply_policies()
        self.slots = self._plan_slots()
        self.workers = self._available()
        self._plan_runs()
        self.summary = self._count()
        ttl, conditions = verdict.spec.ttl_seconds_after_finished, world.experiment.status.conditions
        self.expires = expiry(conditions, self.summary.verdicts, ttl, world.now)

    def outcome(self) -> Outcome:
        status = self._summarize()
        return replace(
            self.keeping,
            runs=self._run_patches(),
            remove_jobs=self.slots.remove,
            make_jobs=tuple(self._manifest(slot) for slot in self.slots.make),
            create=self._expand(),
            make_icops=self.policies.icops,
            experiment=status,
            # What its end says stands already: nobody is taken by surprise, and the version is the one that was judged.
            expire=status is None and self.expires is not None and self.expires <= self.world.now,
            look_again=self._look_again(),
        )

    def _expand(self) -> tuple[Mapping[str, Any], ...]:
        """Return the runs to make now: from the next index on; whatever went below it is never made again."""
        if not self.planned:
            return self._clone()
        indices = range(self.next_index, min(self.next_index + CREATE_AT_ONCE, len(self.verdict.leaves) + 1))
        if any(run_name(self.world.experiment.name, index) in self.world.taken for index in indices):
            return ()  # an earlier experiment of this name is still being cleaned up
        wanted = (index for index in indices if index not in self.world.made and not self._is_used_up(index))
        return tuple(self._run(index) for index in wanted)

    def _clone(self) -> tuple[Mapping[str, Any], ...]:
        """Return the clones to make now: those whose index is written down as used."""
        used = self.world.experiment.status.next_index
        bodies = (manifest(self.world, claim) for claim in self.unborn[:CREATE_AT_ONCE] if claim.index < used)
        return tuple(body for body in bodies if body is not None)

    def _run(self, index: int) -> Mapping[str, Any]:
        subject = self.world.experiment
        return {
            "apiVersion": API_VERSION,
            "kind": "Run",
            "metadata": {
                "name": run_name(subject.name, index),
                "namespace": subject.namespace,
                "labels": {**jobs.labels(subject.name, "run"), RUN_INDEX_LABEL: str(index)},
                "ownerReferences": [jobs.owner(subject)],
            },
            "spec": {
                "experimentRef": subject.name,
                "index": index,
                "config": self.verdict.leaves[index - 1],
                **wanted_of(subject, entry_of(self.verdict.spec, index)),
            },
        }

    def _next_index(self) -> int:
        """Return the index after the runs that are seen to be made: an operator that dies half way goes on there.

        Clones claim theirs before they are made.
        """
        index = self.world.experiment.status.next_index
        while index in self.world.made or self._is_used_up(index):
            index += 1
        if index <= len(self.verdict.leaves):
            return index
        return max([index, *(claim.index + 1 for claim in open_claims(self.world.icops))])

    def _is_used_up(self, index: int) -> bool:
        """Return whether a run of an adopted experiment is not made again: it was removed before."""
        return index <= len(self.verdict.leaves) and self.verdict.leaves[index - 1] is None

    def _active_runs(self) -> frozenset[str]:
        """Return the run that each process computes, by UID: it pays if the process crashes."""
        held: dict[str, list[Run]] = {}
        for run in self.restless:
            if run.status.assignment is not None and not committed(run.status):
                held.setdefault(run.status.assignment.process, []).append(run)
        return frozenset(computing(runs).metadata.uid for runs in held.values())

    def _settle(self, run: Run) -> Step:
        assignment = run.status.assignment
        if assignment is None:
            return settle(run, Holding(), self.limits, self.world.now)
        slot = self.world.slots.get(assignment.worker)
        holding = Holding(
            fate=fate(assignment, self.world.slots, self.rules.lease_seconds),
            active=run.metadata.uid in self.active,
            leaving=slot is None or takes_work(slot, self.rules.lease_seconds) is None,
        )
        return settle(run, holding, self.limits, self.world.now)

    def _share_indexes(self) -> dict[str, Step]:
        """Return the runs that learn now that another one has built the index that they search."""
        built = {each.index for each in self.world.standings if each.index_built}
        prepared = (step.status.prepared for step in self.steps.values())
        built |= {each.index for each in prepared if each is not None and each.index_built}
        waiting = {each.tally.name for each in self.world.standings if each.index in built and not each.index_built}
        shared = {}
        for name in {*self.steps, *waiting} if built else ():
            step = self.steps.get(name) or Step(self.world.runs[self.places[name]].status)
            status = with_built(step.status, built)
            if status is not None and status.state not in ENDED:
                shared[name] = replace(step, status=status)
        return shared

    def _tally(self) -> list[Tally]:
        """Return what each run adds to the experiment, with the status that was decided so far."""
        tallies = [each.tally for each in self.world.standings]
        for name, step in self.steps.items():
            place = self.places[name]
            tallies[place] = tally(self.world.runs[place], step.status)
        return tallies

    def _apply_policies(self) -> policies.Effects:
        """Return what the policies do, as the runs stand after their commits were taken up."""
        settled = (racer(run, self.steps[run.metadata.name].status) for run in self.restless)
        racers = chain((each.racer for each in self.world.standings if each.at_rest), settled)
        complete = not self.planned and not self.unborn
        return policies.apply(self.world, self.verdict.spec, self.tallies, racers, complete=complete)

    def _plan_slots(self) -> SlotPlan:
        spec, world = self.verdict.spec, self.world
        present = {name: slot.job for name, slot in world.slots.items() if slot.job is not None}
        foreign = {name for name, job in present.items() if job.owner_uid != world.experiment.uid}
        busy = {each.worker for step in self.steps.values() if (each := step.status.assignment) is not None}
        wanted = spec.workers.replicas if self._needs_workers() and not spec.suspend else 0
        ours = {name: job for name, job in present.items() if name not in foreign}
        names = {name: self._manifest(name) for name in ours}
        templates = {n: m["metadata"]["annotations"][TEMPLATE_ANNOTATION] for n, m in names.items()}
        lease = self.rules.lease_seconds
        ready = {name for name, slot in world.slots.items() if takes_work(slot, lease) is not None}
        slots = plan_slots(world.experiment.name, wanted, ours, busy, templates, world.now, ready)
        return SlotPlan(slots.names, tuple(n for n in slots.make if n not in foreign), slots.remove, slots.retire)

    def _needs_workers(self) -> bool:
        """Return whether there is work, or was until a short while ago."""
        if self.planned or self.unborn or any(each.active for each in self.tallies):
            return True
        if all(each.state in ENDED for each in self.tallies):
            return False
        progressing = find(self.world.experiment.status.conditions, "Progressing")
        if progressing is None or progressing.status != "False":
            return True
        return self.world.now - progressing.last_transition_time.timestamp() < self.rules.idle_seconds

    def _manifest(self, slot: str) -> Mapping[str, Any]:
        return jobs.manifest(self.world.experiment, self.verdict.spec, slot, self.rules.defaults, self.claims)

    def _available(self) -> dict[str, Worker]:
        """Return the workers that take new work, by slot."""
        workers = {}
        for name, slot in self.world.slots.items():
            process = takes_work(slot, self.rules.lease_seconds)
            if process is not None and name not in self.slots.retire and name in self.slots.names:
                workers[name] = Worker(name, process)
        return workers

    def _plan_runs(self) -> None:
        """Give out chunks, then describe every run."""
        now, turns = self.world.now, take_turns(self._candidates())
        candidates = turns.candidates
        late = head_starts(candidates, max((each.turn for each in self.tallies), default=0))
        candidates = tuple(replace(e, head_start=late[e.name]) if e.name in late else e for e in candidates)
        decisions = {each.run: each for each in plan(Snapshot(candidates, tuple(self.workers.values())))}
        waits = {name: waiting_for(builder) for name, builder in turns.builders.items()}
        if self.verdict.spec.suspend:
            waits = {each.name: RUN_WAITS for each in self.tallies if each.wanted and each.state not in ENDED}
        told = {each.tally.name for each in self.world.standings if each.waits != waits.get(each.tally.name, "")}
        for name in sorted({*self.steps, *decisions, *late, *told}, key=self.places.__getitem__):
            run, decision = self.world.runs[self.places[name]], decisions.get(name)
            step = self.steps.get(name) or Step(run.status)
            status = step.status.model_copy(update={"head_start": late[name]}) if name in late else step.status
            if decision is not None:
                living = living_process(self.world.slots[decision.worker], self.rules.lease_seconds)
                if living is not None:
                    status = assign(status, decision, living[1].name, living[1].uid, now)
            described = describe(run, status, now, waits.get(name, ""))
            self.steps[name] = Step(described.status, (*step.events, *described.events))
        for name, stops in self.policies.stopped_by.items():
            step = self.steps.get(name) or Step(self.world.runs[self.places[name]].status)
            self.steps[name] = replace(step, status=step.status.model_copy(update={"stopped_by": stops}))

    def _candidates(self) -> list[Candidate]:
        """Return what the planner has to know of the runs; who is about to be stopped gets nothing."""
        resting = (each.candidate for each in self.world.standings if each.tally.name not in self.steps)
        changing = (self.world.runs[self.places[name]] for name in self.steps)
        others = (candidate(run, self.steps[run.metadata.name].status, self.world.now) for run in changing)
        found = (each for each in (*resting, *others) if each is not None)
        return [replace(each, ready=False) if each.name in self.policies.held else each for each in found]

    def _run_patches(self) -> tuple[StatusPatch, ...]:
        patches = []
        for name, step in self.steps.items():
            run = self.world.runs[self.places[name]]
            patch = merge_patch(owned(stored(run.status)), owned(step.status.to_wire()))
            if patch:
                written = StatusPatch(run.metadata.name, run.metadata.resource_version, patch, step.events)
                patches.append((_turn(run.status, step.status), written))
        return tuple(patch for _, patch in sorted(patches, key=lambda each: each[0]))

    def _count(self) -> Summary:
        world = self.world
        workers = WorkerCounts(
            ready=len(self.workers),
            replicas=sum(slot.job is not None for slot in world.slots.values()),
            selector=jobs.selector(world.experiment.name),
            summary=f"{len(self.workers)}/{len(self.slots.names)}",
        )
        coming = self.planned + len(self.unborn)
        return summarize(world.experiment.status, self.verdict.spec, self._tally(), workers=workers, planned=coming)

    def _summarize(self) -> StatusPatch | None:
        world, summary, suspend = self.world, self.summary, self.verdict.spec.suspend
        total, planned = sum(leaf is not None for leaf in self.verdict.leaves), self.planned
        expanded = Verdict("Expanded", "True", "AllRunsMade", f"{total} runs were made.")
        if planned:
            expanded = Verdict("Expanded", "False", "Expanding", f"{total - planned} of {total} runs are made.")
        refusal = world.refusals.get(run_name(world.experiment.name, self.next_index))
        if refusal is not None:
            message = f"The API server refuses run {self.next_index}: {refusal}"
            expanded = Verdict("Expanded", "False", "RunRefused", message)
        verdicts = [
            Verdict("Accepted", "True", "Valid", f"The configs make {total} runs."),
            expanded,
            self._workers_verdict(sorted(self.workers)),
            *announced(summary.verdicts, self.expires),
            *suspension(
                world.experiment.status.conditions,
                suspend=suspend,
                leaving=still_there(world.experiment, world.slots),
            ),
            *currency(world.experiment.status.conditions, self.rules.outdated),
        ]
        update = {"next_index": self.next_index, "policies": self.policies.records, "usage": self.policies.usage}
        return _experiment_patch(world, summary.status.model_copy(update=update), verdicts, self.policies.events)

    def _workers_verdict(self, ready: list[str]) -> Verdict:
        if self.verdict.spec.suspend:
            return Verdict("WorkersReady", "False", SUSPENDED, "A suspended experiment has no workers.")
        if not self.slots.names:
            return Verdict("WorkersReady", "False", "NotNeeded", "No run needs a worker now.")
        names, world = self.slots.names, self.world
        return workers_ready(len(names), ready, world.slots, names, world.refusals, world.now)

    def _look_again(self) -> float | None:
        """Return when something changes by time alone: a Lease runs out, a wait ends, idle workers leave."""
        now, moments = self.world.now, []
        if self.keeping.look_again is not None:
            moments.append(self.keeping.look_again)
        if self.policies.look_again is not None:
            moments.append(self.policies.look_again)
        for slot in self.world.slots.values():
            if slot.lease is not None and slot.lease.holder and slot.lease.age <= self.rules.lease_seconds:
                moments.append(now + self.rules.lease_seconds - slot.lease.age)
        for step in self.steps.values():
            retry = step.status.failures.retry_at
            if retry is not None and retry > now and step.status.state not in ENDED:
                moments.append(retry)
        progressing = find(self.world.experiment.status.conditions, "Progressing")
        if progressing is not None and progressing.status == "False" and self.slots.names:
            moments.append(progressing.last_transition_time.timestamp() + self.rules.idle_seconds)
        if self.expires is not None:  # a deletion that met somebody else's change is tried again
            moments.append(max(self.expires, now + EXPIRY_PAUSE))
        if self.planned or len(self.workers) < len(self.slots.names):
            moments.append(now + UNREADY_LOOK_SECONDS)
        return max(now, min(moments)) + 0.1 if moments else None


def _turn(before: RunStatus, after: RunStatus) -> tuple[bool, bool]:
    """Return when a run's status is written: who pays for a crash last, who makes room for others first."""
    pays = after.failures.crashes > before.failures.crashes
    return pays, before.assignment is None or before.assignment == after.assignment
