"""The PersistentVolumeClaims that one experiment names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rapidfireai_operator.adapters.kubernetes import Api, ApiError

MOUNT_ANNOTATION = "rapidfire.ai/mount-path"
"""On a PersistentVolumeClaim: where workers mount it; `/claims/<name>` without it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What matters of a claim.

    Attributes:
        modes: Its access modes.
        mount_path: Where workers mount it.
    """

    modes: tuple[str, ...]
    mount_path: str


def default_path(name: str) -> str:
    """Return where a claim is mounted that does not say it."""
    return f"/claims/{name}"


class Claims:
    """Remembers claims; one that is not there is asked for again at the next look."""

    def __init__(self) -> None:
        self._known: dict[str, Claim] = {}

    async def look(self, api: Api, namespace: str, names: Iterable[str]) -> Mapping[str, Claim]:
        """Return those of the claims that are there; pods say of the others that they are missing, and wait for them.

        Raises:
            ApiError: If the API server does not answer.
        """
        for name in sorted(set(names) - set(self._known)):
            try:
                body = await api.get("persistentvolumeclaims", namespace, name)
            except ApiError as error:
                if not error.refused:
                    raise
                continue
            annotations = body["metadata"].get("annotations") or {}
            path = str(annotations.get(MOUNT_ANNOTATION, default_path(name)))
            self._known[name] = Claim(tuple(body["spec"].get("accessModes") or ()), path)
        return self._known
