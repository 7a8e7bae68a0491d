"""What the volume service is told by its environment."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rapidfireai_worker.settings import PodSettings


class VolumeSettings(PodSettings):
    """What the volume service knows of itself.

    Attributes:
        port: Where it is served.
        mlflow_url: The MLflow server that is fed; empty for none.
        max_bundle_bytes: The largest code bundle that is taken.
        max_dataset_bytes: The largest data set that is taken.
        cleanup_seconds: How often the volume is looked through for what nobody needs.
        keep_deleted_days: How long the files of a deleted experiment stay.
        keep_unused_days: How long a bundle, data set or index stays that no resource names and nobody uses.
    """

    port: Annotated[int, Field(validation_alias="RAPIDFIRE_PORT", ge=0, le=65535)] = 8854
    mlflow_url: Annotated[str, Field(validation_alias="RAPIDFIRE_MLFLOW_URL")] = ""
    max_bundle_bytes: Annotated[int, Field(validation_alias="RAPIDFIRE_MAX_BUNDLE_BYTES", gt=0)] = 1 << 30
    max_dataset_bytes: Annotated[int, Field(validation_alias="RAPIDFIRE_MAX_DATASET_BYTES", gt=0)] = 50 << 30
    cleanup_seconds: Annotated[float, Field(validation_alias="RAPIDFIRE_CLEANUP_SECONDS", gt=0)] = 300.0
    keep_deleted_days: Annotated[float, Field(validation_alias="RAPIDFIRE_KEEP_DELETED_DAYS", ge=0)] = 7.0
    keep_unused_days: Annotated[float, Field(validation_alias="RAPIDFIRE_KEEP_UNUSED_DAYS", ge=0)] = 30.0
