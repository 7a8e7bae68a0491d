"""What the worker's process asks of whatever computes: the contract between the bus and a fit session."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rapidfireai.api.run import Checkpoint, Estimate, ParentRef, Prepared
from rapidfireai_worker.layout import RunDirectory, Volume

HOPELESS = frozenset(
    {
        "BaseDiffers",
        "InvalidBatch",
        "InvalidConfig",
        "InvalidMetric",
        "NonFiniteLoss",
        "OutOfMemory",
        "ShapesDiffer",
        "UnsupportedArgument",
    }
)
"""Reasons of failures that another try, which replays the same steps, would repeat."""
LogKind = Literal["log", "boundary", "shard"]
"""`log` is what the trainer itself logs, `boundary` the evaluation at a chunk's end or where a warm clone begins,
`shard` what an evaluation has estimated after a shard."""


class RunFailure(Exception):  # noqa: N818 - it is an outcome, not an error
    """An attempt cannot succeed, for a reason that a person can act on.

    Args:
        reason: One stable CamelCase word.
        message: What happened, with the field and the fix; at most 4096 characters are shown.
        blame: `Run` counts against backoffLimit, `Infrastructure` against nobody.
    """

    def __init__(self, reason: str, message: str, blame: Literal["Run", "Infrastructure"] = "Run") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.blame = blame

    @property
    def retry(self) -> bool:
        """Whether another try may end otherwise."""
        return self.blame == "Infrastructure" or self.reason not in HOPELESS


class Discarded(Exception):  # noqa: N818 - it is an outcome, not an error
    """The run was taken away while its chunk was under way; nothing of the chunk may be kept."""


@dataclass(frozen=True, slots=True)
class DataRef:
    """A data set by URI; split, configuration and revision are of an `hf://` one."""

    uri: str
    split: str = "train"
    config: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class RunJob:
    """All that a worker must know of a run to work on it.

    Attributes:
        experiment_uid: The UID that the experiment's files lie under.
        run_uid: The run's own UID.
        volume_uid: The UID that its files lie under, if that is another one: it was adopted.
        config: The expanded leaf: trainer_type, model_name, training_args, peft_params and so on.
        seed: The experiment's seed; `training_args.seed` goes before it.
        mode: `fit` or `evals`; decides which engine it is for.
        chunks: Chunks an epoch (fit).
        shards: Shards of the data set (evals).
        train: The rows to train on (fit).
        eval: The rows to evaluate on; in evals those that the run answers.
        documents: The documents of a rag without a loader of its own (evals).
        adapter: The last commit of the run whose adapter is evaluated (evals): `vllm_config.adapter` names it.
        checkpoint: The last committed state, or None at step 0.
        parent: The run that this one was cloned from, with the checkpoint that a warm clone begins with.
        keep_last: How many of the latest commits stay on the volume.
        best_first: Steps of earlier boundaries, the best one first; the first that is there stays too.
        bundle: The digest of the code bundle, or None for plain YAML.
        resident_bytes: What preparing the run found that it holds while it is resident; 0 before.
        source: The Python source of plain YAML, or None.
        source_name: Where the source stands, for messages and tracebacks.
        create_model: The function that makes the model, as `name` of the source or `module:name`; a bundle has its own.
    """

    namespace: str
    experiment: str
    experiment_uid: str
    run: str
    run_uid: str
    attempt: int
    config: Mapping[str, Any]
    seed: int
    chunks: int = 1
    train: DataRef | None = None
    eval: DataRef | None = None
    mode: Literal["fit", "evals"] = "fit"
    shards: int = 1
    documents: DataRef | None = None
    adapter: Checkpoint | None = None
    evaluate_at_boundaries: bool = True
    checkpoint: Checkpoint | None = None
    parent: ParentRef | None = None
    keep_last: int = 1
    best_first: tuple[int, ...] = ()
    bundle: str | None = None
    bundle_python: str | None = None
    resident_bytes: int = 0
    source: str | None = None
    source_name: str = "spec.code.source"
    create_model: str | None = None
    volume_uid: str = ""

    def directory(self, volume: Volume) -> RunDirectory:
        """Return where its files lie."""
        return volume.run(self.experiment_uid, self.volume_uid or self.run_uid)

    @property
    def code(self) -> str | None:
        """The sha256 of the code that the run's functions come from: its bundle's or its source's."""
        if self.source is None:
            return self.bundle
        return hashlib.sha256(self.source.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Answered:
    """A batch of an evaluation that was answered, for the accounts.

    Attributes:
        rows: How many rows it has.
        failed: How many of them have no answer.
        prompt_tokens: Tokens that were read.
        completion_tokens: Tokens that were written.
        seconds: From asking to the last answer.
    """

    rows: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ChunkControl:
    """How a running chunk is steered, and how it reports. Every callback is cheap and thread-safe.

    Attributes:
        park: Once set, the chunk ends after the current optimizer step, or the batches under way, lossless (SIGTERM,
            `when: Immediate`).
        discard: Once set, the chunk ends after the current optimizer step, an evaluation at once, by raising
            `Discarded`.
        report: Called with (step, latest metrics) after optimizer steps that logged, and at least every second.
        log: Called with (kind, sequence, step, values) for every line that goes to the run's log. The pair
            (kind, sequence) names the line for ever: a replay logs the same pair again and it is ignored.
        pinned: Returns the paths of the run's checkpoints that somebody began with: they are never removed.
        estimate: Called with what an evaluation estimates so far, before the `report` that goes with it.
        answered: Called after each batch that an evaluation answered.
        alive: Called when something came forward that no report shows: the chunk does not hang.
    """

    park: threading.Event = field(default_factory=threading.Event)
    discard: threading.Event = field(default_factory=threading.Event)
    report: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None
    log: Callable[[LogKind, int, int, Mapping[str, float]], None] = lambda kind, sequence, step, values: None
    pinned: Callable[[], frozenset[str]] = frozenset
    estimate: Callable[[Mapping[str, Estimate]], None] = lambda estimates: None
    answered: Callable[[Answered], None] = lambda batch: None
    alive: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class ChunkOutcome:
    """A chunk that was computed and is not durable yet.

    Attributes:
        step: The optimizer step that was reached; less than the boundary if it was parked.
        metrics: At most 32 latest values, `chunk/loss` and `boundary/eval_loss` among them.
        loss: The latest training loss, or None if none was logged yet.
        seconds: How long it computed.
        persist: Writes the checkpoint durably and returns it. May run in another thread while the next chunk of
            another run computes. Raises `RunFailure` (reason StorageFull, blame Infrastructure) on a full disk.
        estimates: The metrics of an evaluation over all its committed shards and this one.
    """

    step: int
    metrics: Mapping[str, float]
    loss: float | None
    seconds: float
    persist: Callable[[], Checkpoint]
    estimates: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What an engine holds in memory, in bytes.

    Attributes:
        residents: What leaves with each warm session, by the run's UID.
        used: What the process holds altogether, where models are.
        budget: What it may hold there; sessions leave before it holds more.
        evictions: How many sessions had to leave so far, to make room.
    """

    residents: Mapping[str, int]
    used: int = 0
    budget: int = 0
    evictions: int = 0


class Engine(Protocol):
    """Computes chunks. All methods are blocking and are called from one thread, never concurrently."""

    def prepare(self, job: RunJob) -> Prepared:
        """Load, tokenise and measure the run; keep it resident.

        Raises:
            RunFailure: If the run cannot be built, naming the field and the fix.
        """
        ...

    def build_index(self, job: RunJob, control: ChunkControl) -> Prepared:
        """Build the RAG index that the run searches, or find that it was built meanwhile; tell how far it is.

        Progress goes to `control.report(0, {"Documents Indexed": ..., "Documents": ...})`, the second once it is known.

        Returns:
            What `prepare` returned, with `index_built` true.

        Raises:
            RunFailure: If documents cannot be loaded, split or embedded, naming the field and the fix.
                With blame Infrastructure if `control.park` was set: nothing of a part of an index can be kept.
            Discarded: If `control.discard` was set.
        """
        ...

    def run_chunk(self, job: RunJob, chunk: int, control: ChunkControl) -> ChunkOutcome:
        """Run the rest of chunk `chunk`, from the resident session or else from `job.checkpoint`.

        Raises:
            RunFailure: If the run's own code or data failed, or its state could not be read.
            Discarded: If `control.discard` was set.
        """
        ...

    def evict(self, run_uid: str) -> None:
        """Drop the run's session and free its memory; unknown runs are ignored."""
        ...

    def holdings(self) -> Holdings:
        """Return what is held in memory now."""
        ...
