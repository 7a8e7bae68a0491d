"""The Experiment resource: many configs of one task, and the workers that share them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from rapidfireai.api.base import (
    Conditions,
    Digest,
    FreeForm,
    Message,
    Name,
    Number,
    ObjectMeta,
    Resource,
    ShortText,
    Status,
    cel,
    validations,
)

Trainer = Literal["SFT"]
MAX_RUNS = 1000
"""How many runs one experiment may have."""
MAX_WORKERS = 256
"""How many worker slots one experiment may have."""


class ConfigGroup(Resource):
    """One template of configs; its knobs are expanded into runs."""

    strategy: Annotated[
        Literal["grid"], Field(description="How knobs become runs: `grid` takes every combination.")
    ] = "grid"
    trainer: Annotated[Trainer, Field(description="Which trainer of TRL runs the configs of this group.")]
    config: Annotated[
        FreeForm,
        Field(
            description=(
                "The config, with the Python API's own names: model_name, tokenizer, tokenizer_kwargs, "
                "model_type, model_kwargs, peft_config, training_args, formatting_func, compute_metrics. "
                'A knob is written {"$list": [...]}.'
            )
        ),
    ]


class Objective(Resource):
    """What makes one run better than another."""

    metric: Annotated[
        str,
        Field(
            max_length=128,
            description=(
                "The metric that ranks runs. `eval_loss` is measured at every chunk boundary; without an "
                "eval set the mean training loss of the chunk takes its place."
            ),
        ),
    ] = "eval_loss"
    direction: Annotated[Literal["minimize", "maximize"], Field(description="Which way is better.")] = "minimize"


Uri = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2048),
    Field(
        json_schema_extra=validations(
            cel(
                "self.matches('^(pvc://[a-z0-9.-]+/.+|blob://sha256/[0-9a-f]{64}|hf://.+|file:///.+)$')",
                "write pvc://CLAIM/path, blob://sha256/DIGEST (what the SDK uploads), hf://owner/name "
                "or file:///path (only where workers share the user's disk)",
            )
        )
    ),
]


class DataSource(Resource):
    """Where one data set lies."""

    uri: Annotated[Uri, Field(description="pvc://CLAIM/path, blob://sha256/DIGEST, hf://owner/name or file:///path.")]
    split: Annotated[str, Field(max_length=128, description="The split of an hf:// data set.")] = "train"


class Data(Resource):
    """The data sets of an experiment."""

    train: Annotated[DataSource, Field(description="The rows to train on.")]
    eval: Annotated[DataSource | None, Field(description="The rows to evaluate on at every chunk boundary.")] = None


class Code(Resource):
    """The user's Python objects, as the SDK bundled them; leave it out for a plain YAML experiment."""

    bundle: Annotated[Digest, Field(description="The digest of the code bundle on the volume.")]
    python: Annotated[
        str,
        Field(pattern=r"^3\.\d+$", description="The Python version that made the bundle, such as 3.11."),
    ]


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


class Storage(Resource):
    """The shared volume."""

    claim_name: Annotated[
        Name | None,
        Field(description="The PersistentVolumeClaim for checkpoints; the workspace's by default."),
    ] = None


class ExperimentSpec(Resource):
    """What the user wants."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("self.seed == oldSelf.seed", "seed is fixed once the experiment exists; make a new experiment"),
            cel(
                "self.chunks == oldSelf.chunks",
                "chunks is fixed once the experiment exists; make a new experiment",
            ),
            cel(
                "self.configs == oldSelf.configs",
                "configs are fixed once the experiment exists; make a new experiment",
            ),
            cel("self.data == oldSelf.data", "data is fixed once the experiment exists; make a new experiment"),
            cel(
                "has(self.code) == has(oldSelf.code) && (!has(self.code) || self.code == oldSelf.code)",
                "code is fixed once the experiment exists; make a new experiment",
            ),
        )
    )

    display_name: Annotated[
        str | None,
        Field(max_length=256, description="What the user called it; the object's name is a slug of it."),
    ] = None
    mode: Annotated[Literal["fit"], Field(description="What the runs do: `fit` fine-tunes.")] = "fit"
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="The seed of every run that names none.")] = 42
    configs: Annotated[
        list[ConfigGroup],
        Field(min_length=1, max_length=64, description="The templates that expand into runs."),
    ]
    objective: Annotated[Objective, Field(description="What makes one run better than another.")] = Objective()
    chunks: Annotated[int, Field(ge=1, le=1000, description="How many chunks one epoch is cut into.")] = 4
    evaluate_at_boundaries: Annotated[
        bool, Field(description="Whether each run is evaluated at every chunk boundary, out of band.")
    ] = True
    data: Annotated[Data, Field(description="The data sets.")]
    code: Annotated[Code | None, Field(description="The user's Python objects, from the SDK.")] = None
    workers: Annotated[Workers, Field(description="The workers.")] = Workers()
    storage: Annotated[Storage, Field(description="The shared volume.")] = Storage()
    backoff_limit: Annotated[
        int, Field(ge=0, le=100, description="How often a run is tried again after its own code raised.")
    ] = 0
    crash_limit: Annotated[
        int, Field(ge=0, le=100, description="How often a run is tried again after it took its worker down.")
    ] = 2


class RunCounts(Status):
    """How many runs are in which state."""

    total: Annotated[int, Field(description="All runs.")] = 0
    active: Annotated[int, Field(description="Runs that can still go on without anybody's help.")] = 0
    pending: Annotated[int, Field(description="Runs that have not begun.")] = 0
    running: Annotated[int, Field(description="Runs under way.")] = 0
    stopped: Annotated[int, Field(description="Runs that a user stopped; they can be resumed.")] = 0
    succeeded: Annotated[int, Field(description="Runs that reached their last step.")] = 0
    failed: Annotated[int, Field(description="Runs that cannot go on.")] = 0


class ChunkCounts(Status):
    """How far all runs are together."""

    done: Annotated[int, Field(description="Committed chunks of all runs.")] = 0
    total: Annotated[int, Field(description="Chunks of all runs, as far as they are known.")] = 0
    summary: Annotated[ShortText, Field(description="done/total, for people.")] = ""


class WorkerCounts(Status):
    """How many workers are there."""

    ready: Annotated[int, Field(description="Workers that take chunks.")] = 0
    replicas: Annotated[int, Field(description="Worker slots that exist; read by the scale subresource.")] = 0
    selector: Annotated[str, Field(max_length=512, description="The label selector of the worker pods.")] = ""
    summary: Annotated[ShortText, Field(description="ready/wanted, for people.")] = ""


class BestRun(Status):
    """The run that leads by the objective."""

    run: Annotated[Name, Field(description="Its name.")]
    metric: Annotated[str, Field(max_length=128, description="The metric that was compared.")]
    value: Annotated[Number, Field(description="Its value.")]
    summary: Annotated[str, Field(max_length=300, description="Name and value, for people.")] = ""


class ExperimentStatus(Status):
    """What is; written by the operator alone."""

    state: Annotated[
        Literal["Pending", "Refused", "Running", "Stopped", "Succeeded", "Failed"] | None,
        Field(description="The conditions in one word."),
    ] = None
    observed_generation: Annotated[int, Field(description="The generation of the spec that was last acted on.")] = 0
    next_index: Annotated[
        int, Field(description="The index that the next run gets; an index is used once and never again.")
    ] = 1
    runs: Annotated[RunCounts, Field(description="Runs by state.")] = RunCounts()
    chunks: Annotated[ChunkCounts, Field(description="Progress of all runs.")] = ChunkCounts()
    workers: Annotated[WorkerCounts, Field(description="Workers.")] = WorkerCounts()
    best: Annotated[BestRun | None, Field(description="The leading run.")] = None
    eta: Annotated[ShortText | None, Field(description="About how long until all runs are done.")] = None
    ml_flow_experiment_id: Annotated[
        str | None, Field(alias="mlflowExperimentID", max_length=64, description="The experiment in MLflow.")
    ] = None
    conditions: Conditions = []


class Experiment(BaseModel):
    """An experiment: many configs of one task, trained side by side, chunk by chunk."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    metadata: ObjectMeta = ObjectMeta()
    spec: ExperimentSpec
    status: ExperimentStatus = ExperimentStatus()

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> Experiment:
        """Parse an object of the API server.

        Raises:
            pydantic.ValidationError: If the object is not an Experiment.
        """
        return cls.model_validate({k: v for k, v in body.items() if k in {"metadata", "spec", "status"}})


__all__ = [
    "Code",
    "ConfigGroup",
    "Data",
    "DataSource",
    "Experiment",
    "ExperimentSpec",
    "ExperimentStatus",
    "Message",
]
