"""IC Ops in a pass: what they write, and how long their records stay."""

from __future__ import annotations

from collections.abc import Mapping

from rapidfireai.api import run_name
from rapidfireai_operator.core import icops, jobs
from rapidfireai_operator.core.acceptance import Accepted, Refused
from rapidfireai_operator.core.outcome import Change, Outcome, StatusPatch
from rapidfireai_operator.core.snapshot import World


def apply_icops(world: World, verdict: Accepted | Refused, claims: Mapping[str, str]) -> Outcome:
    """Return what open operations ask for, and their records; nothing if none is open or due."""
    if not _takes_icops(world, verdict):
        return Outcome()
    applied = icops.apply(world, verdict, claims)
    return Outcome(
        pins=tuple(
            StatusPatch(
                pin.run.metadata.name,
                pin.run.metadata.resource_version,
                {"pinned": [each.to_wire() for each in pin.pinned]},
            )
            for pin in applied.pins
        ),
        asks=tuple(
            Change(
                ask.run.metadata.name,
                ask.run.metadata.resource_version,
                {"spec": dict(ask.spec)},
                f"{ask.icop}/{ask.run.metadata.name}",
            )
            for ask in applied.asks
        ),
        icops=tuple(
            StatusPatch(
                record.icop.metadata.name, record.icop.metadata.resource_version, record.status.to_wire(), record.events
            )
            for record in applied.records
        ),
    )


def keep_icops(world: World) -> Outcome:
    """Return what becomes of records: they are the experiment's own, and some go after a while."""
    owner = {**jobs.owner(world.experiment), "controller": False}
    adopt = tuple(
        Change(
            icop.metadata.name,
            icop.metadata.resource_version,
            {"metadata": {"ownerReferences": [*icop.metadata.owner_references, owner]}},
            f"{icop.metadata.name}/",
        )
        for icop in world.icops
        if all(each.get("uid") != world.experiment.uid for each in icop.metadata.owner_references)
        and f"{icop.metadata.name}/" not in world.refusals
    )
    gone = {icop.metadata.name: icop.metadata.uid for icop in world.icops if icops.expired(icop, world.now)}
    moments = [moment for icop in world.icops if (moment := icops.expiry(icop)) is not None and moment > world.now]
    return Outcome(adopt=adopt, remove_icops=gone, look_again=min(moments, default=None))


def _takes_icops(world: World, verdict: Accepted | Refused) -> bool:
    """Return whether IC Ops are due: all runs that the configs make were made, or cannot be."""
    next_index = world.experiment.status.next_index
    if isinstance(verdict, Refused) or next_index > len(verdict.leaves):
        return True
    return run_name(world.experiment.name, next_index) in world.refusals
