"""The custom resources as pydantic models: the one source of `crds/`, the reference and the forms."""

from rapidfireai.api.base import API_VERSION, GROUP, VERSION, Condition, ObjectMeta
from rapidfireai.api.experiment import Experiment, ExperimentSpec, ExperimentStatus
from rapidfireai.api.icop import ICOp, ICOpSpec, ICOpStatus
from rapidfireai.api.run import Run, RunSpec, RunStatus, run_name, worker_name

__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "Condition",
    "Experiment",
    "ExperimentSpec",
    "ExperimentStatus",
    "ICOp",
    "ICOpSpec",
    "ICOpStatus",
    "ObjectMeta",
    "Run",
    "RunSpec",
    "RunStatus",
    "run_name",
    "worker_name",
]
