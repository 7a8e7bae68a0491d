"""What the operator is told by its environment; the chart sets all of it."""

from __future__ import annotations

import socket
import uuid
from functools import cached_property
from typing import Annotated, Any

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rapidfireai.service import Namespaces
from rapidfireai_operator.core.jobs import WorkerDefaults
from rapidfireai_operator.core.outcome import Rules


def _own_name() -> str:
    """Return a name that no other process has, for an operator outside a pod."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"


class Settings(BaseSettings):
    """The operator's settings, from environment variables `RAPIDFIRE_*`."""

    model_config = SettingsConfigDict(env_prefix="RAPIDFIRE_", frozen=True, extra="ignore")

    namespaces: Namespaces
    mlflow_url: str = ""
    worker_image: str = "rapidfireai/worker:latest"
    worker_resources: dict[str, Any] = {}
    worker_pod: dict[str, Any] = {}
    queue_name: str = ""
    claim_name: str = "rapidfire-data"
    mount_path: str = "/rapidfire"
    worker_idle_seconds: Annotated[float, Field(ge=0)] = 300.0
    lease_seconds: Annotated[int, Field(ge=1)] = 30
    allow_file_uris: bool = False
    port: int = 9090
    health_port: int = 8081
    resync_seconds: Annotated[float, Field(gt=0)] = 60.0
    lease_namespace: str = ""
    leader_seconds: Annotated[float, Field(ge=1)] = 10.0
    pod_name: Annotated[str, Field(validation_alias=AliasChoices("POD_NAME"), default_factory=_own_name)]
    address: Annotated[str, Field(validation_alias=AliasChoices("POD_IP"))] = "127.0.0.1"

    @cached_property
    def rules(self) -> Rules:
        """What decisions depend on."""
        return Rules(
            defaults=WorkerDefaults(
                image=self.worker_image,
                resources=self.worker_resources,
                claim=self.claim_name,
                mount_path=self.mount_path,
                lease_seconds=self.lease_seconds,
                queue_name=self.queue_name,
                pod=self.worker_pod,
            ),
            lease_seconds=float(self.lease_seconds),
            idle_seconds=self.worker_idle_seconds,
            allow_file_uris=self.allow_file_uris,
        )
