"""The token with which the user of a local cluster speaks to its gateway."""

from __future__ import annotations

from pathlib import Path

from rapidfireai.cluster.readiness import Kubectl
from rapidfireai.cluster.values import WORKSPACE
from rapidfireai.errors import RapidFireError

USER_ACCOUNT = "rapidfire-user"
"""The account of the workspace that the token is for: what it may do is what users may do."""
DAYS = 30


def renew(kubectl: Kubectl, path: Path) -> None:
    """Write a new token that is good for `DAYS`.

    Args:
        kubectl: Acts as the cluster's administrator.
        path: Where it is kept, for its owner alone to read.

    Raises:
        RapidFireError: If the API server gives none.
    """
    words = ("create", "token", USER_ACCOUNT, "--namespace", WORKSPACE, f"--duration={24 * DAYS}h")
    answer = kubectl(*words)
    if answer.returncode != 0:
        raise RapidFireError(f"no token for {USER_ACCOUNT}: {answer.stderr.strip()}")
    store(answer.stdout.strip(), path)


def store(token: str, path: Path) -> None:
    """Replace the token that is kept; at no moment is there half of one, or one that others may read."""
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600, exist_ok=False)
    unfinished.write_text(token)
    unfinished.rename(path)
