"""What the gateway is told by its environment; the chart sets all of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rapidfireai.service import Namespaces


class Settings(BaseSettings):
    """The gateway's settings, from environment variables `RAPIDFIRE_*`.

    Attributes:
        namespaces: The workspaces that it serves.
        address: The address that both ports listen on.
        ca: The certificate of the cluster's authority as PEM; that of the pod's service account if empty.
        gateway_url: The REST API as browsers reach it.
        dashboard_url: The dashboard as browsers reach it.
        metrics_port: Where Prometheus reads `/metrics`, without a login.
        forwarded_token_header: The header in which a proxy in front forwards the user's token; empty trusts none.
        requests_per_second: How many requests one caller may make in the long run.
        burst: How many they may make at once.
        max_body_bytes: The largest body of a request, uploads aside.
        max_feeds: How many experiments may be watched at once, counted once for each caller.
        feed_idle_seconds: How long an experiment is watched after its last watcher left.
        session_seconds: How long a browser stays logged in.
        link_seconds: How long a login link can be used.
    """

    model_config = SettingsConfigDict(env_prefix="RAPIDFIRE_", frozen=True, extra="ignore")

    namespaces: Namespaces
    server_host: Annotated[str, Field(validation_alias=AliasChoices("KUBERNETES_SERVICE_HOST"), min_length=1)]
    server_port: Annotated[int, Field(validation_alias=AliasChoices("KUBERNETES_SERVICE_PORT"))] = 443
    address: Annotated[str, Field(validation_alias=AliasChoices("RAPIDFIRE_LISTEN", "POD_IP"))] = "127.0.0.1"
    port: int = 8851
    dashboard_port: int = 8853
    metrics_port: int = 9092
    ca: str = ""
    mlflow_url: str = ""
    gateway_url: str = ""
    dashboard_url: str = ""
    forwarded_token_header: str = ""
    requests_per_second: Annotated[float, Field(gt=0)] = 50.0
    burst: Annotated[int, Field(ge=1)] = 200
    max_body_bytes: Annotated[int, Field(ge=1024)] = 2 * 1024 * 1024
    max_feeds: Annotated[int, Field(ge=1)] = 128
    feed_idle_seconds: Annotated[float, Field(ge=0)] = 15.0
    session_seconds: Annotated[float, Field(gt=0)] = 12 * 3600.0
    link_seconds: Annotated[float, Field(gt=0)] = 120.0

    @property
    def server(self) -> str:
        """The API server's address."""
        host = f"[{self.server_host}]" if ":" in self.server_host else self.server_host
        return f"https://{host}:{self.server_port}"

    @property
    def public_dashboard_url(self) -> str:
        """The dashboard as browsers reach it, without a slash at the end."""
        return (self.dashboard_url or f"http://127.0.0.1:{self.dashboard_port}").rstrip("/")
