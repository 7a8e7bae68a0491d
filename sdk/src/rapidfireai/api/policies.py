"""Policies of an experiment: what stops runs without anybody watching, and the record of it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from rapidfireai.api.base import Number, Resource, Status, cel, validations

PolicyName = Literal["successiveHalving", "stopWhenWorse", "stopWhenBeaten", "maxDuration", "maxCost"]
POLICY_NAMES: tuple[PolicyName, ...] = (
    "successiveHalving",
    "stopWhenWorse",
    "stopWhenBeaten",
    "maxDuration",
    "maxCost",
)
LATEST = 4096
"""The last boundary at which anything can be compared: no run has more chunks."""
DURATION_PATTERN = r"^([0-9]+([.][0-9]+)?[smhd])+$"
"""The durations of a manifest, in the syntax that Python and CEL share."""
DURATION_FIX = "write a duration such as 90m, 8h or 1d12h"
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(duration: str) -> float:
    """Return the seconds of a duration such as `1h30m`.

    Raises:
        ValueError: If it is not a duration, or no time at all.
    """
    parts = re.findall(r"([0-9.]+)([smhd])", duration) if re.fullmatch(DURATION_PATTERN, duration) else []
    total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if total <= 0:
        raise ValueError(DURATION_FIX)
    return total


def _checked(duration: str) -> str:
    seconds(duration)
    return duration


Duration = Annotated[
    str,
    StringConstraints(min_length=2, max_length=32),
    AfterValidator(_checked),
    Field(
        json_schema_extra=validations(cel(f"self.matches('{DURATION_PATTERN}') && self.matches('[1-9]')", DURATION_FIX))
    ),
]
MinChunks = Annotated[
    int,
    Field(ge=1, le=LATEST, description="No run is judged before it has so many chunks."),
]


class SuccessiveHalving(Resource):
    """After minChunks, minChunks * eta, minChunks * eta^2, ... chunks, only the best of every eta runs goes on.

    Such a boundary is a rung. Runs are compared there, each by its objective after exactly so many chunks, once all
    that are active have reached it; so it does not matter who was there first.
    """

    eta: Annotated[int, Field(ge=2, le=16, description="One of so many runs goes on; one run always does.")] = 3
    min_chunks: MinChunks = 1


class StopWhenWorse(Resource):
    """A run stops if its best objective is worse than the median of the other runs' running averages.

    Compared is at each chunk boundary from minChunks on, once all active runs have reached it.
    """

    min_chunks: MinChunks = 1
    min_runs: Annotated[
        int, Field(ge=2, le=1000, description="Nothing is stopped while fewer runs than these can be compared.")
    ] = 3


class StopWhenBeaten(Resource):
    """A run of an evaluation stops if its confidence interval lies wholly on the worse side of another run's.

    Compared is at each shard's end from minChunks on, once all active runs have reached it.
    """

    min_chunks: MinChunks = 1


class MaxDuration(Resource):
    """All runs stop when the experiment has run so long.

    Counted is the time in which at least one run is under way: neither the wait for the first worker nor the time after
    the last run came to rest.
    """

    limit: Annotated[Duration, Field(description="Such as 90m, 8h or 1d12h.")]


class MaxCost(Resource):
    """All runs stop when the workers have cost so much.

    A worker costs from the moment its pod runs until it is gone, whether it computes or waits.
    """

    limit: Annotated[Number, Field(ge=0.01, description="The most that may be spent, in the currency of the price.")]
    price_per_worker_hour: Annotated[
        Number, Field(ge=0.0001, description="What one worker costs an hour, its GPU included.")
    ]


class Policy(Resource):
    """One policy: exactly one of its fields."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                f"[{', '.join(f'has(self.{name})' for name in POLICY_NAMES)}].exists_one(each, each)",
                f"write exactly one of {', '.join(POLICY_NAMES)} in each entry",
            )
        )
    )

    successive_halving: Annotated[
        SuccessiveHalving | None, Field(description="Only the best of every eta runs goes on, rung after rung.")
    ] = None
    stop_when_worse: Annotated[
        StopWhenWorse | None, Field(description="Stops a run that does worse than the median of the runs.")
    ] = None
    stop_when_beaten: Annotated[
        StopWhenBeaten | None,
        Field(description="Mode evals: stops a run whose interval lies wholly on the worse side of another run's."),
    ] = None
    max_duration: Annotated[MaxDuration | None, Field(description="Stops all runs after so long.")] = None
    max_cost: Annotated[MaxCost | None, Field(description="Stops all runs when so much is spent.")] = None

    @model_validator(mode="after")
    def _one(self) -> Policy:
        if len(self.model_fields_set & set(type(self).model_fields)) != 1:
            raise ValueError(f"write exactly one of {', '.join(POLICY_NAMES)} in each entry")
        return self


def _each_once(policies: list[Policy]) -> list[Policy]:
    names = [name for each in policies for name in each.model_fields_set]
    if len(names) != len(set(names)):
        raise ValueError("write each policy once")
    return policies


Policies = Annotated[
    list[Policy],
    AfterValidator(_each_once),
    Field(
        max_length=len(POLICY_NAMES),
        description=(
            "What stops runs without anybody watching. Each stop is an ICOp requested by policy:NAME; a run that "
            "somebody resumes is not stopped again for the same reason. May be changed at any time."
        ),
        json_schema_extra=validations(
            cel(
                " && ".join(f"self.filter(each, has(each.{name})).size() <= 1" for name in POLICY_NAMES),
                "write each policy once",
            )
        ),
    ),
]


class PolicyRecord(Status):
    """What a policy decided, so that it is decided once, whatever becomes of the ICOps."""

    policy: Annotated[PolicyName, Field(description="The policy.")]
    chunks: Annotated[int | None, Field(description="The boundary at which runs were compared.")] = None
    limit: Annotated[str | None, Field(max_length=64, description="The limit that was reached.")] = None
    runs: Annotated[int, Field(description="How many runs were compared.")] = 0
    stopped: Annotated[int, Field(description="How many runs it stopped.")] = 0
    metric: Annotated[str | None, Field(max_length=128, description="The metric that was compared.")] = None
    threshold: Annotated[
        Number | None, Field(description="The objective that a run needed to go on; late ones are measured with it.")
    ] = None
    message: Annotated[str, Field(max_length=512, description="The decision, for people.")] = ""


class PolicyStop(Status):
    """One stop of a run by a policy, kept at the run so that nobody is stopped twice for the same reason."""

    policy: Annotated[PolicyName, Field(description="The policy.")]
    chunks: Annotated[int, Field(description="The boundary at which it was judged.")]
    reason: Annotated[str, Field(max_length=512, description="Why, with the figures.")] = ""


class Usage(Status):
    """What the experiment has used until `since`; what it uses from then on is added up when that changes."""

    active_seconds: Annotated[Number, Field(description="Seconds in which at least one run was under way.")] = 0.0
    active: Annotated[bool, Field(description="Whether a run is under way since then.")] = False
    worker_seconds: Annotated[Number, Field(description="Seconds that worker pods ran, all together.")] = 0.0
    workers: Annotated[int, Field(description="Worker pods that run since then.")] = 0
    since: Annotated[datetime | None, Field(description="Up to when the seconds count.")] = None
