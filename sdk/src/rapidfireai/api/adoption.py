"""What an experiment is made of that goes on with what a lost cluster has left on the volume."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from rapidfireai.api.base import FreeForm, Resource, Uid, cel, validations
from rapidfireai.api.run import Adopted, DesiredState, ParentRef, When

MOST_ADOPTED = 2000
"""How many runs one experiment may bring along."""


class AdoptedRun(Resource):
    """One run as it was."""

    index: Annotated[int, Field(ge=1, description="The run's number; it keeps it.")]
    config: Annotated[
        FreeForm | None, Field(description="Its config, if it is another one than the experiment's configs make of it.")
    ] = None
    desired_state: Annotated[DesiredState, Field(description="What was wanted of it.")] = "Running"
    when: Annotated[When, Field(description="When that takes effect.")] = "Boundary"
    priority: Annotated[int, Field(ge=-1000, le=1000, description="Its priority.")] = 0
    parent_ref: Annotated[ParentRef | None, Field(description="The run that it was cloned from.")] = None
    adopted: Annotated[Adopted, Field(description="What it had done, and where its files lie.")]


class Adoption(Resource):
    """What was there before. `rapidfireai adopt` writes it from the volume."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!has(self.runs) || self.runs.all(each, each.adopted.experimentUID == self.uid)",
                "every run comes from the directory that the experiment takes over: write its uid as experimentUID",
            ),
            cel(
                "!has(self.runs) || self.runs.all(each, has(each.adopted.runUID))",
                "every run that is made again has a directory: write adopted.runUID",
            ),
        )
    )

    uid: Annotated[
        Uid,
        Field(description="The directory experiments/UID, which the experiment takes over: one at a time has it."),
    ]
    next_index: Annotated[
        int, Field(ge=1, description="Indices below it are used up: of these only `runs` are made again.")
    ] = 1
    runs: Annotated[
        list[AdoptedRun],
        Field(
            max_length=MOST_ADOPTED,
            description="The runs that are made again, one a number.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["index"]},
        ),
    ] = []
