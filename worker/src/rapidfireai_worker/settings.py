"""What the worker's process is told by its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from kubernetes.utils import parse_quantity
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

Settings = TypeVar("Settings", bound=BaseSettings)


class EnvironmentProblem(Exception):  # noqa: N818 - it is shown to the person who wrote the manifest
    """The environment is incomplete or wrong; the message names each variable and what is the matter with it."""


def _bytes(value: object) -> object:
    """Read a quantity as Kubernetes writes it, such as 20Gi."""
    return int(parse_quantity(value)) if isinstance(value, str) else value


class PodSettings(BaseSettings):
    """What every pod of this project knows of itself.

    Attributes:
        pod_name: The pod's name, from the downward API.
        pod_namespace: The workspace.
        pod_ip: Where it listens.
    """

    model_config = SettingsConfigDict(extra="ignore")

    pod_name: Annotated[str, Field(validation_alias="POD_NAME", min_length=1)]
    pod_namespace: Annotated[str, Field(validation_alias="POD_NAMESPACE", min_length=1)]
    pod_ip: Annotated[str, Field(validation_alias="POD_IP", min_length=1)]
    volume: Annotated[Path, Field(validation_alias="RAPIDFIRE_VOLUME")]


class WorkerSettings(PodSettings):
    """What a worker knows of itself.

    Attributes:
        experiment: The name of the experiment that it works for.
        slot: The name of its worker slot, which is also its Lease's.
        mode: What the experiment does, which decides on the engine.
        volume_url: Where the volume service is; empty if nobody says.
        claims: Where the claims are mounted that `pvc://` may name.
        port: Where `/metrics` is served.
        threads: Compute threads, from the CPU limit.
        lease_seconds: How long the Lease lives without a renewal.
        grace_seconds: How long it may take to commit and leave after SIGTERM.
        hang_seconds: The shortest silence of a chunk that can be a hang; 0 for never.
        memory_limit: What the container may take of main memory, in bytes; 0 if nobody says.
        memory_budget: What warm sessions and all else may hold, in bytes; 0 for what is measured.
        code: The Python source of the experiment's ConfigMap, if it names one.
    """

    experiment: Annotated[str, Field(validation_alias="RAPIDFIRE_EXPERIMENT", min_length=1)]
    slot: Annotated[str, Field(validation_alias="RAPIDFIRE_WORKER", min_length=1)]
    mode: Annotated[Literal["fit", "evals"], Field(validation_alias="RAPIDFIRE_MODE")] = "fit"
    volume_url: Annotated[str, Field(validation_alias="RAPIDFIRE_VOLUME_URL")] = ""
    claims: Annotated[dict[str, Path], Field(validation_alias="RAPIDFIRE_CLAIMS")] = {}
    port: Annotated[int, Field(validation_alias="RAPIDFIRE_PORT", ge=0, le=65535)] = 9091
    threads: Annotated[int, Field(validation_alias="OMP_NUM_THREADS", ge=1)] = 1
    lease_seconds: Annotated[int, Field(validation_alias="RAPIDFIRE_LEASE_SECONDS", ge=3)] = 30
    grace_seconds: Annotated[float, Field(validation_alias="RAPIDFIRE_GRACE_SECONDS", gt=0)] = 25.0
    hang_seconds: Annotated[float, Field(validation_alias="RAPIDFIRE_HANG_SECONDS", ge=0)] = 1800.0
    memory_limit: Annotated[int, Field(validation_alias="RAPIDFIRE_MEMORY_LIMIT", ge=0)] = 0
    memory_budget: Annotated[int, BeforeValidator(_bytes), Field(validation_alias="RAPIDFIRE_MEMORY_BUDGET", ge=0)] = 0
    code: Annotated[str | None, Field(validation_alias="RAPIDFIRE_CODE")] = None


def load(kind: type[Settings]) -> Settings:
    """Read settings from the environment.

    Raises:
        EnvironmentProblem: If a variable is missing or wrong.
    """
    try:
        return kind()
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise EnvironmentProblem("set these environment variables right: " + "; ".join(lines)) from error
    except SettingsError as error:  # a JSON value that is not JSON
        raise EnvironmentProblem(f"{_variable_of(kind, error)}: it must be JSON, {error.__cause__}") from error


def _variable_of(kind: type[BaseSettings], error: SettingsError) -> str:
    """Return which variable a SettingsError is about; it names the field in quotes."""
    for name, field in kind.model_fields.items():
        if f'"{name}"' in str(error):
            return str(field.validation_alias)
    return str(error)
