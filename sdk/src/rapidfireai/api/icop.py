"""The ICOp resource: one interactive control operation, and the record of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from rapidfireai.api.base import Conditions, Message, Name, ObjectMeta, Resource, Status, cel, validations


class ICOpSpec(Resource):
    """What to do to which runs. It never changes: it is the record."""

    model_config = ConfigDict(
        json_schema_extra=validations(cel("self == oldSelf", "an ICOp never changes; create another one"))
    )

    experiment_ref: Annotated[Name, Field(description="The experiment that the runs belong to.")]
    op: Annotated[
        Literal["Stop", "Resume"],
        Field(description="Stop takes effect at the next chunk boundary; Resume goes on from there."),
    ]
    runs: Annotated[list[Name], Field(min_length=1, max_length=1000, description="The names of the runs.")]


class ICOpResult(Status):
    """What became of one run."""

    run: Annotated[Name, Field(description="The run's name.")]
    outcome: Annotated[Literal["Applied", "Refused"], Field(description="Whether it was done.")]
    message: Annotated[Message, Field(description="Why it was refused, with the next step in it.")] = ""


class ICOpStatus(Status):
    """What became of the operation; written by the operator alone."""

    results: Annotated[
        list[ICOpResult],
        Field(
            max_length=1000,
            description="One result a run.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["run"]},
        ),
    ] = []
    conditions: Conditions = []


class ICOp(BaseModel):
    """An interactive control operation on runs of an experiment."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    metadata: ObjectMeta = ObjectMeta()
    spec: ICOpSpec
    status: ICOpStatus = ICOpStatus()

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> ICOp:
        """Parse an object of the API server.

        Raises:
            pydantic.ValidationError: If the object is not an ICOp.
        """
        return cls.model_validate({k: v for k, v in body.items() if k in {"metadata", "spec", "status"}})
