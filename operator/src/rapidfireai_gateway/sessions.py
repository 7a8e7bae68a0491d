"""Who is logged in: one-time login codes, and sessions that stand for a token.

A browser holds the session's id and never the token. Nothing is written to a disk: a
new process means logging in again.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

from cachetools import TTLCache

COOKIE = "rapidfire_session"
"""The cookie that holds a session's id."""
_MOST = 10_000


class Sessions:
    """The logins of one process. Codes and ids are kept as digests, so that a dump of the memory logs nobody in.

    Args:
        session_seconds: How long a session lives.
        link_seconds: How long a login code can be used.
        clock: Seconds that never go back.
    """

    def __init__(
        self, session_seconds: float, link_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.session_seconds = session_seconds
        self.link_seconds = link_seconds
        self._codes: TTLCache[str, str] = TTLCache(_MOST, link_seconds, clock)
        self._sessions: TTLCache[str, str] = TTLCache(_MOST, session_seconds, clock)

    def new_code(self, token: str) -> str:
        """Return a code that logs in as the owner of `token`, once and soon."""
        code = secrets.token_urlsafe(32)
        self._codes[_digest(code)] = token
        return code

    def redeem(self, code: str) -> str | None:
        """Return the id of a new session for a code; None if the code was used, is too old, or never was."""
        token: str | None = self._codes.pop(_digest(code), None)
        return None if token is None else self.open(token)

    def open(self, token: str) -> str:
        """Return the id of a new session that stands for `token`."""
        session = secrets.token_urlsafe(32)
        self._sessions[_digest(session)] = token
        return session

    def token(self, session: str) -> str | None:
        """Return the token that a session stands for; None if it is over, or never was."""
        token: str | None = self._sessions.get(_digest(session))
        return token

    def close(self, session: str) -> None:
        """Log out; a session that is over already is none to worry about."""
        self._sessions.pop(_digest(session), None)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
