"""What the three resources share: naming, strictness, conditions and the way a schema carries CEL rules."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "rapidfire.ai"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

EXPERIMENT_LABEL = f"{GROUP}/experiment"
"""Label on everything that belongs to an experiment; its value is the experiment's name."""
WORKER_LABEL = f"{GROUP}/worker"
"""Label on Jobs, Pods and Leases of a worker slot; its value is the slot's name."""
RUN_INDEX_LABEL = f"{GROUP}/run-index"
"""Label on Runs: the API's run_id."""


class Resource(BaseModel):
    """Base of every part of a resource: camelCase on the wire, unknown fields refused by name."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", validate_default=True)

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form that is sent to the API server: camelCase, nothing that is None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Status(Resource):
    """Base of what is read back from a status: fields of a newer version are ignored, never an error."""

    model_config = ConfigDict(extra="ignore")


def _whole_to_float(value: object) -> object:
    """JSON has one kind of number: 1.0 comes back from the API server as 1."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


Number = Annotated[float, BeforeValidator(_whole_to_float)]
Name = Annotated[str, Field(min_length=1, max_length=253)]
ShortText = Annotated[str, Field(max_length=64)]
Message = Annotated[str, Field(max_length=4096)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="A sha256 digest in hexadecimal.")]
Uid = Annotated[
    str,
    Field(
        max_length=36,
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        description="The UID of an object of the API server.",
    ),
]
FreeForm = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


def cel(rule: str, message: str, **more: str) -> dict[str, str]:
    """Return one CEL validation of a schema.

    Args:
        rule: The CEL expression; `self` is the value, `oldSelf` what it was.
        message: A sentence that says what to write instead.
        more: Further keys of a validation rule, such as `fieldPath`.
    """
    return {"rule": rule, "message": message, **more}


def validations(*rules: dict[str, str]) -> dict[str, Any]:
    """Return the schema extension that holds `rules`."""
    return {"x-kubernetes-validations": list(rules)}


class Condition(Status):
    """One aspect of a resource's state, in the form that `kubectl wait` understands."""

    type: Annotated[str, Field(max_length=64, description="What is judged, such as Accepted or Finished.")]
    status: Annotated[Literal["True", "False", "Unknown"], Field(description="The judgement.")]
    reason: Annotated[str, Field(max_length=64, description="Why, as one stable CamelCase word.")]
    message: Annotated[Message, Field(description="Why, for a person, with the next step in it.")] = ""
    last_transition_time: Annotated[datetime, Field(description="When `status` last changed.")]
    observed_generation: Annotated[int, Field(description="The generation that was judged.")] = 0


Conditions = Annotated[
    list[Condition],
    Field(
        description="The judgements on this resource, one a type.",
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class ObjectMeta(BaseModel):
    """The parts of an object's metadata that this project reads or writes."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[dict[str, Any]] = []
