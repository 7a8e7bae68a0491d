"""The Run resource: one config of an experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
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
    Uid,
    cel,
    validations,
)
from rapidfireai.api.policies import PolicyStop

PREPARE_CHUNK = -1
"""The chunk number of the tasks `prepare` and `index`, which come before chunk 0."""
MAX_CHUNKS = 4096
"""How many chunks one run may have over all its epochs."""

RunState = Literal["Pending", "Running", "Stopped", "Deleted", "Succeeded", "Failed"]
DesiredState = Literal["Running", "Stopped", "Deleted"]
When = Literal["Boundary", "Immediate"]
ENDED: frozenset[RunState | None] = frozenset({"Succeeded", "Failed", "Deleted"})
"""States in which a run never trains again; the first two it leaves only to be deleted."""
Task = Literal["prepare", "index", "chunk"]


class Checkpoint(Status):
    """The last durable state of the run; changes only with a final commit."""

    path: Annotated[str, Field(max_length=512, description="The directory, relative to the volume.")]
    digest: Annotated[Digest, Field(description="The sha256 of its manifest.")]
    step: Annotated[int, Field(ge=0, description="The optimizer step that it holds, or how many rows are answered.")]


class ParentRef(Resource):
    """The run that this one was cloned from. The operator writes it when it makes the clone."""

    name: Annotated[Name, Field(description="The parent's name.")]
    uid: Annotated[str, Field(max_length=64, description="The parent's UID.")]
    index: Annotated[int, Field(ge=1, description="The parent's number in the experiment.")]
    warm_start: Annotated[bool, Field(description="Whether the clone begins with the parent's weights.")] = False
    checkpoint: Annotated[
        Checkpoint | None,
        Field(description="Where a warm clone begins: what the parent had committed when the clone was accepted."),
    ] = None


class RunSpec(Resource):
    """What the user wants of the run."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("self.experimentRef == oldSelf.experimentRef", "a run stays in its experiment"),
            cel("self.index == oldSelf.index", "a run keeps its index"),
            cel("self.config == oldSelf.config", "a run keeps its config; clone it to change a knob"),
            cel(
                "has(self.parentRef) == has(oldSelf.parentRef) && (!has(self.parentRef) || "
                "self.parentRef == oldSelf.parentRef)",
                "a run keeps its parent",
            ),
            cel(
                "has(self.adopted) == has(oldSelf.adopted) && (!has(self.adopted) || self.adopted == oldSelf.adopted)",
                "a run keeps what it was adopted with",
            ),
            cel(
                "oldSelf.desiredState != 'Deleted' || self.desiredState == 'Deleted'",
                "a deleted run stays deleted; clone it to go on",
            ),
        )
    )

    experiment_ref: Annotated[Name, Field(description="The experiment that the run belongs to.")]
    index: Annotated[int, Field(ge=1, description="The run's number in its experiment: the API's run_id.")]
    config: Annotated[FreeForm, Field(description="The config with every knob decided.")]
    desired_state: Annotated[
        DesiredState,
        Field(
            description="Stopped takes effect at the next chunk boundary; Running goes on from there. Deleted ends the "
            "run for good and hides its results; its checkpoints stay."
        ),
    ] = "Running"
    when: Annotated[
        When,
        Field(
            description="When Stopped and Deleted take effect: at the next chunk boundary, or after the current "
            "optimizer step. Nothing is lost either way."
        ),
    ] = "Boundary"
    priority: Annotated[
        int,
        Field(
            ge=-1000,
            le=1000,
            description="Who goes first among the runs whose turn it may be: the highest. It gets at most one chunk "
            "further ahead by it, so that all curves stay comparable; stop the others to let it run alone.",
        ),
    ] = 0
    parent_ref: Annotated[ParentRef | None, Field(description="The run that this one was cloned from.")] = None
    adopted: Annotated[
        Adopted | None,
        Field(
            description="What it had done before its cluster was lost. The operator writes it from the experiment's."
        ),
    ] = None
    requested_by: Annotated[
        str | None,
        Field(
            max_length=256,
            description="Who asked for desiredState last. The API server writes it where the cluster has "
            "MutatingAdmissionPolicies; nobody can claim to be somebody else.",
        ),
    ] = None


class Assignment(Status):
    """Who may work on the run now, and on what. The operator writes it, the fence checks against it."""

    worker: Annotated[Name, Field(description="The worker slot.")]
    pod: Annotated[Name, Field(description="The pod that is in that slot.")]
    pod_uid: Annotated[str, Field(alias="podUID", max_length=64, description="That pod's UID.")]
    process: Annotated[str, Field(max_length=128, description="The process in that pod, by its Lease's holder.")]
    attempt: Annotated[int, Field(ge=1, description="The fencing token: grows with every assignment.")]
    task: Annotated[
        Task,
        Field(
            description="`prepare` loads and measures, `index` builds a RAG index, `chunk` trains or answers a shard."
        ),
    ]
    chunk: Annotated[
        int, Field(ge=PREPARE_CHUNK, description="Which chunk or shard; -1 while it is prepared or indexed.")
    ]
    granted_at: Annotated[Number, Field(description="When it was given, in seconds since the epoch.")]


class RunError(Status):
    """Why an attempt ended without success."""

    reason: Annotated[str, Field(max_length=64, description="One stable CamelCase word.")]
    message: Annotated[Message, Field(description="What happened, with the field and the fix.")]
    blame: Annotated[
        Literal["Run", "Infrastructure"],
        Field(description="Run counts against backoffLimit; Infrastructure (a full disk, say) against nobody."),
    ] = "Run"
    retry: Annotated[
        bool,
        Field(
            description="False means that another try would end alike: the run fails at once, whatever backoffLimit is."
        ),
    ] = True


class Prepared(Status):
    """What preparing the run found out. The worker reports it, the operator keeps it."""

    total_steps: Annotated[
        int, Field(ge=1, description="Optimizer steps of the whole schedule, or rows of the data set.")
    ]
    boundaries: Annotated[
        list[int], Field(max_length=MAX_CHUNKS, description="The step or row at which each chunk or shard ends.")
    ]
    bytes: Annotated[int, Field(ge=0, description="Memory that the run holds while it is resident.")] = 0
    index: Annotated[
        Digest | None,
        Field(description="Mode evals: the digest of the RAG index that the run searches; it is built once for all."),
    ] = None
    index_built: Annotated[bool, Field(description="Whether that index lies on the volume, whole.")] = False


Bound = Annotated[Number | None, Field(description="An end of the interval; none if there is no interval.")]


class Estimate(Status):
    """A metric of an evaluation as it is known after some of the rows, with its confidence interval."""

    value: Annotated[Number, Field(description="The estimate for the whole data set.")]
    lower: Bound = None
    upper: Bound = None
    level: Annotated[Number | None, Field(description="The confidence level, such as 0.95.")] = None
    method: Annotated[
        Annotated[str, Field(max_length=32)] | None, Field(description="How the interval was computed.")
    ] = None


class Progress(Status):
    """What the worker reports; the only key of the status that a worker may write."""

    attempt: Annotated[int, Field(ge=1, description="The attempt that reports.")]
    chunk: Annotated[int, Field(ge=PREPARE_CHUNK, description="The chunk that it is about.")]
    step: Annotated[int, Field(ge=0, description="The optimizer step, or how many rows were answered.")]
    final: Annotated[bool, Field(description="True is the commit: nothing more comes of this attempt.")] = False
    loss: Annotated[ShortText | None, Field(description="The latest training loss, for people.")] = None
    metrics: Annotated[dict[str, Number], Field(max_length=32, description="The latest metrics.")] = {}
    estimates: Annotated[
        dict[str, Estimate],
        Field(max_length=16, description="Mode evals: the user's metrics over all committed shards, by name."),
    ] = {}
    seconds: Annotated[Number | None, Field(description="How long the attempt has computed.")] = None
    checkpoint: Annotated[Checkpoint | None, Field(description="The last committed state.")] = None
    prepared: Annotated[Prepared | None, Field(description="The result of the prepare task.")] = None
    error: Annotated[RunError | None, Field(description="Set with `final` if the attempt failed.")] = None


class ObjectivePoint(Status):
    """The objective at one chunk boundary."""

    chunk: Annotated[int, Field(description="The chunk that ended there.")]
    step: Annotated[int, Field(description="The optimizer step.")]
    value: Annotated[Number, Field(description="The objective's value.")]
    lower: Bound = None
    upper: Bound = None


class Residence(Status):
    """Where the run's session is warm."""

    worker: Annotated[Name, Field(description="The worker slot.")]
    process: Annotated[str, Field(max_length=128, description="The process in it.")]


class Failures(Status):
    """What was held against the run so far."""

    errors: Annotated[int, Field(description="Attempts in which its own code raised.")] = 0
    crashes: Annotated[int, Field(description="Attempts in which it took its worker down.")] = 0
    last_crash: Annotated[
        str, Field(max_length=512, description="How the process ended that the run took down last.")
    ] = ""
    interruptions: Annotated[
        int, Field(description="Attempts in a row that failed without the run's fault; they make the next wait longer.")
    ] = 0
    retry_at: Annotated[
        Number | None, Field(description="Not tried again before this time, in seconds since the epoch.")
    ] = None
    alone: Annotated[
        bool, Field(description="Whether the next try gets a worker for itself, because the last one took it down.")
    ] = False


class Adopted(Resource):
    """What a run had done before its cluster was lost: what its status begins with, and where its files lie."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!has(self.checkpoint) || has(self.runUID) && "
                "self.checkpoint.path.startsWith('experiments/' + self.experimentUID + "
                "'/runs/' + self.runUID + '/')",
                "checkpoint.path lies in the run's own directory: experiments/EXPERIMENTUID/runs/RUNUID",
            )
        )
    )

    experiment_uid: Annotated[
        Uid, Field(alias="experimentUID", description="The experiment's directory: experiments/UID.")
    ]
    run_uid: Annotated[
        Uid | None,
        Field(
            alias="runUID",
            description="The run's directory in that: runs/UID. Its own UID, if it was made after the adoption.",
        ),
    ] = None
    attempt: Annotated[int, Field(ge=0, description="The last attempt that may have written there.")] = 0
    checkpoint: Annotated[Checkpoint | None, Field(description="The last commit that is whole.")] = None
    state: Annotated[
        Literal["Succeeded", "Failed", "Deleted"] | None, Field(description="How it had ended, if it had.")
    ] = None
    error: Annotated[RunError | None, Field(description="Why it had failed.")] = None
    prepared: Annotated[Prepared | None, Field(description="Its steps and boundaries.")] = None
    objective: Annotated[list[ObjectivePoint], Field(max_length=256, description="Its curve up to that commit.")] = []
    objective_metric: Annotated[str | None, Field(max_length=128, description="The metric that the curve shows.")] = (
        None
    )
    pinned: Annotated[list[Checkpoint], Field(max_length=64, description="Commits that warm clones began with.")] = []
    head_start: Annotated[int, Field(ge=0, description="Chunks that count as done in the order of turns.")] = 0
    failures: Annotated[Failures | None, Field(description="What was held against it.")] = None
    stopped_by: Annotated[list[PolicyStop], Field(max_length=16, description="Which policies had stopped it.")] = []


class RunDisplay(Status):
    """Numbers as people read them in columns."""

    chunks: Annotated[ShortText, Field(description="Committed chunks of all.")] = ""
    objective: Annotated[ShortText, Field(description="The latest objective.")] = ""


class RunStatus(Status):
    """What is. The operator writes all of it but `progress`, which the assigned worker writes."""

    state: Annotated[RunState | None, Field(description="The run's state in one word.")] = None
    attempt: Annotated[int, Field(description="The last attempt that was given out; never goes back.")] = 0
    assignment: Annotated[Assignment | None, Field(description="Who works on the run now.")] = None
    prepared: Annotated[Prepared | None, Field(description="Steps and boundaries, once they are known.")] = None
    adopted: Annotated[
        Checkpoint | None,
        Field(description="What an adopted run goes on from, until it has a commit of its own in `progress`."),
    ] = None
    progress: Annotated[Progress | None, Field(description="What the assigned worker reports.")] = None
    objective: Annotated[
        list[ObjectivePoint], Field(max_length=256, description="The comparable curve, one point a chunk.")
    ] = []
    objective_metric: Annotated[str | None, Field(max_length=128, description="The metric that the curve shows.")] = (
        None
    )
    residence: Annotated[Residence | None, Field(description="Where the run's session is warm.")] = None
    pinned: Annotated[
        list[Checkpoint],
        Field(max_length=64, description="Commits that warm clones began with; nobody removes them."),
    ] = []
    head_start: Annotated[
        int,
        Field(
            ge=0,
            description="Chunks that count as done in the order of turns, because the run joined late: it neither "
            "waits for the others nor holds them up.",
        ),
    ] = 0
    failures: Annotated[Failures, Field(description="What was held against the run.")] = Failures()
    stopped_by: Annotated[
        list[PolicyStop], Field(max_length=16, description="Which policies stopped it, and why, the latest last.")
    ] = []
    mlflow_run_id: Annotated[
        str | None, Field(alias="mlflowRunID", max_length=64, description="The run in MLflow.")
    ] = None
    display: Annotated[RunDisplay, Field(description="Columns for people.")] = RunDisplay()
    conditions: Conditions = []

    @property
    def committed(self) -> Checkpoint | None:
        """The last commit: the run's own, or else the one that it was adopted with."""
        own = self.progress.checkpoint if self.progress is not None else None
        return own or self.adopted

    @property
    def step(self) -> int:
        """The step, or how many rows are answered: as reported, and no less than what is committed."""
        reported = self.progress.step if self.progress is not None else 0
        return max(reported, self.committed.step if self.committed is not None else 0)


RunSpec.model_rebuild()  # it names what stands below it


class Run(BaseModel):
    """One config of an experiment, trained chunk by chunk."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    metadata: ObjectMeta = ObjectMeta()
    spec: RunSpec
    status: RunStatus = RunStatus()

    @property
    def volume_uid(self) -> str:
        """The UID that its files lie under: its own, or the one of before it was adopted."""
        before = self.spec.adopted.run_uid if self.spec.adopted is not None else None
        return before or self.metadata.uid

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> Run:
        """Parse an object of the API server; fields of a newer version of the resource are passed over.

        Raises:
            pydantic.ValidationError: If the object is not a Run.
        """
        return cls.model_validate(body, extra="ignore")


def run_name(experiment: str, index: int) -> str:
    """Return the name of an experiment's run: `<experiment>-r<index>`."""
    return f"{experiment}-r{index}"


def worker_name(experiment: str, slot: int) -> str:
    """Return the name of an experiment's worker slot: `<experiment>-w-<slot>`."""
    return f"{experiment}-w-{slot}"
