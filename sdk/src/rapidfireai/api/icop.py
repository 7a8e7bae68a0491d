"""The ICOp resource: one interactive control operation, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from rapidfireai.api.base import (
    Conditions,
    FreeForm,
    Message,
    Name,
    ObjectMeta,
    Resource,
    ShortText,
    Status,
    cel,
    validations,
)
from rapidfireai.api.run import Checkpoint, RunState, When

Op = Literal["Stop", "Resume", "CloneModify", "Delete"]
DONE: Mapping[Op, str] = {"Stop": "stopped", "Resume": "resumed", "CloneModify": "cloned", "Delete": "deleted"}
"""What an operation did to a run, in a word."""
MOST_RUNS = 10_000
"""How many runs one operation may be about."""


class RunSelector(Resource):
    """Which runs of the experiment: those that fit everything that is said here; `{}` is all of them."""

    states: Annotated[
        list[RunState],
        Field(max_length=8, description="Only runs in one of these states; of any state if empty."),
    ] = []
    match_labels: Annotated[
        dict[str, str], Field(max_length=32, description="Only runs that have all of these labels.")
    ] = {}


class Clone(Resource):
    """How the clone differs from its parent."""

    patch: Annotated[
        FreeForm,
        Field(
            description="A merge patch on the parent's config, such as {training_args: {learning_rate: 1e-4}}; dotted "
            "paths such as training_args.learning_rate are understood too. Functions are inherited."
        ),
    ] = {}
    warm_start: Annotated[
        bool,
        Field(description="Whether the clone begins with the weights of the parent's last commit."),
    ] = False


class ICOpSpec(Resource):
    """What to do to which runs. It never changes: it is the record."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("self == oldSelf", "an ICOp never changes; create another one"),
            cel("has(self.runs) != has(self.selector)", "name either runs or a selector"),
            cel(
                "has(self.clone) == (self.op == 'CloneModify')",
                "clone says how a clone differs: CloneModify needs it, and nothing else has it",
            ),
        )
    )

    experiment_ref: Annotated[Name, Field(description="The experiment that the runs belong to.")]
    op: Annotated[
        Op,
        Field(
            description="Stop lets a run rest, Resume lets it go on, CloneModify makes a new run of each with changed "
            "knobs, Delete ends a run for good and hides its results."
        ),
    ]
    runs: Annotated[list[Name] | None, Field(min_length=1, max_length=1000, description="The names of the runs.")] = (
        None
    )
    selector: Annotated[
        RunSelector | None, Field(description="Which runs instead; looked up once, when the operation is accepted.")
    ] = None
    clone: Annotated[Clone | None, Field(description="How the clones differ from their parents.")] = None
    when: Annotated[
        When,
        Field(
            description="When Stop and Delete take effect: at the next chunk boundary, or after the current optimizer "
            "step. Nothing is lost either way."
        ),
    ] = "Boundary"
    requested_by: Annotated[
        str | None,
        Field(
            max_length=256,
            description="Who asked. The API server writes it where the cluster has MutatingAdmissionPolicies; nobody "
            "can claim to be somebody else.",
        ),
    ] = None
    reason: Annotated[
        str, Field(max_length=512, description="Why, for whoever reads the record; a policy says its rule here.")
    ] = ""
    ttl_seconds_after_complete: Annotated[
        int | None,
        Field(ge=0, description="The record is removed so long after its completion; with the experiment if absent."),
    ] = None


class ICOpResult(Status):
    """What became of one run."""

    run: Annotated[Name, Field(description="The run's name.")]
    outcome: Annotated[
        Literal["Applied", "Refused"],
        Field(description="Whether it was done."),
    ]
    message: Annotated[Message, Field(description="Why it was refused, with the next step in it.")] = ""
    created: Annotated[Name | None, Field(description="The name of the clone.")] = None
    checkpoint: Annotated[
        Checkpoint | None, Field(description="Where a warm clone begins: what its parent had committed then.")
    ] = None


class ICOpStatus(Status):
    """What became of the operation; written by the operator alone."""

    results: Annotated[
        list[ICOpResult],
        Field(
            max_length=MOST_RUNS,
            description="One result a run.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["run"]},
        ),
    ] = []
    summary: Annotated[ShortText, Field(description="The results in a word or two, for people.")] = ""
    conditions: Conditions = []


class ICOp(BaseModel):
    """An interactive control operation on runs of an experiment."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    metadata: ObjectMeta = ObjectMeta()
    spec: ICOpSpec
    status: ICOpStatus = ICOpStatus()

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> ICOp:
        """Parse an object of the API server; fields of a newer version of the resource are passed over.

        Raises:
            pydantic.ValidationError: If the object is not an ICOp.
        """
        return cls.model_validate(body, extra="ignore")
