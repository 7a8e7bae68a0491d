"""The Experiment resource: many configs of one task, and the workers that share them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from rapidfireai.api.adoption import Adoption
from rapidfireai.api.base import (
    Conditions,
    FreeForm,
    Name,
    Number,
    ObjectMeta,
    Resource,
    ShortText,
    Status,
    cel,
    validations,
)
from rapidfireai.api.code import Code
from rapidfireai.api.data import Data
from rapidfireai.api.policies import Policies, PolicyRecord, Usage
from rapidfireai.api.workers import Workers

Trainer = Literal["SFT", "DPO", "GRPO"]
MAX_RUNS = 10_000
"""How many runs one experiment may have unless it says otherwise."""
MOST_RUNS = 100_000
"""How many runs an experiment can allow itself at most."""
MAX_SHARDS = 4096
"""How many shards an evaluation may have: as many as a run may have chunks."""


Strategy = Literal["grid", "random"]
Mode = Literal["fit", "evals"]


class ConfigGroup(Resource):
    """One template of configs; its knobs are expanded into runs."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "self.strategy != 'random' || has(self.numRuns)",
                "strategy random needs numRuns: how many runs to draw",
            ),
            cel(
                "self.strategy == 'random' || (!has(self.numRuns) && !has(self.seed))",
                "numRuns and seed belong to strategy random; a grid takes every combination: leave them out",
            ),
        )
    )

    strategy: Annotated[
        Strategy,
        Field(description="How knobs become runs: `grid` takes every combination, `random` draws numRuns of them."),
    ] = "grid"
    num_runs: Annotated[
        int | None, Field(ge=1, le=MOST_RUNS, description="How many different runs `random` draws.")
    ] = None
    seed: Annotated[
        int | None, Field(ge=0, le=2**32 - 1, description="The seed that `random` draws with; 42 if left out.")
    ] = None
    trainer: Annotated[
        Trainer | None,
        Field(description="Which trainer of TRL runs the configs of this group; only with mode fit, and always there."),
    ] = None
    config: Annotated[
        FreeForm,
        Field(
            description=(
                "The config, with the Python API's own names. With mode fit: model_name, tokenizer, tokenizer_kwargs, "
                "model_type, model_kwargs, peft_config, training_args, formatting_func, compute_metrics, "
                "generation_config, for DPO ref_model_name, ref_model_type, ref_model_kwargs, for GRPO reward_funcs. "
                "With mode evals: vllm_config or api_config, batch_size, preprocess_fn, postprocess_fn, "
                "compute_metrics_fn, accumulate_metrics_fn, online_strategy_kwargs. "
                'A knob is written {"$list": [...]}, or for `random` {"$range": {"start": ..., "end": ...}}; '
                'several configs {"$list": [{...}, {...}]}.'
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
                "The metric that ranks runs. Mode fit: `eval_loss` is measured at every chunk boundary; without an "
                "eval set the mean training loss of the chunk takes its place. Mode evals: a metric that the runs "
                "report, such as Accuracy; runs are not ranked as long as it is eval_loss."
            ),
        ),
    ] = "eval_loss"
    direction: Annotated[Literal["minimize", "maximize"], Field(description="Which way is better.")] = "minimize"


class Storage(Resource):
    """The shared volume."""

    claim_name: Annotated[
        Name | None,
        Field(description="The PersistentVolumeClaim for checkpoints; the workspace's by default."),
    ] = None


class Retention(Resource):
    """Which checkpoints of a run stay on the volume; the last commit always does, whatever it says."""

    keep_last: Annotated[int, Field(ge=1, le=1000, description="How many of the latest commits are kept.")] = 1
    keep_best: Annotated[
        bool, Field(description="Whether the commit with the best objective is kept too, however old it is.")
    ] = True


class ExperimentSpec(Resource):
    """What the user wants."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("self.mode == oldSelf.mode", "mode is fixed once the experiment exists; make a new experiment"),
            cel(
                "self.mode == 'evals' || self.configs.all(each, has(each.trainer))",
                "mode fit needs trainer in every entry of configs: SFT, DPO or GRPO",
            ),
            cel(
                "self.mode == 'fit' || self.configs.all(each, !has(each.trainer))",
                "mode evals trains nothing; leave trainer out of configs, or write mode: fit",
            ),
            cel("self.mode == 'evals' || has(self.data.train)", "mode fit needs data.train: the rows to train on"),
            cel(
                "self.mode == 'fit' || (has(self.data.eval) && !has(self.data.train))",
                "mode evals needs data.eval, the rows that runs answer, and no data.train",
            ),
            cel("self.mode == 'evals' || !has(self.data.documents)", "data.documents belongs to mode evals"),
            cel("self.shards == oldSelf.shards", "shards is fixed once the experiment exists; make a new experiment"),
            cel("self.seed == oldSelf.seed", "seed is fixed once the experiment exists; make a new experiment"),
            cel(
                "self.chunks == oldSelf.chunks",
                "chunks is fixed once the experiment exists; make a new experiment",
            ),
            cel(
                "self.configs == oldSelf.configs",
                "configs are fixed once the experiment exists; make a new experiment",
            ),
            cel(
                "self.maxRuns >= oldSelf.maxRuns",
                "maxRuns can be raised but not lowered once the experiment exists; stop the runs that are too many",
            ),
            cel("self.data == oldSelf.data", "data is fixed once the experiment exists; make a new experiment"),
            cel(
                "has(self.code) == has(oldSelf.code) && (!has(self.code) || self.code == oldSelf.code)",
                "code is fixed once the experiment exists; make a new experiment",
            ),
            cel(
                "has(self.adopted) == has(oldSelf.adopted) && (!has(self.adopted) || self.adopted == oldSelf.adopted)",
                "adopted is fixed once the experiment exists; make a new experiment",
            ),
        )
    )

    display_name: Annotated[
        str | None,
        Field(max_length=256, description="What the user called it; the object's name is a slug of it."),
    ] = None
    mode: Annotated[
        Mode,
        Field(description="What the runs do: `fit` fine-tunes, `evals` answers the rows of data.eval and scores them."),
    ] = "fit"
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="The seed of every run that names none.")] = 42
    suspend: Annotated[
        bool,
        Field(
            description="True lets every worker commit at its next step and leave, and gives out nothing new; false "
            "goes on from there, bit for bit. Nothing is lost, and runs can be steered meanwhile."
        ),
    ] = False
    ttl_seconds_after_finished: Annotated[
        int | None,
        Field(
            ge=0,
            le=2**31 - 1,
            description="So many seconds after condition Finished became True the experiment is deleted with its runs; "
            "its files go as those of any deleted experiment. Stopped runs do not keep it. Kept if left out.",
        ),
    ] = None
    configs: Annotated[
        list[ConfigGroup],
        Field(min_length=1, max_length=64, description="The templates that expand into runs."),
    ]
    max_runs: Annotated[
        int,
        Field(
            ge=1,
            le=MOST_RUNS,
            description=(
                "How many runs the configs may make; more are refused, because a knob too many is easily written. "
                "Administrators limit a namespace with a ResourceQuota on count/runs.rapidfire.ai."
            ),
        ),
    ] = MAX_RUNS
    objective: Annotated[Objective, Field(description="What makes one run better than another.")] = Objective()
    chunks: Annotated[int, Field(ge=1, le=1000, description="Mode fit: how many chunks one epoch is cut into.")] = 4
    shards: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_SHARDS,
            description="Mode evals: how many shards data.eval is cut into. Each is a random sample of the rows, drawn "
            "with seed, the same for every run; runs are compared after each.",
        ),
    ] = 4
    evaluate_at_boundaries: Annotated[
        bool, Field(description="Whether each run is evaluated at every chunk boundary, out of band.")
    ] = True
    data: Annotated[Data, Field(description="The data sets.")]
    code: Annotated[Code | None, Field(description="The user's Python functions.")] = None
    workers: Annotated[Workers, Field(description="The workers.")] = Workers()
    storage: Annotated[Storage, Field(description="The shared volume.")] = Storage()
    retention: Annotated[Retention, Field(description="Which checkpoints stay on the volume.")] = Retention()
    backoff_limit: Annotated[
        int, Field(ge=0, le=100, description="How often a run is tried again after its own code raised.")
    ] = 0
    crash_limit: Annotated[
        int, Field(ge=0, le=100, description="How often a run is tried again after it took its worker down.")
    ] = 2
    policies: Policies = []
    adopted: Annotated[
        Adoption | None,
        Field(description="What a lost cluster has left of it on the volume; `rapidfireai adopt` writes it."),
    ] = None


class RunCounts(Status):
    """How many runs are in which state."""

    total: Annotated[int, Field(description="All runs but the deleted ones.")] = 0
    active: Annotated[int, Field(description="Runs that can still go on without anybody's help.")] = 0
    pending: Annotated[int, Field(description="Runs that have not begun.")] = 0
    running: Annotated[int, Field(description="Runs under way.")] = 0
    stopped: Annotated[int, Field(description="Runs that a user stopped; they can be resumed.")] = 0
    succeeded: Annotated[int, Field(description="Runs that reached their last step.")] = 0
    failed: Annotated[int, Field(description="Runs that cannot go on.")] = 0
    deleted: Annotated[int, Field(description="Runs that were deleted and are kept as a record; not in the total.")] = 0


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
        Literal["Pending", "Refused", "Running", "Suspended", "Stopped", "Succeeded", "Failed"] | None,
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
    policies: Annotated[list[PolicyRecord], Field(max_length=64, description="What the policies decided so far.")] = []
    usage: Annotated[Usage, Field(description="What the experiment has used.")] = Usage()
    ml_flow_experiment_id: Annotated[
        str | None, Field(alias="mlflowExperimentID", max_length=64, description="The experiment in MLflow.")
    ] = None
    conditions: Conditions = []


class Experiment(BaseModel):
    """An experiment: many configs of one task, trained or evaluated side by side, chunk by chunk."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    metadata: ObjectMeta = ObjectMeta()
    spec: ExperimentSpec
    status: ExperimentStatus = ExperimentStatus()

    @property
    def volume_uid(self) -> str:
        """The UID that its files lie under: its own, or the one of before it was adopted."""
        return self.spec.adopted.uid if self.spec.adopted is not None else self.metadata.uid

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> Experiment:
        """Parse an object of the API server; fields of a newer version of the resource are passed over.

        Raises:
            pydantic.ValidationError: If the object is not an Experiment.
        """
        return cls.model_validate(body, extra="ignore")
