"""The workers of an experiment, and what may be said of their pods."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rapidfireai.api.base import FreeForm, Name, Resource

MAX_WORKERS = 256
"""How many worker slots one experiment may have."""


class EnvVar(Resource):
    """An environment variable of the worker, as a value or as a reference to a Secret or ConfigMap."""

    name: Annotated[str, Field(max_length=253, description="The variable's name.")]
    value: Annotated[str | None, Field(max_length=4096, description="Its value; never a secret.")] = None
    value_from: Annotated[
        FreeForm | None, Field(description="Where its value is read from: secretKeyRef or configMapKeyRef.")
    ] = None


class WorkerContainer(Resource):
    """What may be chosen about the worker's container."""

    name: Annotated[Literal["worker"], Field(description="Always `worker`.")] = "worker"
    image: Annotated[str | None, Field(max_length=512, description="The image; the chart's by default.")] = None
    resources: Annotated[
        FreeForm | None,
        Field(description="Requests and limits, such as nvidia.com/gpu; the chart's by default."),
    ] = None
    env: Annotated[list[EnvVar], Field(max_length=64, description="Further environment variables.")] = []


class WorkerPodSpec(Resource):
    """What may be chosen about the worker's pod: where it runs and what it gets, not whose rights it has."""

    containers: Annotated[
        list[WorkerContainer], Field(max_length=1, description="The worker container, the only one.")
    ] = []
    node_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]] | None,
        Field(description="Labels that a node must have."),
    ] = None
    tolerations: Annotated[list[FreeForm], Field(max_length=32, description="Taints that are tolerated.")] = []
    affinity: Annotated[FreeForm | None, Field(description="Scheduling affinity.")] = None
    priority_class_name: Annotated[Name | None, Field(description="The pods' PriorityClass.")] = None
    runtime_class_name: Annotated[Name | None, Field(description="The pods' RuntimeClass.")] = None
    image_pull_secrets: Annotated[list[FreeForm], Field(max_length=16, description="Secrets that pull the image.")] = []


class WorkerTemplate(Resource):
    """The allow-listed pod template of workers."""

    spec: Annotated[WorkerPodSpec, Field(description="The pod.")] = WorkerPodSpec()


class Workers(Resource):
    """The long-lived worker pods that the runs share."""

    replicas: Annotated[int, Field(ge=0, le=MAX_WORKERS, description="How many workers; one GPU each is usual.")] = 1
    template: Annotated[WorkerTemplate, Field(description="What each worker pod looks like.")] = WorkerTemplate()
    queue_name: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=63,
            pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
            description="The LocalQueue of Kueue that admits each worker's Job; the chart's by default.",
        ),
    ] = None
