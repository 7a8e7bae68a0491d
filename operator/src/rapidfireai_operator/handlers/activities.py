"""The operator's start, its login, and its end."""

from __future__ import annotations

from typing import Any, cast

import kopf

from rapidfireai.api.base import EXPERIMENT_LABEL
from rapidfireai_operator.operator import Operator

WATCH_SECONDS = 240
"""The API server ends a watch after this; it is begun again at once."""
SILENCE_SECONDS = 100.0
"""A watch without even a bookmark for so long is broken."""


class NothingKept(kopf.DiffBaseStorage):
    """Spares the copy of every object that kopf compares the next one with: nothing here asks what differs."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return that there is nothing to compare."""
        return cast(kopf.BodyEssence, {})

    def fetch(self, **_: Any) -> None:
        """Return that nothing was kept."""

    def store(self, **_: Any) -> None:
        """Keep nothing."""


@kopf.on.startup()
async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Keep kopf to watching: it writes nothing, neither events nor annotations, and scans nothing."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.persistence.finalizer = "rapidfire.ai/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="rapidfire.ai")
    settings.persistence.diffbase_storage = NothingKept()
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    settings.watching.connect_timeout = 10.0
    settings.networking.request_timeout = 30.0
    for group, plural in (("batch", "jobs"), ("", "pods"), ("coordination.k8s.io", "leases")):
        settings.watching.label_selectors[group, "v1", plural] = EXPERIMENT_LABEL


@kopf.on.startup(errors=kopf.ErrorsMode.PERMANENT)
async def start(memo: kopf.Memo, **_: Any) -> None:
    """Connect, wait until the resources are there, and start what runs besides the watches."""
    await cast(Operator, memo.operator).start()


@kopf.on.login()
async def login(memo: kopf.Memo, **_: Any) -> kopf.AiohttpSession:
    """Let kopf use a session whose token is re-read."""
    server, session = await cast(Operator, memo.operator).log_in()
    return kopf.AiohttpSession(server=server, aiohttp_session=session)


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """End what runs besides the watches."""
    await cast(Operator, memo.operator).stop()
